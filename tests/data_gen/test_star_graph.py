"""Path-star graphs: every test states a property and the bug it would catch."""

import re
from collections import Counter
from hashlib import sha256
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from data_gen.batch import Documents
from data_gen.star_graph import StarGraphs

FORWARD = StarGraphs()
GRAPHS = [
    FORWARD,
    StarGraphs(degree=2, length=5, nodes=9),  # every label is in the graph
    StarGraphs(degree=3, length=2, nodes=20),  # the first step is the goal
    StarGraphs(degree=1, length=4, nodes=6),  # no arm but the path
    StarGraphs(degree=20, length=3, nodes=100),
]
each_graph = pytest.mark.parametrize("graphs", GRAPHS, ids=str)


def variant(graphs: StarGraphs, name: str) -> StarGraphs:
    return StarGraphs(graphs.degree, graphs.length, graphs.nodes, name)


def draw(graphs: StarGraphs, n: int = 200, seed: int = 0) -> Documents:
    return graphs.documents(n, np.random.default_rng(seed))


def rows(graphs: StarGraphs, documents: Documents) -> np.ndarray:
    return documents.tokens.reshape(-1, graphs.seq)  # (n, seq)


def uniform(values: np.ndarray, n: int) -> bool:
    """Whether 0..n-1 look equally likely. The seed is fixed: a right sampler passes on every run."""
    return chisquare(np.bincount(values, minlength=n)).pvalue > 1e-3


def read(text: str) -> tuple[list[tuple[int, int]], int, int, list[int]]:
    """Edges, start, goal and answer from a document's text, by the definition of the format."""
    graph, query = text.split(" / ")
    question, answer = query.split(" = ")
    edges = [tuple(map(int, edge.split())) for edge in graph.split(" | ")]
    start, goal = map(int, question.split())
    return edges, start, goal, list(map(int, answer.split()))


def paths_from(node: int, edges: list[tuple[int, int]]) -> list[list[int]]:
    """Every path from a node to a leaf, forwards and by brute force."""
    onward = [path for parent, child in edges if parent == node for path in paths_from(child, edges)]
    return [[node, *path] for path in onward] or [[node]]


# --- the graph


@each_graph
def test_each_document_is_a_star_and_asks_for_one_of_its_arms(graphs):
    """Arms of another length, a label used twice, or a goal that is no leaf would be another task."""
    for tokens in rows(graphs, draw(graphs)):
        edges, start, goal, answer = read(graphs.text(tokens))
        assert len(edges) == graphs.degree * (graphs.length - 1)
        assert len(set(sum(edges, ()))) == len(edges) + 1, "two nodes have one label"
        paths = paths_from(start, edges)
        assert [len(path) for path in paths] == [graphs.length] * graphs.degree
        assert [path for path in paths if path[-1] == goal] == [answer]
        assert sorted(graphs.arms(tokens)) == sorted(paths)
        assert graphs.edges(tokens).tolist() == [list(edge) for edge in edges]


@each_graph
@pytest.mark.parametrize("name", ["forward", "reversed", "teacherless"])
def test_the_answer_can_be_found_from_the_edges_alone(graphs, name):
    """`solve` sees no token of the answer; what it finds is what the stream says, or is meant to say."""
    graphs = variant(graphs, name)
    documents = draw(graphs)
    answers = rows(graphs, documents)[:, graphs.answer_start :]
    if name == "teacherless":
        answers = documents.labels["target"].reshape(-1, graphs.seq)[:, graphs.answer_start - 1 : -1]
    for tokens, answer in zip(rows(graphs, documents), answers, strict=True):
        question = np.append(tokens[: graphs.answer_start], np.zeros(graphs.length, np.int32))
        assert graphs.solve(question) == answer.tolist()


def test_labels_are_uniform_and_independent():
    """A label more likely as start than as goal, or pairs that favour each other, could be guessed without a graph."""
    graphs = StarGraphs(degree=2, length=3, nodes=6)
    tokens = rows(graphs, draw(graphs, 30_000))
    start, goal = tokens[:, graphs.answer_start - 3], tokens[:, graphs.answer_start - 2]
    assert uniform(start, 6) and uniform(goal, 6)
    offset = (goal - start) % 6  # 1..5: never equal
    assert uniform(start * 5 + offset - 1, 30)
    left_out = 15 - np.array([sum(set(graph.ravel().tolist())) for graph in graphs.edges(tokens)])
    assert uniform(left_out, 6)


