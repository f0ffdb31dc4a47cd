"""Pairs differ in who has which second piece and in nothing else; every test names the bug it would catch."""

from dataclasses import replace

import pytest
import torch

from data_gen.stories.generator import Stories
from data_gen.stories.names import NamePools
from mtp_lab.interp.pairs.base import Pairs, logit_difference
from mtp_lab.interp.pairs.stories import STORY_ROLES, draw_story_pairs

TARGET_FIRST, TARGET_SECOND, OTHER_FIRST, OTHER_SECOND, QUERY, REST = range(len(STORY_ROLES))
# few second pieces: characters of a story often share one, target and other or a third with one of them
CROWDED = Stories(names=NamePools(names=32, first_pieces=16, second_pieces=4, held_out=8))


@pytest.fixture(scope="module", params=["validation", "test", "crowded", "shared first piece"])
def drawn(request) -> tuple[Stories, str, Pairs]:
    split = "test" if request.param == "test" else "validation"
    stories = {"crowded": CROWDED, "shared first piece": replace(CROWDED, shared_first=1.0)}.get(
        request.param, Stories()
    )
    return stories, split, draw_story_pairs(stories, split, 150)


def test_clean_and_corrupted_differ_at_second_pieces_alone(drawn):
    """Catches: a third character who shares a second piece is renamed too, a mention that is left out, a changed query,
    and pairs whose exchange changes nothing."""
    _, _, pairs = drawn
    assert torch.equal(pairs.clean != pairs.corrupted, (pairs.roles == TARGET_SECOND) | (pairs.roles == OTHER_SECOND))
    assert (pairs.answer_token != pairs.wrong_token).all()
    for role, clean, corrupted in (
        (TARGET_SECOND, pairs.answer_token, pairs.wrong_token),
        (OTHER_SECOND, pairs.wrong_token, pairs.answer_token),
    ):
        row, at = torch.nonzero(pairs.roles == role, as_tuple=True)
        assert torch.equal(pairs.clean[row, at], clean[row]) and torch.equal(pairs.corrupted[row, at], corrupted[row])


def test_the_answers_are_what_follows_the_first_piece(drawn):
    """Every earlier copy of the query's token is followed by the answer, in either run; the other's by the other one.
    Catches: answers exchanged, a query at the second piece, names that start with the same piece."""
    _, _, pairs = drawn
    for tokens, answer, other in (
        (pairs.clean, pairs.answer_token, pairs.wrong_token),
        (pairs.corrupted, pairs.wrong_token, pairs.answer_token),
    ):
        for i, row in enumerate(tokens):
            at = int(pairs.query_position[i])
            first = row[at]
            theirs = row[pairs.roles[i] == OTHER_FIRST].unique()
            assert len(theirs) == 1 and theirs[0] != first
            for piece, second in ((first, answer[i]), (theirs[0], other[i])):
                copies = torch.nonzero(row[:at] == piece)[:, 0]
                assert len(copies) >= 1 and (row[copies + 1] == second).all()


def test_first_pieces_can_be_exchanged_instead(drawn):
    """The same clean runs; in corrupted ones the query's token stands before the other's second piece, everywhere.
    Catches: second pieces exchanged as well, a mention or the query's own name mixed up, answers that stay."""
    stories, split, pairs = drawn
    firsts = draw_story_pairs(stories, split, 150, exchanged="first")
    assert torch.equal(firsts.clean, pairs.clean) and torch.equal(firsts.roles, pairs.roles)
    assert torch.equal(firsts.answer_token, pairs.answer_token) and torch.equal(firsts.wrong_token, pairs.wrong_token)
    changed = (firsts.roles == TARGET_FIRST) | (firsts.roles == OTHER_FIRST)
    assert torch.equal(firsts.clean != firsts.corrupted, changed)
    for i, row in enumerate(firsts.corrupted):
        at = int(firsts.query_position[i])
        copies = torch.nonzero(row[:at] == row[at])[:, 0]
        assert (row[copies + 1] == firsts.wrong_token[i]).all() and len(copies) == (
            firsts.roles[i] == OTHER_FIRST
        ).sum()
        theirs = row[firsts.roles[i] == TARGET_FIRST].unique()
        assert len(theirs) == 1 and theirs[0] == firsts.clean[i][firsts.roles[i] == OTHER_FIRST][0]


def test_roles_are_where_the_names_are(drawn):
    """By the tokens' text, not by labels. Catches: a role shifted by one, mentions of a third character taken for the
    other's, pairs without an earlier mention of both."""
    stories, _, pairs = drawn
    names = stories.token_names
    seconds = len(names) - stories.names.second_pieces
    for i, row in enumerate(pairs.clean.tolist()):
        at, roles = int(pairs.query_position[i]), pairs.roles[i].tolist()
        other = row[roles.index(OTHER_FIRST)]
        expected = [-1] * len(row)
        expected[: at + 1] = [REST] * at + [QUERY]
        for t in range(at):
            if row[t] in (row[at], other):
                expected[t : t + 2] = (
                    [TARGET_FIRST, TARGET_SECOND] if row[t] == row[at] else [OTHER_FIRST, OTHER_SECOND]
                )
                assert row[t] < seconds <= row[t + 1] and names[row[t]][0].isupper()
        assert roles == expected
        assert {TARGET_FIRST, TARGET_SECOND, OTHER_FIRST, OTHER_SECOND} <= set(roles)


