"""Pairs of path-star graphs lead down two arms; every test names the bug it would catch."""

import numpy as np
import pytest
import torch

from data_gen.star_graph import StarGraphs
from mtp_lab.config import ModelConfig
from mtp_lab.interp.pairs.base import Pairs
from mtp_lab.interp.pairs.star_graphs import GOAL, STAR_ROLES, draw_star_pairs, edge_places
from mtp_lab.interp.patching import recovery, residual_patching
from mtp_lab.model.transformer import MTPTransformer

CHANGED, PATH, OTHERS, AT_GOAL, EQUALS, QUERY, REST = range(len(STAR_ROLES))
COUNT = 40
CASES = [
    (StarGraphs(2, 4, 12), GOAL),
    (StarGraphs(2, 4, 12), 2),
    (StarGraphs(3, 4, 20), 3),
    (StarGraphs(3, 5, 20, "teacherless"), 2),
    (StarGraphs(5, 3, 50), 2),
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def drawn(request) -> tuple[StarGraphs, int, Pairs]:
    stream, change = request.param
    return stream, change, draw_star_pairs(stream, COUNT, change)


def padded_to_document(stream: StarGraphs, tokens: torch.Tensor) -> np.ndarray:
    """A pair's row, which ends with its query, as long as a document: `solve` reads the question alone."""
    return np.pad(tokens.numpy(), (0, stream.seq - len(tokens)))


def test_both_runs_are_solved_by_an_independent_walk(drawn):
    """Catches: right and wrong exchanged, an exchange that leaves the answer as it is, arms that are no arms any more,
    a query at another token than the answer's first."""
    stream, _, pairs = drawn
    for i in range(COUNT):
        clean, corrupted = (stream.solve(padded_to_document(stream, run[i])) for run in (pairs.clean, pairs.corrupted))
        assert [clean[1], corrupted[1]] == [pairs.answer_token[i], pairs.wrong_token[i]] and clean[1] != corrupted[1]
        assert len(clean) == len(corrupted) == stream.length and clean[0] == corrupted[0]
        assert int(pairs.query_position[i]) == stream.answer_start and pairs.clean.shape[1] == stream.answer_start + 1


def test_only_what_is_named_differs(drawn):
    """Catches: labels that are drawn anew, edges in another order, a goal changed with the edges."""
    stream, change, pairs = drawn
    differ = pairs.clean != pairs.corrupted
    assert torch.equal(differ, pairs.roles == CHANGED)
    if change == GOAL:
        assert differ.nonzero()[:, 1].unique().tolist() == [stream.answer_start - 2]
    else:
        assert (differ.sum(dim=1) == 2).all() and bool((differ.nonzero()[:, 1] % 3 == 1).all())  # children
        assert torch.equal(pairs.clean.sort(dim=1).values, pairs.corrupted.sort(dim=1).values)


def test_roles_cover_the_path_once(drawn):
    """Catches: edges of another arm taken for the path's, separators taken for nodes, the goal's edge forgotten."""
    stream, change, pairs = drawn
    for i in range(COUNT):
        path = stream.solve(padded_to_document(stream, pairs.clean[i]))
        steps = set(zip(path[:-1], path[1:], strict=True))
        for e in range(stream.n_edges):
            edge, roles = tuple(pairs.clean[i, 3 * e : 3 * e + 2].tolist()), pairs.roles[i, 3 * e : 3 * e + 2].tolist()
            assert set(roles) <= ({PATH, CHANGED} if edge in steps else {OTHERS, CHANGED})
    counts = torch.bincount(pairs.roles.flatten(), minlength=len(STAR_ROLES))
    assert counts[QUERY] == counts[EQUALS] == COUNT and counts[AT_GOAL] == (0 if change == GOAL else COUNT)
    assert counts[PATH] == COUNT * (2 * (stream.length - 1) - (change != GOAL))


def test_patching_everything_restores_the_clean_run():
    """And the embedding of the changed token alone does. Catches: roles that leave out a token that differs."""
    stream = StarGraphs(3, 4, 12, "teacherless")
    torch.manual_seed(0)
    size = dict(d_model=16, n_attention_heads=2, n_layers=3, n_future=2, max_seq=stream.seq)
    model = MTPTransformer(ModelConfig(vocab_size=stream.vocab_size, **size)).eval()
    for change in (GOAL, 2, 3):
        table = recovery(residual_patching(model, draw_star_pairs(stream, 6, change)), ["layer", "role"])
        assert table.set_index(["layer", "role"]).recovery["embed", "changed"] == pytest.approx(1, abs=1e-3)
        assert table[table.layer == "embed"].recovery.sum() == pytest.approx(1, abs=1e-3)


def test_edges_are_found_by_the_node_they_lead_to():
    """Catches: the first edge for every node, parents taken for children."""
    stream = StarGraphs(3, 4, 20)
    tokens = stream.documents(5, np.random.default_rng(0)).tokens.reshape(5, stream.seq)
    for place in range(stream.n_edges):
        node = tokens[:, 3 * place + 1]
        assert (edge_places(stream, tokens, node) == 3 * place).all()
    with pytest.raises(ValueError, match="no edge leads to node"):
        edge_places(stream, tokens, tokens[:, stream.answer_start - 3])


@pytest.mark.parametrize(
    "stream, change, message",
    [
        (StarGraphs(2, 4, 12), 1, "change=1 must be 0, the goal, or the number of a node, 2 to 3"),
        (StarGraphs(2, 4, 12), 4, "change=4 must be"),
        (StarGraphs(2, 4, 12, "reversed"), GOAL, "no first step to guess"),
        (StarGraphs(1, 4, 12), GOAL, "no first step to guess"),
        (StarGraphs(4, 2, 12), GOAL, "no first step to guess"),
    ],
)
def test_what_has_no_pairs_is_refused(stream, change, message):
    """Catches: an IndexError, or an endless search."""
    with pytest.raises(ValueError, match=message):
        draw_star_pairs(stream, 3, change)
