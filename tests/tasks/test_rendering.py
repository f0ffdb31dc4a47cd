"""Documents as text: the text is complete, and signs are exactly where token labels start and end."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.batch import Batch, Documents, pack
from mtp_lab.tasks import SPLITS, TASKS, BytesTask, PolynomialsTask, StarGraphTask, StoriesTask
from mtp_lab.tasks.rendering import CYAN, DOCUMENT_LABELS, STYLES, UNDERLINED, documents, highlighted, lines, unpacked

CODES = re.compile(r"\033\[\d+m")


@pytest.mark.parametrize("name", TASKS)
def test_colours_change_nothing_but_colours(name):
    """Without its escape codes a coloured document is its pieces, and every code that is opened is closed.
    Catches: a piece lost or doubled at the edge of a stretch, a colour that runs into the next document."""
    task = TASKS[name]()
    shown = documents(task, "validation", 5, 0)
    legend, *below = lines(task, shown, coloured=True)
    texts = ["".join(task.pieces(document.tokens.tolist())) for document in shown]
    assert [CODES.sub("", text) for text in below[1::2]] == texts and legend.startswith(name)
    for text in (legend, *below):
        for opening, closing in {style.colour for style in STYLES[name]}:
            ends = [style.colour[0] for style in STYLES[name] if style.colour[1] == closing]
            assert text.count(closing) == sum(map(text.count, set(ends))), (opening, closing)


def test_highlighted_tokens_are_the_ones_between_signs():
    """Token by token: the tokens of a character, and no others, have its colour.
    Catches: labels shifted by a token, the labels of another document, an open stretch at the end of a text."""
    task = StoriesTask()
    for document in documents(task, "train", 3, 1):
        pieces = task.pieces(document.tokens.tolist())
        where = document.labels["entity"] == 0
        text = highlighted(pieces, [where], [CYAN])
        inside = re.findall(rf"{re.escape(CYAN[0])}(.*?){re.escape(CYAN[1])}", text, re.S)
        assert "".join(inside) == "".join(np.array(pieces)[where]).replace(" ", "") and len(inside) >= 4


def test_stretches_lie_inside_one_another():
    """What opens first closes last; the space before a stretch stays outside of it.
    Catches: signs that cross, an underlined space between words."""
    where = [np.array(label, bool) for label in ([0, 1, 1, 0], [0, 0, 1, 1])]
    assert highlighted(["In", " Bo", "ra", "."], where, [("<", ">"), ("_", "_")]) == "In <Bo_ra>._"
    same = [np.array([0, 1, 1, 0], bool)] * 2
    assert highlighted(["In", " Bo", "ra", "."], same, [CYAN, UNDERLINED]) == "In \033[36m\033[4mBora\033[24m\033[39m."
    assert highlighted(["a"], [np.array([True])], [("<", ">")]) == "<a>" and highlighted([], [], []) == ""


def test_without_colours_signs_show_the_labels():
    """A graph in plain text: query, answer and choice have different signs.
    Catches: labels that only colours show."""
    task = StarGraphTask()
    (document,) = documents(task, "test", 1, 4)
    *_, text = lines(task, [document], coloured=False)
    start, goal, path = re.search(r"/ <(\d+)> \{(\d+)\} = \[(.*)\]$", text).groups()
    steps = path.replace("_", "").split()
    assert steps == [task.stream.token_names[token] for token in task.stream.solve(document.tokens)]
    assert (steps[0], steps[-1]) == (start, goal) and path.split()[1] == f"_{steps[1]}_"


def test_facts_about_a_document_stand_above_it():
    """m is the number of operations in the question below.
    Catches: the facts of another document."""
    task = PolynomialsTask()
    _, *below = lines(task, documents(task, "train", 8, 0), coloured=False)
    for fact, text in zip(below[::2], below[1::2], strict=True):
        assert int(re.search(r"m = (\d)$", fact)[1]) == len(re.findall(r"[-*o+](?![^(]*\))", text.split("=")[0]))


@pytest.mark.parametrize("name", TASKS)
def test_the_table_has_existing_labels_only(name):
    """Every label of the table is one of the task's batches, and occurs in them.
    Catches: a label that was renamed in the generator, which would fail only when documents are shown."""
    labels = TASKS[name]().batch(32, 0, 0).labels
    assert all(style.where(labels).any() for style in STYLES[name])
    assert set(DOCUMENT_LABELS.get(name, ())) <= set(labels)


# --- Which documents -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.integers(6, 13))
@settings(max_examples=50, deadline=None)
def test_unpacking_undoes_packing(lengths, seq):
    """Documents come back in their order, with their labels.
    Catches: padding taken for tokens, documents that end a row joined to those that begin the next."""
    ends = np.cumsum(lengths)
    whole = [np.arange(end - n, end) for end, n in zip(ends, lengths, strict=True)]
    batch = pack(whole, seq, {"odd": [document % 2 == 1 for document in whole]})
    again = unpacked(batch)
    assert again.lengths.tolist() == lengths and again.tokens.tolist() == list(range(sum(lengths)))
    assert again.labels["odd"].tolist() == [token % 2 == 1 for token in range(sum(lengths))]


def test_windows_of_one_file_are_shown_apart():
    """Two rows that read different places of one file have the same document: they are two pieces of text.
    Catches: a text with an invisible gap."""
    batch = Batch(np.arange(8, dtype=np.int32).reshape(2, 4), np.array([[0, 0, 3, 3], [3, 3, 3, -1]], np.int32))
    assert unpacked(batch).lengths.tolist() == [2, 2, 3]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_documents_are_those_of_the_split(name, split):
    """Each is a document of the rows that training or evaluation reads; none comes twice.
    Catches: the training set shown under the name of another, documents cut off by the end of a row."""
    task = TASKS[name]()
    rows = task.batch(64, 0, 7) if split == "train" else task.held_out(split, 64)
    known = {tuple(document.tolist()) for document in np.split(unpacked(rows).tokens, unpacked(rows).ends[:-1])}
    shown = documents(task, split, 30, 7)
    assert len(shown) == 30 and all(isinstance(document, Documents) and len(document) == 1 for document in shown)
    assert {tuple(document.tokens.tolist()) for document in shown} <= known
    again = [document.tokens.tolist() for document in documents(task, split, 30, 7)]
    assert again == [document.tokens.tolist() for document in shown]
    assert again != [document.tokens.tolist() for document in documents(task, split, 30, 8)]


def test_bytes_are_shown_as_they_stand(corpus):
    """Line breaks and spaces stay; control characters are escaped.
    Catches: a first line that loses its indentation, a file that clears the terminal."""
    task = BytesTask(paths=(corpus,))
    tokens = [256, *b"  if x:\n\t\x1b[2J\xe9"]
    assert "".join(task.pieces(tokens)) == "\u241e  if x:\n\t\\x1b[2J\\xe9"
