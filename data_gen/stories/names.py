"""Names of two pieces ("Bo" + "ra"), pools of pairings, and casts of characters drawn from them.

A name's second piece can be told from its first only by knowing the pairing: from the pool (memory), or from an
earlier mention in the same story (induction). Pools of the three splits never share a pairing and use every piece
evenly. Left out: how names are spelt by a tokenizer (one piece is one token here; data_gen.renaming.rename does real ones).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import lcm
from typing import Literal

import numpy as np

Split = Literal["train", "validation", "test"]

CONSONANTS, VOWELS = "bdfghjklmnprstvz", "aeiou"
SYLLABLES = tuple(map("".join, product(CONSONANTS, VOWELS)))  # 80
MOST_PIECES = len(SYLLABLES)
ALL = 0  # as a number of names: every pairing that is not held out


@dataclass(frozen=True, eq=False)
class Pool:
    """A set of pairings as a table: which (first, second) pieces make a name.

    members  (first pieces, second pieces) bool
    """

    members: np.ndarray

    @cached_property
    def counts(self) -> np.ndarray:
        """(first pieces,) names that begin with each first piece."""
        return self.members.sum(axis=1)

    @cached_property
    def ranks(self) -> np.ndarray:
        """(first, second) how many names with this first piece come before this one."""
        return np.cumsum(self.members, axis=1) - 1

    @cached_property
    def seconds(self) -> np.ndarray:
        """(first, rank) the second piece of that rank; what lies past `counts` is no name."""
        return np.argsort(~self.members, axis=1, kind="stable")

    def __len__(self) -> int:
        return int(self.members.sum())


@dataclass(frozen=True)
class NamePools:
    """Disjoint pools of names for training, validation and test, each using every piece as evenly as can be.

    The grid of pairings is walked along its diagonals, which meet every row and every column in turn, so any stretch
    of the walk is even: the first `names` cells are the training pool, the next `held_out` validation, then test.
    Rows and columns carry random pieces.

    Raises:
        ValueError: for pools that the grid cannot hold, or that leave a model too small a grid to learn from.
    """

    names: int = 256
    """Names K of the training pool; 0: every pairing that is not held out."""
    first_pieces: int = 32
    """Rows of the grid; names / first_pieces names share each first piece."""
    second_pieces: int = 32
    """Columns of the grid."""
    held_out: int = 64
    """Names of each of the validation and the test pool."""
    seed: int = 0
    """Which pieces pair."""
    scattered: bool = field(default=False, metadata={"later": True})
    """Walk the diagonals in random order, so that validation and test pairings are equally far from the training pool.

    In order, the training pool is a band of the grid, validation pairings are its neighbours, and test pairings theirs:
    a model for which similar first pieces have similar seconds finds validation names more likely than test names.
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
                f"holding 2 x {self.held_out} of {grid} pairings out of training on all others teaches a model which "
                f"pairings do not occur; use more pieces (a grid of at least {16 * self.held_out}), or held_out="
                f"{grid // 16}"
            )

    @cached_property
    def _pools(self) -> Mapping[str, Pool]:
        shape = self.first_pieces, self.second_pieces
        rng = np.random.default_rng([self.seed, 0x4E414D45])
        step = np.arange(self.first_pieces * self.second_pieces)
        rows = rng.permutation(shape[0])[step % shape[0]]
        columns = rng.permutation(shape[1])
        diagonal = step // lcm(*shape)
        if self.scattered:
            diagonal = rng.permutation(diagonal[-1] + 1)[diagonal]
        columns = columns[(step + diagonal) % shape[1]]
        known = self.names or len(step) - 2 * self.held_out
        ends = np.array([known, known + self.held_out, known + 2 * self.held_out])
        owner = np.empty(shape, int)
        owner[rows, columns] = np.searchsorted(ends, step, side="right")  # 0 train, 1 validation, 2 test, 3 unused
        pools = {split: Pool(owner == i) for i, split in enumerate(("train", "validation", "test"))}
        return {**pools, "fresh": Pool((owner == 0) | (owner == 3))}

    def pool(self, split: Split) -> Pool:
        """The names of a split."""
        return self._pools[split]

    @property
    def fresh(self) -> Pool:
        """Every pairing that is not held out: where names come from that need not be in the training pool."""
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
    """n syllables that sound as different as can be: 37 has no divisor in common with 80."""
    return tuple(SYLLABLES[37 * i % MOST_PIECES] for i in range(n))


