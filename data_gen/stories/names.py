"""Names of two pieces ("Bo" + "ra"), pools of pairings, and casts of characters drawn from them.

A name's second piece follows from its first only for a reader who knows the pairing: from the pool (memory), or from
an earlier mention in the same story (induction). The pools of the three splits have no pairing in common and use every
piece evenly. Left out: how a real tokenizer splits names. One piece is one token here (see data_gen.renaming).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import lcm
from typing import Literal, NamedTuple

import numpy as np

Split = Literal["train", "validation", "test"]

CONSONANTS, VOWELS = "bdfghjklmnprstvz", "aeiou"
SYLLABLES = tuple(map("".join, product(CONSONANTS, VOWELS)))  # 80
MOST_PIECES = len(SYLLABLES)
ALL = 0  # as a number of names: every pairing that is not held out


@dataclass(frozen=True, eq=False)
class Pool:
    """A set of names as a table of pairings.

    members  (first pieces, second pieces) bool, whether the two pieces make a name
    """

    members: np.ndarray

    @cached_property
    def counts(self) -> np.ndarray:
        """(first pieces,) number of names with each first piece."""
        return self.members.sum(axis=1)

    @cached_property
    def ranks(self) -> np.ndarray:
        """(first, second) position of each name among those with the same first piece, from 0."""
        return np.cumsum(self.members, axis=1) - 1

    @cached_property
    def seconds(self) -> np.ndarray:
        """(first, rank) the second piece of the name with that rank. Entries from `counts` on are not names."""
        return np.argsort(~self.members, axis=1, kind="stable")

    def __len__(self) -> int:
        return int(self.members.sum())


@dataclass(frozen=True)
class NamePools:
    """Disjoint pools of names for training, validation and test, each using every piece as evenly as possible.

    The grid of pairings (first pieces x second pieces) is visited along its diagonals, which meet every row and every
    column in turn. Any stretch of this walk is therefore even: its first `names` pairings are the training pool, the
    next `held_out` the validation pool, and then the test pool. Rows and columns are assigned to pieces at random.

    Raises:
        ValueError: for pools that do not fit in the grid, or a grid too small for a model to generalise from.
    """

    names: int = 256
    """Number K of names in the training pool; 0 means every pairing that is not held out."""
    first_pieces: int = 32
    """Rows of the grid. On average, names / first_pieces training names share a first piece."""
    second_pieces: int = 32
    """Columns of the grid."""
    held_out: int = 64
    """Number of names in the validation pool, and in the test pool."""
    seed: int = 0
    """Seed of the assignment of pieces to rows and columns."""
    scattered: bool = field(default=False, metadata={"later": True})
    """Visit the diagonals in random order, so that validation and test pairings are equally far from the training pool.

    In order, the training pool is a band of the grid, the validation pairings lie next to it, and the test pairings
    next to those. A model that generalises from similar first pieces then predicts validation names better than test
    names.
    """

    def __post_init__(self) -> None:
        for name in ("first_pieces", "second_pieces"):
            if not 2 <= getattr(self, name) <= MOST_PIECES:
                raise ValueError(f"{name}={getattr(self, name)} must be from 2 to {MOST_PIECES}")
        if self.names < 0 or self.held_out < 1 or self.seed < 0:
            raise ValueError(
                f"names={self.names} and seed={self.seed} must not be negative, held_out={self.held_out} at least 1"
            )
        grid = self.first_pieces * self.second_pieces
        if self.names + 2 * self.held_out > grid:
            raise ValueError(
                f"names={self.names} and twice held_out={self.held_out} are more than the {grid} pairings of "
                f"{self.first_pieces} x {self.second_pieces} pieces; use more pieces, or fewer names"
            )
        if self.names == ALL and 16 * self.held_out > grid:
            raise ValueError(
                f"names=0 trains on all but 2 x {self.held_out} of {grid} pairings, so a model can learn which "
                f"pairings never occur; use more pieces (a grid of at least {16 * self.held_out}), or "
                f"held_out={grid // 16}"
            )

    @cached_property
    def _pools(self) -> Mapping[str, Pool]:
        shape = self.first_pieces, self.second_pieces
        rng = np.random.default_rng([self.seed, 0x4E414D45])
        # 1. the walk: the row and the column of each step
        step = np.arange(self.first_pieces * self.second_pieces)
        rows = rng.permutation(shape[0])[step % shape[0]]
        column_order = rng.permutation(shape[1])
        diagonal = step // lcm(*shape)
        if self.scattered:
            diagonal = rng.permutation(diagonal[-1] + 1)[diagonal]
        columns = column_order[(step + diagonal) % shape[1]]
        # 2. which stretch of the walk each pairing is in: 0 train, 1 validation, 2 test, 3 unused
        n_training = self.names or len(step) - 2 * self.held_out
        ends = np.array([n_training, n_training + self.held_out, n_training + 2 * self.held_out])
        stretch = np.empty(shape, int)
        stretch[rows, columns] = np.searchsorted(ends, step, side="right")
        pools = {split: Pool(stretch == i) for i, split in enumerate(("train", "validation", "test"))}
        return {**pools, "fresh": Pool((stretch == 0) | (stretch == 3))}

    def pool(self, split: Split) -> Pool:
        """The names of a split."""
        return self._pools[split]

    @property
    def fresh(self) -> Pool:
        """Every pairing that is not held out, in the training pool or not."""
        return self._pools["fresh"]

    @property
    def first_names(self) -> tuple[str, ...]:
        """The first pieces as text, capitalised."""
        return tuple(syllable.capitalize() for syllable in _spread(self.first_pieces))

    @property
    def second_names(self) -> tuple[str, ...]:
        """The second pieces as text."""
        return _spread(self.second_pieces)


def _spread(n: int) -> tuple[str, ...]:
    """n different syllables that are far apart in SYLLABLES: 37 and 80 have no common divisor."""
    return tuple(SYLLABLES[37 * i % MOST_PIECES] for i in range(n))


@dataclass(frozen=True, eq=False)
class Cast:
    """The names of each story's characters, with the predictions of an ideal reader who knows the pools.

    All arrays are (stories, characters, 2); the last axis is the first and the second piece. `pieces` is int. Float are
    `probability`, `entropy` (nats) and `n_choices` of the piece, given all names before it and, for a second piece, the
    first piece.
    """

    pieces: np.ndarray
    probability: np.ndarray
    entropy: np.ndarray
    n_choices: np.ndarray


def draw_cast(
    pool: Pool,
    fresh: Pool,
    stories: int,
    characters: int,
    rng: np.random.Generator,
    fresh_share: float = 0.0,
    shared_first: float = 0.0,
) -> Cast:
    """Draws names for the characters of many stories, one character after the other.

    All names of a story come from one source: from `fresh` with probability `fresh_share`, else from `pool` (which lies
    inside `fresh`, if the share is not 0). No two names of a story have the same first piece, except those of the first
    two characters with probability `shared_first`. The reader does not know the source of a story. The probabilities
    are means over both sources, weighted with their posterior probabilities (Bayes).

    Raises:
        ValueError: if the pool has fewer first pieces than characters, or too few names for a shared first piece.
    """
    _check_pool(pool, characters, shared_first)
    drawing = _CastDrawing(pool, fresh, stories, rng, fresh_share)
    shares = rng.random(stories) < shared_first  # (stories,) whether the second character repeats A's first piece
    cast = Cast(
        np.zeros((stories, characters, 2), np.int64),
        *(np.empty((stories, characters, 2), np.float32) for _ in range(3)),
    )
    a_name = cast.pieces[:, 0]  # (stories, 2) the first character's name, zeros before it is drawn
    for character in range(characters):
        repeats = shares & (character == 1)
        first = drawing.draw_first(a_name, repeats, shared_first if character == 1 else 0.0)
        second = drawing.draw_second(first.piece, a_name, repeats)
        for i, drawn in enumerate((first, second)):
            cast.pieces[:, character, i] = drawn.piece
            cast.probability[:, character, i] = drawn.probability
            cast.entropy[:, character, i] = drawn.entropy
            cast.n_choices[:, character, i] = drawn.n_choices
    return cast


class _Drawn(NamedTuple):
    """One piece for each story, (stories,), and what the reader predicts for it; fields as in `Cast`."""

    piece: np.ndarray
    probability: np.ndarray
    entropy: np.ndarray
    n_choices: np.ndarray


class _CastDrawing:
    """The state of `draw_cast` between two pieces: each story's source, and the reader's belief about it.

    Wherever an axis is called "source", index 0 is the pool and index 1 is fresh.
    """

    def __init__(self, pool: Pool, fresh: Pool, stories: int, rng: np.random.Generator, fresh_share: float):
        self.rng, self.every, self.any_fresh = rng, np.arange(stories), fresh_share > 0
        self.counts = np.stack([pool.counts, fresh.counts])  # (source, first)
        self.ranks = np.stack([pool.ranks, fresh.ranks])  # (source, first, second)
        self.seconds = np.stack([pool.seconds, fresh.seconds])  # (source, first, rank)
        self.members = np.stack([pool.members, fresh.members])  # (source, first, second)
        self.source = (rng.random(stories) < fresh_share).astype(np.int64)  # (stories,)
        self.belief = np.tile(np.array([1 - fresh_share, fresh_share]), (stories, 1))  # (stories, source) posterior
        self.unused = np.ones((stories, self.counts.shape[1]), bool)  # (stories, first) no name has this first piece

    def draw_first(self, a_name: np.ndarray, repeats: np.ndarray, repeat_probability: float) -> _Drawn:
        """A first piece for each story: A's where `repeats` (stories,), elsewhere one that no character has."""
        # 1. Draw a name of the source with an unused first piece.
        weight = self.unused[:, None] * self.counts  # (stories, source, first) number of such names
        total = weight.sum(axis=2)  # (stories, source)
        piece = _pick(weight[self.every, self.source], self.rng)  # (stories,)
        piece = np.where(repeats, a_name[:, 0], piece)

        # 2. The reader's prediction is a mean over both sources.
        if_not_repeated = np.einsum("ns,nsf->nf", self.belief / total, weight)  # (stories, first)
        probability = (1 - repeat_probability) * if_not_repeated
        probability[self.every, a_name[:, 0]] += repeat_probability
        n_choices = (probability > 0).sum(axis=1)
        drawn = _Drawn(piece, probability[self.every, piece], _entropy(probability), n_choices)

        # 3. The piece is evidence about the source.
        if_new = (1 - repeat_probability) * weight[self.every, :, piece] / total  # (stories, source)
        self._update_belief(np.where(repeats[:, None], repeat_probability, if_new))
        self.unused[self.every, piece] = False
        return drawn

    def draw_second(self, first: np.ndarray, a_name: np.ndarray, repeats: np.ndarray) -> _Drawn:
        """A second piece for each story's first piece (stories,): any that makes a name, except A's name."""
        # 1. All names with this first piece are equally likely, without A's name where its first piece is repeated.
        taken = self.members[:, first, a_name[:, 1]].T & repeats[:, None]  # (stories, source) the source has A's name
        left = self.counts[:, first].T - taken  # (stories, source) number of possible names
        rank = (self.rng.random(len(first)) * left[self.every, self.source]).astype(np.int64)
        rank_of_taken = self.ranks[self.source, first, a_name[:, 1]]
        rank += taken[self.every, self.source] & (rank >= rank_of_taken)  # skips A's name
        piece = self.seconds[self.source, first, rank]  # (stories,)

        # 2. The reader distinguishes names that both sources have (those of the pool) from names that only fresh has.
        per_name = self.belief / np.maximum(left, 1)  # (stories, source) joint probability of the source and one name
        in_both, only_fresh = per_name.sum(axis=1), per_name[:, 1]  # probability of one name of either kind
        n_both, n_only_fresh = left[:, 0], (left[:, 1] - left[:, 0]) * self.any_fresh
        in_pool = self.members[0, first, piece]
        drawn = _Drawn(
            piece,
            np.where(in_pool, in_both, only_fresh),
            -n_both * _xlogx(in_both) - n_only_fresh * _xlogx(only_fresh),
            n_both * (in_both > 0) + n_only_fresh * (only_fresh > 0),
        )

        # 3. The piece is evidence about the source.
        self._update_belief(np.stack([in_pool / np.maximum(left[:, 0], 1), 1 / np.maximum(left[:, 1], 1)], axis=1))
        return drawn

    def _update_belief(self, likelihood: np.ndarray) -> None:
        """Bayes' rule; likelihood (stories, source) is the probability of the drawn piece from each source."""
        self.belief = self.belief * likelihood
        self.belief /= self.belief.sum(axis=1, keepdims=True)


def _check_pool(pool: Pool, characters: int, shared_first: float) -> None:
    if np.count_nonzero(pool.counts) < characters:
        raise ValueError(
            f"{characters} characters need names with different first pieces, but this pool has only "
            f"{np.count_nonzero(pool.counts)} of them; use more first_pieces, or more names"
        )
    if shared_first > 0 and pool.counts[pool.counts > 0].min() < 2:
        raise ValueError(
            f"shared_first={shared_first} needs two names for every first piece, but this pool of {len(pool)} has a "
            "first piece with only one; use at least 2 x first_pieces names, or shared_first=0"
        )


def _pick(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) a column for each row of (n, columns) integer weights, in proportion to them."""
    ends = weight.cumsum(axis=1)
    point = (rng.random(len(weight)) * ends[:, -1]).astype(ends.dtype)  # (n,) in 0..total - 1
    return (point[:, None] >= ends).sum(axis=1)


def _xlogx(p: np.ndarray) -> np.ndarray:
    return p * np.log(np.where(p > 0, p, 1))


def _entropy(p: np.ndarray) -> np.ndarray:
    """(n,) nats, of (n, outcomes) probabilities."""
    return -_xlogx(p).sum(axis=1)