def test_edges_come_in_a_uniformly_random_order():
    """All 24 orders of a chain's four edges are equally likely: an order that tells the arms apart is an answer."""
    graphs = StarGraphs(degree=1, length=5, nodes=7)
    order = []
    for tokens in rows(graphs, draw(graphs, 12_000)):
        depth = {node: i for i, node in enumerate(graphs.solve(tokens))}
        order.append(tuple(depth[child] - 1 for _, child in graphs.edges(tokens).tolist()))
    index = {permutation: i for i, permutation in enumerate(permutations(range(4)))}
    assert uniform(np.array([index[permutation] for permutation in order]), 24)


def test_the_place_of_an_edge_tells_nothing_of_the_goal():
    """The edge to the goal, and the first step of the path, are equally likely at each place of the list."""
    tokens = rows(FORWARD, draw(FORWARD, 20_000))
    children = FORWARD.edges(tokens)[..., 1]  # (n, edges)
    for node in (tokens[:, -1], tokens[:, FORWARD.answer_start + 1]):
        assert uniform(np.nonzero(children == node[:, None])[1], 20)


def test_the_first_step_is_a_guess_in_degree_for_any_rule_without_search():
    """Rules by place (the k-th neighbour listed) and by label (the k-th smallest) are right 1 time in 5."""
    tokens = rows(FORWARD, draw(FORWARD, 20_000))
    edges, step = FORWARD.edges(tokens), tokens[:, FORWARD.answer_start + 1]
    from_start = edges[..., 0] == tokens[:, FORWARD.answer_start, None]  # (n, edges)
    neighbours = edges[..., 1][from_start].reshape(-1, 5)  # (n, degree) as listed
    assert uniform(np.nonzero(neighbours == step[:, None])[1], 5)
    assert uniform((neighbours < step[:, None]).sum(axis=1), 5)


# --- variants


@each_graph
def test_variants_ask_the_same_questions(graphs):
    """A difference between variants would otherwise be one of graphs; and reversed is the same path, backwards."""
    forward, backward, dummies = (
        rows(graphs, draw(variant(graphs, name))) for name in ("forward", "reversed", "teacherless")
    )
    first = graphs.answer_start
    assert (forward[:, :first] == backward[:, :first]).all() and (forward[:, :first] == dummies[:, :first]).all()
    assert (forward[:, first:] == backward[:, first:][:, ::-1]).all()
    assert (dummies[:, first:] == graphs.token_names.index("$")).all(), "the stream shows part of the answer"


@each_graph
def test_the_teacherless_target_is_the_forward_documents_next_token(graphs):
    """Off by one, a model learns to repeat; and a "$" left as a target teaches it to predict "$"."""
    teacherless = variant(graphs, "teacherless")
    documents = draw(teacherless)
    stream, forward = rows(graphs, documents), rows(graphs, draw(graphs))
    target = documents.labels["target"].reshape(stream.shape)
    assert target.dtype == np.float32
    to_predict = np.where(target[:, :-1] >= 0, target[:, :-1], stream[:, 1:])
    assert (to_predict == forward[:, 1:]).all()
    assert (target[:, : graphs.answer_start - 1] == -1).all() and (target[:, -1] == -1).all()


# --- labels


def marked(graphs: StarGraphs, name: str) -> list[int]:
    """Positions that a label selects; they must be those of every document."""
    label = draw(graphs, 3).labels[name].reshape(3, -1)
    assert label.dtype == np.bool_ and (label == label[0]).all()
    return np.flatnonzero(label[0]).tolist()


@pytest.mark.parametrize(
    "name, choice, forced",
    [("forward", [22], [21, 23, 24]), ("reversed", [], [21, 22, 23, 24]), ("teacherless", [22], [21, 24])],
)
def test_marks_are_on_their_tokens(name, choice, forced):
    """Two arms of three edges: 0-16 are edges, 17 is "/", 18-20 are "start goal =", 21-24 are the answer."""
    graphs = StarGraphs(degree=2, length=4, nodes=9, variant=name)
    symbols = graphs.text(draw(graphs, 1).tokens).split()
    assert (len(symbols), symbols[17], symbols[20]) == (25, "/", "=")
    assert marked(graphs, "question") == list(range(21)) and marked(graphs, "answer") == [21, 22, 23, 24]
    assert marked(graphs, "start") == [18] and marked(graphs, "goal") == [19]
    assert marked(graphs, "choice") == choice and marked(graphs, "forced") == forced