@dataclass(frozen=True, eq=False)
class Cast:
    """The names of each story's characters, and what a reader who knows the pools could expect of each piece.

    All are (stories, characters, 2), the last axis first and second piece: `pieces` int, and float `probability`,
    `entropy` (nats) and `options` of the piece given all names before it, and the first piece for the second.
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

    A story's names come from `fresh` with probability `fresh_share`, else from `pool` (which lies inside `fresh`, if
    the share is not 0). No two names of a story begin alike, except the first two characters' with probability
    `shared_first`. What source a story has is not told: probabilities are means over what is possible so far (Bayes).

    Raises:
        ValueError: where the pool has too few first pieces for the characters, or too few names for a shared one.
    """
    _check_pool(pool, characters, shared_first)
    sources = (pool, fresh)
    counts = np.stack([source.counts for source in sources])  # (source, first)
    ranks = np.stack([source.ranks for source in sources])  # (source, first, second)
    seconds = np.stack([source.seconds for source in sources])  # (source, first, rank)
    members = np.stack([source.members for source in sources])  # (source, first, second)
    every = np.arange(stories)
    source = (rng.random(stories) < fresh_share).astype(np.int64)  # (stories,) 1: fresh
    shares = rng.random(stories) < shared_first  # (stories,)
    belief = np.tile(np.array([1 - fresh_share, fresh_share]), (stories, 1))  # (stories, source)
    free = np.ones((stories, counts.shape[1]), bool)  # (stories, first) not begun with yet
    cast = Cast(
        np.empty((stories, characters, 2), np.int64),
        *(np.empty((stories, characters, 2), np.float32) for _ in range(3)),
    )
    for i in range(characters):
        alike = shares if i == 1 else np.zeros(stories, bool)  # (stories,)
        again = shared_first if i == 1 else 0.0
        weight = free[:, None] * counts  # (stories, source, first)
        total = weight.sum(axis=2)  # (stories, source)
        first = _pick(weight[every, source], rng)  # (stories,)
        before = cast.pieces[:, 0, 0] if i == 1 else first
        first = np.where(alike, before, first)

        chance = (1 - again) * np.einsum("ns,nsf->nf", belief / total, weight)  # (stories, first)
        if again:
            chance[every, before] += again
        _note(cast, (slice(None), i, 0), first, chance[every, first], _entropy(chance), (chance > 0).sum(axis=1))
        # of each source: the chance of this first piece, for its weight after it was seen
        seen = np.where(alike[:, None], again, (1 - again) * weight[every, :, first] / total)  # (stories, source)
        belief = belief * seen
        belief /= belief.sum(axis=1, keepdims=True)

        # the second piece: any of the names that begin so, but for the one that a shared first piece already has
        taken = np.where(alike, cast.pieces[:, 0, 1], 0) if i == 1 else np.zeros(stories, int)
        lost = members[:, first, taken].T & alike[:, None]  # (stories, source)
        left = counts[:, first].T - lost  # (stories, source)
        rank = (rng.random(stories) * left[every, source]).astype(np.int64)
        rank += lost[every, source] & (rank >= ranks[source, first, taken])
        second = seconds[source, first, rank]  # (stories,)
        each = belief / np.maximum(left, 1)  # (stories, source) a name's chance, if the source has it
        common, extra = each.sum(axis=1), each[:, 1]  # of a name of the pool, and of one that is only fresh
        n_common, n_extra = left[:, 0], (left[:, 1] - left[:, 0]) * (fresh_share > 0)
        in_pool = members[0, first, second]
        entropy = -n_common * _xlogx(common) - n_extra * _xlogx(extra)
        n_choices = n_common * (common > 0) + n_extra * (extra > 0)
        _note(cast, (slice(None), i, 1), second, np.where(in_pool, common, extra), entropy, n_choices)
        belief = belief * np.stack([in_pool / np.maximum(left[:, 0], 1), 1 / np.maximum(left[:, 1], 1)], axis=1)
        belief /= belief.sum(axis=1, keepdims=True)
        free[every, first] = False
    return cast


def _check_pool(pool: Pool, characters: int, shared_first: float) -> None:
    if np.count_nonzero(pool.counts) < characters:
        raise ValueError(
            f"{characters} characters need names that begin differently, this pool has "
            f"{np.count_nonzero(pool.counts)} first pieces; use more first_pieces, or more names"
        )
    if shared_first > 0 and pool.counts[pool.counts > 0].min() < 2:
        raise ValueError(
            f"shared_first={shared_first} needs two names for every first piece, this pool of {len(pool)} has a first "
            "piece with only one; use at least 2 x first_pieces names, or shared_first=0"
        )


def _note(cast: Cast, where: tuple, piece: np.ndarray, probability: np.ndarray, entropy: np.ndarray, n_choices) -> None:
    cast.pieces[where], cast.probability[where] = piece, probability
    cast.entropy[where], cast.n_choices[where] = entropy, n_choices


def _pick(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) a column for each row of (n, columns) integer weights, in proportion to them."""
    ends = weight.cumsum(axis=1)
    at = (rng.random(len(weight)) * ends[:, -1]).astype(ends.dtype)
    return (at[:, None] >= ends).sum(axis=1)


def _xlogx(p: np.ndarray) -> np.ndarray:
    return p * np.log(np.where(p > 0, p, 1))


def _entropy(p: np.ndarray) -> np.ndarray:
    """(n,) nats, of (n, outcomes)."""
    return -_xlogx(p).sum(axis=1)
