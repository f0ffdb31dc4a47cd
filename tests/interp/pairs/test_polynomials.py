"""Pairs of polynomials differ in one coefficient and their answers; every test names the bug it would catch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_gen.polynomials import ring
from data_gen.polynomials.stream import SYMBOLS, Polynomials
from mtp_lab.config import ModelConfig
from mtp_lab.interp.pairs.base import Pairs
from mtp_lab.interp.pairs.polynomials import POLYNOMIAL_ROLES, draw_polynomial_pairs
from mtp_lab.interp.patching import head_patching, recovery, residual_patching
from mtp_lab.model.transformer import MTPTransformer

CHANGED, SAME, FIRST, LATER, OTHERS, AFTER, QUERY, REST = range(len(POLYNOMIAL_ROLES))
COUNT = 80
STREAMS = [
    Polynomials(),
    Polynomials(p=3, d=3, tagged=False, high_first=True, pause=2).of(3),
    Polynomials(p=2, d=4, split="chain", pause=1, max_operations=7),
    Polynomials(p=2, d=1, tagged=False),
    Polynomials(p=11, d=6, high_first=True).of(1),
]
OPERATIONS = {"-": ring.negate, "+": ring.add, "*": ring.multiply, "o": ring.compose}


@pytest.fixture(scope="module", params=STREAMS)
def drawn(request) -> tuple[Polynomials, Pairs]:
    return request.param, draw_polynomial_pairs(request.param, COUNT)


def value(tree: tuple, p: int) -> np.ndarray:
    if isinstance(tree[0], int):
        return np.array(tree)
    return OPERATIONS[tree[0]](*(value(branch, p) for branch in tree[1:]), p)


def written(stream: Polynomials, question: list[int]) -> list[int]:
    """The tokens of a question's answer."""
    answer = value(stream.parse(question), stream.p)
    tokens = (answer + stream.p * np.arange(stream.d) * stream.tagged).tolist()
    return tokens[::-1] if stream.high_first else tokens


def operators(tree: tuple, at: int, d: int) -> tuple[int, list[tuple[int, int]]]:
    """The position after a tree that starts at `at`, and for every operator the first position of its subexpression and
    its own, inner operators first."""
    if isinstance(tree[0], int):
        return at + d, []
    end, spans = at, []
    for branch in tree[1:]:
        end, inside = operators(branch, end, d)
        spans += inside
    return end + 1, [*spans, (at, end)]


def test_one_coefficient_of_one_operand_differs(drawn):
    """Catches: a value that stays, another degree, operators that change, a change after the query."""
    stream, pairs = drawn
    differ = pairs.clean != pairs.corrupted
    assert len(pairs) == COUNT and (differ.sum(1) == 1).all() and torch.equal(differ, pairs.roles == CHANGED)
    old, new = (tokens[differ] for tokens in (pairs.clean, pairs.corrupted))
    assert (old // stream.p == new // stream.p).all() and (
        torch.cat([old, new]) < stream.vocab_size - len(SYMBOLS)
    ).all()
    degrees = old // stream.p if stream.tagged else torch.arange(stream.d)
    assert degrees.unique().numel() == stream.d
    assert ((new - old) % stream.p).unique().numel() == stream.p - 1


def test_right_and_wrong_follow_in_documents_of_the_stream(drawn):
    """Both answers by an evaluation of the question's own tokens. Catches: answers exchanged, a query before or after
    the first difference, answers the wrong way round, tokens of an answer that the corrupted question does not have."""
    stream, pairs = drawn
    shared = set()
    for i in range(COUNT):
        at, answers = int(pairs.query_position[i]), []
        for tokens in (pairs.clean[i].tolist(), pairs.corrupted[i].tolist()):
            equals = tokens.index(stream.equals)
            answers.append(written(stream, tokens[:equals]))
            assert tokens[equals + 1 : at + 1] == answers[-1][: at - equals]
        shared.add(at - equals)
        assert [answer[at - equals] for answer in answers] == [pairs.answer_token[i], pairs.wrong_token[i]]
    assert shared >= set(range(min(stream.d, 3))) and (pairs.answer_token != pairs.wrong_token).all()