def test_same_tokens_where_both_are_mentioned_as_often(drawn):
    """Catches: one of the two names is replaced, not exchanged."""
    _, _, pairs = drawn
    often = [(pairs.roles == role).sum(1) for role in (TARGET_SECOND, OTHER_SECOND)]
    equal = often[0] == often[1]
    assert 10 < equal.sum() < len(pairs)
    same = (pairs.clean.sort(1).values == pairs.corrupted.sort(1).values).all(1)
    assert torch.equal(same, equal)


def test_names_are_those_of_the_split(drawn):
    """Catches: training names, on which a model that knows them by heart would need no story."""
    stories, split, pairs = drawn
    seconds = stories.vocab_size - stories.names.second_pieces
    first = pairs.clean[torch.arange(len(pairs)), pairs.query_position] - (seconds - stories.names.first_pieces)
    assert stories.names.pool(split).members[first, pairs.answer_token - seconds].all()


def test_padding(drawn):
    """Catches: tokens of the story, the answer among them, after the query."""
    _, _, pairs = drawn
    after_query = torch.arange(pairs.clean.shape[1]) > pairs.query_position[:, None]
    assert pairs.clean.shape[1] == pairs.query_position.max() + 1 and after_query.any()
    for part, padding in ((pairs.documents, -1), (pairs.roles, -1), (pairs.clean, 0), (pairs.corrupted, 0)):
        assert (part[after_query] == padding).all()
    assert (pairs.documents[~after_query] == 0).all() and (pairs.roles[~after_query] >= 0).all()


def test_mentions_and_characters_vary():
    """Catches: the same mention or the same character in every story."""
    pairs = draw_story_pairs(Stories(), "validation", 150)
    mentions = (pairs.roles == TARGET_FIRST).sum(1)
    first = [int(pairs.roles[i].tolist().index(TARGET_FIRST)) for i in range(150)]
    introduced = [int(pairs.roles[i].tolist().index(OTHER_FIRST)) for i in range(150)]
    assert mentions.unique().numel() > 3
    assert 20 < sum(a < b for a, b in zip(first, introduced, strict=True)) < 130


def test_drawing_is_a_function_of_the_seed():
    """Catches: a generator shared between calls."""
    one, same, other = (draw_story_pairs(CROWDED, "validation", 5, seed) for seed in (0, 0, 1))
    assert torch.equal(one.clean, same.clean) and torch.equal(one.query_position, same.query_position)
    assert one.clean.shape != other.clean.shape or not torch.equal(one.clean, other.clean)


def test_the_query_of_a_later_head_comes_earlier(drawn):
    """Catches: a query on the wrong side, two queries in a row, roles on padding."""
    _, _, pairs = drawn
    assert torch.equal(pairs.for_horizon(1).roles, pairs.roles)
    ahead = pairs.for_horizon(3)
    row, at = torch.nonzero(ahead.roles == QUERY, as_tuple=True)
    assert torch.equal(row, torch.arange(len(pairs))) and torch.equal(at, pairs.query_position - 2)
    assert torch.equal(ahead.roles < 0, pairs.roles < 0)
    moved = torch.arange(pairs.clean.shape[1]) >= (pairs.query_position - 2)[:, None]
    assert torch.equal(ahead.roles[~moved], pairs.roles[~moved])
    assert (ahead.roles[torch.arange(len(pairs)), pairs.query_position] == REST).all()


def test_logit_difference(drawn):
    """Catches: another position, the sign, and swapped pairs that keep the old answers."""
    _, _, pairs = drawn
    logits = torch.randn(*pairs.clean.shape, int(pairs.clean.max()) + 1, generator=torch.Generator().manual_seed(0))
    expected = [
        logits[i, pairs.query_position[i], pairs.answer_token[i]]
        - logits[i, pairs.query_position[i], pairs.wrong_token[i]]
        for i in range(150)
    ]
    assert torch.equal(logit_difference(logits, pairs), torch.stack(expected))
    swapped = pairs.swapped()
    assert torch.equal(logit_difference(logits, swapped), -torch.stack(expected))
    assert torch.equal(swapped.clean, pairs.corrupted) and torch.equal(swapped.corrupted, pairs.clean)
    part = pairs[3:5]
    assert torch.equal(logit_difference(logits[3:5], part), torch.stack(expected[3:5])) and len(part) == 2


def test_what_does_not_fit_is_named():
    pairs = draw_story_pairs(CROWDED, "validation", 2)
    with pytest.raises(ValueError, match="count=0"):
        draw_story_pairs(CROWDED, "validation", 0)
    with pytest.raises(ValueError, match="exchanged='both'"):
        draw_story_pairs(CROWDED, "validation", 2, exchanged="both")
    with pytest.raises(ValueError, match=r"query_position must have shape \(2,\)"):
        replace(pairs, query_position=pairs.query_position[:1])
    with pytest.raises(ValueError, match="horizon=0 must be from 1 to"):
        pairs.for_horizon(0)
    with pytest.raises(ValueError, match="horizon="):
        pairs.for_horizon(int(pairs.query_position.min()) + 2)
    with pytest.raises(ValueError, match=r"role_names=\('target first', 'query'\) must hold rest"):
        replace(pairs, role_names=("target first", "query"))