@each_graph
def test_a_step_is_forced_where_teacher_forcing_leaves_one_candidate(graphs):
    """By counting: copies of the query, and nodes that an edge joins to the token before. More than one is a choice."""
    for name in ("forward", "reversed"):
        for tokens in rows(graphs, draw(variant(graphs, name), 20)):
            edges, start, goal, answer = read(graphs.text(tokens))
            query_first, query_last = (start, goal) if name == "forward" else (goal, start)
            candidates = [1]  # the first token is the one in the question
            for i in range(1, graphs.length):
                after = [v for u, v in edges if u == answer[i - 1]]
                before = [u for u, v in edges if v == answer[i - 1]]
                neighbours = after if name == "forward" else before
                candidates.append(1 if query_last in neighbours else len(neighbours))
            assert answer[0] == query_first
            first = graphs.answer_start
            choice = [position - first for position in marked(variant(graphs, name), "choice")]
            forced = [position - first for position in marked(variant(graphs, name), "forced")]
            assert choice == [i for i, n in enumerate(candidates) if n > 1]
            assert forced == [i for i, n in enumerate(candidates) if n == 1]


# --- rows, reproducibility, errors


@pytest.mark.parametrize("name", ["forward", "teacherless"])
def test_rows_hold_whole_documents_with_their_labels(name):
    """Each row of 150 tokens holds two documents of 68; a label shifted by packing would select other tokens."""
    graphs = variant(FORWARD, name)
    batch = graphs.sample(7, 150, np.random.default_rng(1))
    assert batch.tokens.shape == (7, 150) and batch.tokens.max() < graphs.vocab_size
    assert Counter(batch.documents.ravel().tolist()) == {-1: 7 * 14} | dict.fromkeys(range(14), 68)
    packed = batch.tokens[batch.documents >= 0]
    documents = draw(graphs, 20, seed=1)
    assert len(set(map(bytes, packed.reshape(14, 68)))) == 14
    for label in documents.labels:
        expected = documents.labels[label].reshape(20, -1)[0] if label != "target" else batch.labels[label][0, :68]
        assert (batch.labels[label][batch.documents == 0] == expected).all()
    for document in range(14):
        tokens = batch.tokens[batch.documents == document]
        answers = tokens if name == "forward" else batch.labels["target"][batch.documents == document][:-1]
        assert answers[-5:].tolist() == graphs.solve(tokens)


def test_names_cover_the_vocabulary():
    assert len(FORWARD.token_names) == FORWARD.vocab_size == 54
    assert FORWARD.text(np.array([0, 49, 50, 51, 52, 53])) == "0 49 | = / $"


@pytest.mark.parametrize(
    "name, digest",
    [("forward", "d2601a47fc9b67f0"), ("reversed", "b03d0c9763107060"), ("teacherless", "7c48c3dd3dcc908e")],
)
def test_the_stream_of_a_seed_is_pinned(name, digest):
    """A change of the recipe would make every cached run look like one on other data."""
    documents = draw(variant(FORWARD, name), 500, seed=7)
    assert sha256(documents.tokens.astype("<i4").tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"degree": 0}, "degree=0 must be at least 1 arm"),
        ({"length": 1}, "length=1 must be at least 2, the centre and the goal"),
        (
            {"nodes": 20},
            "nodes=20 are too few node labels for degree=5 and length=5: the graph has degree * (length - 1) + 1 = 21 "
            "nodes; use nodes=21 or more",
        ),
        ({"variant": "backward"}, "variant='backward' must be one of forward, reversed, teacherless"),
    ],
)
def test_a_graph_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        StarGraphs(**arguments)


def test_tokens_that_are_no_document_are_refused():
    """A row of several documents would be read as one wrong graph."""
    tokens = draw(FORWARD, 2).tokens
    with pytest.raises(ValueError, match=r"a document of G\(5, 5\) has 68 tokens, got shape \(136,\); select"):
        FORWARD.solve(tokens)
    with pytest.raises(ValueError, match=r"tokens must be one document, \(68,\), got shape \(2, 68\)"):
        FORWARD.arms(tokens.reshape(2, 68))
    with pytest.raises(ValueError, match="raise seq"):
        FORWARD.sample(1, 67, np.random.default_rng(0))
