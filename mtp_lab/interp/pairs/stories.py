"""Pairs of runs that end alike and have to be continued differently: what patching compares. Drawn here from stories.

"Bora met Zumi ... Bo": the clean story goes on with "ra". The corrupt one exchanges the two second pieces, "Bomi met
Zura ... Bo", and goes on with "mi". All other tokens are the same, so an activation of one run fits the same place of
the other, and both runs are stories (symmetric token replacement: Zhang & Nanda 2023, arXiv 2309.16042). Or it
exchanges the first pieces, "Zura met Bomi ... Bo": then what an induction head copies stays where it is, and only what
stands before it tells the two apart: the previous-token half. Left out: pronouns and objects, stories in which names
begin alike, and other streams (polynomial_pairs.py).
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from data_gen.batch import NO_VALUE, Documents
from data_gen.stories.generator import N_CHARACTERS, Stories
from data_gen.stories.names import Split
from mtp_lab.config import check_choice
from mtp_lab.interp.pairs.base import Pairs, gather

ROLES = ("target first", "target second", "other first", "other second", "query", "rest")
"""In a story a position is a piece in an earlier mention of the target or of the other, the query, or the rest."""
Piece = Literal["first", "second"]


def draw_pairs(stories: Stories, split: Split, count: int, seed: int = 0, exchanged: Piece = "second") -> Pairs:
    """`count` pairs, each from a story of its own, with names of a split; the same at every call.

    A pair's target is any mention of a character who has been mentioned before, cut after its first piece; the other
    is any character mentioned before it, whose second piece is a different one. A reader who goes by the story is
    right in both runs; one who knows pairings by heart is not, as the corrupt run's need not be names of the split:
    most are in no pool, some may be in the training pool.

    Args:
        exchanged: the pieces of earlier mentions in which the corrupt run differs.

    Raises:
        ValueError: for fewer than one pair, or pieces of another name; what `Stories.of` raises.

    Example:
        >>> pairs = draw_pairs(task.stream, "validation", 200)
        >>> logit_difference(model(pairs.clean, pairs.documents), pairs).mean()
    """
    check_choice("exchanged", exchanged, Piece)
    told = replace(stories, shared_first=0.0).of(split)  # with names that begin alike, two answers would be right
    rng = np.random.default_rng([0x50414952, seed])
    return gather(lambda: _found(told.documents(count, rng), told.longest, exchanged, rng), count, ROLES)


def _found(documents: Documents, width: int, exchanged: Piece, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What `gather` asks for, rows `width` wide, for every one of the stories that has a pair."""
    place = np.arange(width)
    inside = place < documents.lengths[:, None]  # (stories, seq)
    source = np.minimum((documents.ends - documents.lengths)[:, None] + place, len(documents.tokens) - 1)

    def rows_of(values: np.ndarray, fill: int | bool) -> np.ndarray:  # (stories, seq)
        return np.where(inside, values[source], fill)

    tokens, entity = rows_of(documents.tokens, 0), rows_of(documents.labels["entity"], NO_VALUE)
    second, again = (rows_of(documents.labels[name], False) for name in ("second_piece", "induction"))
    told = second[:, :, None] & (entity[:, :, None] == np.arange(N_CHARACTERS))  # (stories, seq, characters)
    known = told.cumsum(axis=1) > 0  # (stories, seq, characters) by here, a mention has been told
    piece = (tokens[:, :, None] * told).max(axis=1)  # (stories, characters) 0: never mentioned
    differ = piece[:, :, None] != piece[:, None, :]  # (stories, target, other); nobody differs from themselves
    possible = (told & again[:, :, None])[..., None] & known[:, :, None] & differ[:, None]  # (stories, seq, t, o)
    chances = (possible * (1 - rng.random(possible.shape))).reshape(len(tokens), -1)  # above 0 where possible
    story = np.flatnonzero(chances.any(axis=1))
    after, target, other = np.unravel_index(chances[story].argmax(axis=1), possible.shape[1:])  # each (pairs,)

    at, tokens, entity, second = after - 1, tokens[story], entity[story], second[story]
    right, wrong = piece[story, target], piece[story, other]  # (pairs,)
    before = place < at[:, None]  # (pairs, seq)
    mine, theirs = before & (entity == target[:, None]), before & (entity == other[:, None])
    query = place == at[:, None]
    cases = [mine & ~second, mine & second, theirs & ~second, theirs & second, query]  # in the order of ROLES
    roles = np.select(cases, range(len(cases)), ROLES.index("rest"))
    here, own, others = second, right, wrong  # where runs differ, and what stands there
    if exchanged == "first":
        here = ~second
        own, others = (tokens[np.arange(len(at)), of.argmax(axis=1)] for of in (query, theirs & here))  # (pairs,) each
    corrupt = np.select([mine & here, theirs & here], [others[:, None], own[:, None]], tokens)
    return {"clean": tokens, "corrupt": corrupt, "roles": roles, "at": at, "right": right, "wrong": wrong}