def test_roles_are_those_of_the_tree(drawn):
    """By the parsed question and where its parts stand. Catches: operators that do not take the changed value among
    those that do, an operand's coefficients before the change, a query that keeps another role, shifts by one."""
    stream, pairs = drawn
    for i, row in enumerate(pairs.clean.tolist()):
        roles, at, equals = pairs.roles[i].tolist(), int(pairs.query_position[i]), row.index(stream.equals)
        changed = roles.index(CHANGED)
        root, spans = operators(stream.parse(row[:equals]), 0, stream.d)
        first, *later = (own for begin, own in spans if begin <= changed < own)
        assert root == equals - stream.pause
        expected = [REST] * changed + [OTHERS] * (root - changed) + [AFTER] * (at - root)
        following = changed + 1
        end = next(t for t in range(following, root + 1) if row[t] >= stream.vocab_size - len(SYMBOLS))
        same = (end - following) % stream.d  # whole operands may stand between the changed one and the next operator
        expected[changed : changed + 1 + same] = [CHANGED] + [SAME] * same
        expected[first] = FIRST
        for own in later:
            expected[own] = LATER
        assert roles == expected + [QUERY] + [-1] * (len(row) - at - 1)


def test_padding_and_the_seed(drawn):
    """Catches: answers after the query, a generator shared between calls."""
    stream, pairs = drawn
    after_query = torch.arange(pairs.clean.shape[1]) > pairs.query_position[:, None]
    for part, padding in ((pairs.documents, -1), (pairs.clean, 0), (pairs.corrupted, 0)):
        assert (part[after_query] == padding).all()
    assert (pairs.documents[~after_query] == 0).all()
    same, other = (draw_polynomial_pairs(stream, COUNT, seed) for seed in (0, 1))
    assert torch.equal(same.corrupted, pairs.corrupted) and torch.equal(same.roles, pairs.roles)
    assert not torch.equal(other.query_position, pairs.query_position) or not torch.equal(
        other.corrupted, pairs.corrupted
    )


def test_formats_get_the_same_questions():
    """Catches: a change drawn by its place in the document."""
    stream = Polynomials(p=5, d=3)
    changes = []
    for format in (stream, replace(stream, high_first=True, pause=3), replace(stream, tagged=False)):
        pairs = draw_polynomial_pairs(format, 20)
        questions = [row[: row.index(format.equals)] for row in (*pairs.clean.tolist(), *pairs.corrupted.tolist())]
        changes.append([format.parse(question) for question in questions])
    assert changes[0] == changes[1] == changes[2]


# --- patching


def random_model(stream: Polynomials) -> MTPTransformer:
    torch.manual_seed(0)
    sizes = dict(d_model=16, n_attention_heads=2, trunk_layers=2, n_future=2, d_mlp=16, max_seq=stream.longest)
    model = MTPTransformer(ModelConfig(vocab_size=stream.vocab_size, **sizes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


@pytest.mark.parametrize("horizon", [1, 2])
def test_the_change_is_all_there_is_to_restore(horizon):
    """Catches: roles of stories, roles that overlap, a query that head 2 does not have, a patch of the wrong row."""
    stream = Polynomials(p=3, d=2, pause=1, max_operations=3)
    pairs = draw_polynomial_pairs(stream, 24)
    table = recovery(residual_patching(random_model(stream), pairs, horizon), ["layer", "role"])
    found = table.set_index(["layer", "role"]).recovery.unstack()
    assert list(table.role.unique()) == list(POLYNOMIAL_ROLES)
    nothing = dict.fromkeys(POLYNOMIAL_ROLES, 0.0)
    assert found.loc["embed"].to_dict() == nothing | {"changed": 1}
    assert found.loc[f"heads.{horizon}"].to_dict() == nothing | {"query": 1}
    assert (found["rest"] == 0).all()
    assert (found.loc["blocks.0"].drop("rest") != 0).all()  # each of them has read the change
    heads = head_patching(random_model(stream), pairs[:5], horizon).query("positions == 'query'")
    assert (heads.patched != heads.corrupted).all()


def test_the_query_of_a_later_head_comes_earlier(drawn):
    """Catches: queries in front of the change, where both runs are one and there is nothing to restore."""
    _, pairs = drawn
    changed = (pairs.roles == CHANGED).int().argmax(1)
    most = int((pairs.query_position - changed).min()) + 1
    further_ahead = pairs.for_horizon(most)
    assert (
        further_ahead.role_names == POLYNOMIAL_ROLES and (further_ahead.query_position >= changed).all() and most >= 3
    )
    row, at = torch.nonzero(further_ahead.roles == QUERY, as_tuple=True)
    assert torch.equal(row, torch.arange(COUNT)) and torch.equal(at, pairs.query_position - most + 1)
    with pytest.raises(ValueError, match=f"horizon={most + 1} must be from 1 to {most}: further ahead, the query of"):
        pairs.for_horizon(most + 1)
    far = pairs.query_position - changed >= most
    assert len(pairs[far]) < COUNT and (pairs[far].for_horizon(most + 1).query_position >= changed[far]).all()


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="count=0"):
        draw_polynomial_pairs(Polynomials(), 0)
    with pytest.raises(ValueError, match="notation='infix'"):
        draw_polynomial_pairs(Polynomials(notation="infix"), 1)
