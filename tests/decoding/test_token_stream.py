"""Text in a terminal while it is generated."""

import io
import re

import numpy as np
import pytest
import torch

from mtp_lab.decoding.generation import generate
from mtp_lab.decoding.token_stream import TokenStream, summary, tokens_of
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.tasks import BytesTask, ChoiceProcessTask, PolynomialsTask

PROMPT = list(b"ab")


@pytest.fixture
def model(three_heads) -> MTPTransformer:
    return three_heads


def letters(tokens) -> list[str]:
    return [f"<{token}>" for token in tokens]


@pytest.mark.parametrize("coloured", [False, True])
def test_what_is_printed_is_the_text(model, coloured):
    """Without bars and colours, the output is the prompt and the tokens. Each forward pass has a bar, or each draft a
    colour.
    Catches: tokens printed twice, a colour that does not end."""
    out = io.StringIO()
    stream = TokenStream(letters, PROMPT, coloured, out)
    drafted = generate(model, [PROMPT], 20, draft=3, stream=stream)
    printed = out.getvalue()
    assert re.sub(r"\033\[[\d;]*m|\|", "", printed) == "".join(letters(PROMPT + drafted.tokens[0].tolist()))
    drafts = int((drafted.heads > 1).sum())
    if coloured:
        assert printed.count("\033[0m") == printed.count("\033[48") and printed.count("\033[0m") >= drafts
    else:
        assert printed.count("|") == int(drafted.forward_passes)
    assert "\033" in stream.legend(3) if coloured else stream.legend(3) == "each | ends a forward pass"


def test_a_polynomial_that_comes_in_parts_keeps_its_last_coefficient():
    """The text of a polynomial belongs to its first token, which is printed when the last one is generated.
    Catches: a last coefficient that is never printed."""
    task = PolynomialsTask()
    document = task.stream.documents(1, np.random.default_rng(0)).tokens.tolist()
    start = document.index(task.stream.equals) + 1
    question, coefficients = task.stream.text(document[:start]), task.words(document[start:-1])
    spelt, whole = " " + " ".join(coefficients), task.stream.text(document)[len(question) : -len(" end")]
    for sizes, expected in (([1] * 6, spelt), ([2, 4], spelt), ([5, 1], whole), ([6], whole)):
        out, position = io.StringIO(), start
        stream = TokenStream(task.pieces, document[:start], False, out)
        for size in sizes:
            stream(0, document[position : position + size])
            position += size
        printed = out.getvalue().replace("|", "")
        assert position == len(document) and printed == question + expected + " end"


def test_the_summary_shows_the_measurements(model):
    """Tokens, forward passes and their ratio for both ways of decoding, and whether the text is the same."""
    drafted, plain = (generate(model, [PROMPT], 20, draft=k) for k in (3, 1))
    lines = summary(drafted, plain)
    assert lines[1].split()[:4] == [
        "3",
        "20",
        str(int(drafted.forward_passes)),
        f"{drafted.tokens_per_forward_pass:.2f}",
    ]
    assert lines[2].split()[:4] == ["1", "20", "20", "1.00"]
    assert "times as fast; the same tokens" in lines[3]
    assert f"2: {drafted.accepted_by_head[1]:.0%}" in lines[4]
    other = generate(model, [PROMPT], 20, draft=1, temperature=2.0, generator=torch.Generator().manual_seed(0))
    assert "other tokens (sampled anew)" in summary(drafted, other)[3]
    assert len(summary(generate(model, [PROMPT], 1))) == 2  # the forward pass of the prompt is the only one: no shares


def test_prompts_become_tokens(corpus):
    """Bytes of a text, words of another task. An unknown word is an error that names it and some known words."""
    task = BytesTask(paths=(corpus,))
    assert tokens_of(task, "é") == [0xC3, 0xA9] and tokens_of(task, "") == [256]
    choice = ChoiceProcessTask()
    words = choice.words([0, 1, 2])
    assert tokens_of(choice, f" {words[2]}  {words[0]}") == [2, 0]
    with pytest.raises(ValueError, match="'nonsense' is no token of the task choice_process; it knows"):
        tokens_of(choice, f"{words[0]} nonsense")
    with pytest.raises(ValueError, match="prompt is empty; name tokens of the task choice_process"):
        tokens_of(choice, " ")
