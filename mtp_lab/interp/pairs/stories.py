"""Pairs of stories in which two characters have exchanged a piece of their names.

"Bora met Zumi ... Bo": the clean story continues with "ra". The corrupted story exchanges the second pieces, "Bomi met
Zura ... Bo", and continues with "mi". All other tokens are the same, so each activation of one run has its counterpart
in the other, and both runs are stories (symmetric token replacement: Zhang & Nanda 2023, arXiv 2309.16042).

The first pieces can be exchanged instead, "Zura met Bomi ... Bo". Then the tokens that an induction head copies stay in
place, and only the tokens before them tell them apart, which is the previous-token half of the circuit.

Left out: pronouns and objects, and stories in which two names start with the same piece.
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from data_gen.batch import NO_VALUE, Documents
from data_gen.stories.generator import N_CHARACTERS, Stories
from data_gen.stories.names import Split
from mtp_lab.config import check_choice
from mtp_lab.interp.pairs.base import Pairs, assign_roles, collect_pairs, one_document_per_row

STORY_ROLES = ("target first", "target second", "other first", "other second", "query", "rest")
"""The role of a position: a piece in an earlier mention of the target or of the other character, the query, or rest."""
Piece = Literal["first", "second"]


def draw_story_pairs(stories: Stories, split: Split, count: int, seed: int = 0, exchanged: Piece = "second") -> Pairs:
    """`count` pairs, each from its own story, with names of a split. The same arguments give the same pairs.

    The target of a pair is a random mention of a character who was mentioned before, and the story is cut after the
    first piece of this mention. The other character is also mentioned before it, with a different second piece.

    A model that follows the story is right in both runs. One that has memorised names is not: the corrupted names need
    not be names of the split. Most of them are in no pool, some may be in the training pool.

    Args:
        exchanged: the pieces of earlier mentions in which the corrupted run differs.

    Raises:
        ValueError: for fewer than one pair, or an unknown `exchanged`; as `Stories.of`.

    Example:
        >>> pairs = draw_story_pairs(Stories(), "validation", 200)
        >>> changed = pairs.role_names.index("target second"), pairs.role_names.index("other second")
        >>> bool(((pairs.clean != pairs.corrupted) == np.isin(pairs.roles, changed)).all())
        True
    """
    check_choice("exchanged", exchanged, Piece)
    stories = replace(stories, shared_first=0.0).of(split)  # two names with one first piece would give two answers
    rng = np.random.default_rng([0x50414952, seed])
    return collect_pairs(
        lambda: _pairs_from(stories.documents(count, rng), stories.longest, exchanged, rng), count, STORY_ROLES
    )


def _pairs_from(documents: Documents, width: int, exchanged: Piece, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The fields for `collect_pairs`, in rows of `width` tokens, of every story that allows a pair."""
    labels = documents.labels
    tokens = one_document_per_row(documents, documents.tokens, width)  # (stories, seq)
    character = one_document_per_row(documents, labels["entity"], width, NO_VALUE)  # (stories, seq)
    is_second = one_document_per_row(documents, labels["second_piece"], width)  # (stories, seq) bool
    is_repeated = one_document_per_row(documents, labels["induction"], width)  # (stories, seq) bool

    # 1. All choices of a target's second piece and another character that make a pair; one of them for each story.
    names_second = is_second[:, :, None] & (character[:, :, None] == np.arange(N_CHARACTERS))  # (stories, seq, chars)
    mentioned = names_second.cumsum(axis=1) > 0  # (stories, seq, chars) up to and including this position
    second_piece = (tokens[:, :, None] * names_second).max(axis=1)  # (stories, chars); 0 if never mentioned
    repeats_target = names_second & is_repeated[:, :, None]  # (stories, seq, target)
    pieces_differ = second_piece[:, :, None] != second_piece[:, None, :]  # (stories, target, other)
    possible = (
        repeats_target[:, :, :, None]  # (stories, seq, target, 1)
        & mentioned[:, :, None, :]  # (stories, seq, 1, other)
        & pieces_differ[:, None, :, :]  # (stories, 1, target, other)
    )
    priority = possible * (1 - rng.random(possible.shape))  # above 0 where possible
    priority = priority.reshape(len(tokens), -1)  # (stories, seq * target * other)
    story = np.flatnonzero(priority.any(axis=1))  # (pairs,) the stories that allow a pair
    answer_position, target, other = np.unravel_index(priority[story].argmax(axis=1), possible.shape[1:])  # (pairs,)

    # 2. The roles of the positions before the answer.
    tokens, character, is_second = tokens[story], character[story], is_second[story]  # (pairs, seq)
    query, position = answer_position - 1, np.arange(width)
    earlier = position < query[:, None]  # (pairs, seq)
    of_target, of_other = (earlier & (character == chosen[:, None]) for chosen in (target, other))  # (pairs, seq)
    cases = {
        "target first": of_target & ~is_second,
        "target second": of_target & is_second,
        "other first": of_other & ~is_second,
        "other second": of_other & is_second,
        "query": position == query[:, None],
    }

    # 3. The corrupted run: the target has the other character's piece in each earlier mention, and the reverse.
    answer_token, wrong_token = second_piece[story, target], second_piece[story, other]  # (pairs,)
    if exchanged == "second":
        target_piece, other_piece = answer_token, wrong_token
    else:
        row = np.arange(len(story))
        target_piece, other_piece = tokens[row, query], tokens[row, cases["other first"].argmax(axis=1)]
    changed = [cases[f"target {exchanged}"], cases[f"other {exchanged}"]]
    return {
        "clean": tokens,
        "corrupted": np.select(changed, [other_piece[:, None], target_piece[:, None]], tokens),
        "roles": assign_roles(cases, STORY_ROLES),
        "query_position": query,
        "answer_token": answer_token,
        "wrong_token": wrong_token,
    }
