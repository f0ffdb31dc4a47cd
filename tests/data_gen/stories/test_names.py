"""Names and casts: every test states a property and the bug it would catch."""

import numpy as np
import pytest

from data_gen.stories.names import NamePools, draw_cast

GRIDS = [
    NamePools(),
    NamePools(names=0, held_out=32),
    NamePools(names=33, first_pieces=8, second_pieces=12, held_out=10),
    NamePools(names=96, first_pieces=32, second_pieces=20, held_out=17, seed=3),
    NamePools(scattered=True),
    NamePools(names=33, first_pieces=8, second_pieces=12, held_out=10, scattered=True),
]


@pytest.mark.parametrize("pools", GRIDS, ids=str)
def test_no_pairing_is_in_two_splits_and_every_piece_is_used_evenly(pools):
    """Catches: a test pairing seen in training, which turns induction into memory; a piece that is too likely."""
    members = [pools.pool(split).members for split in ("train", "validation", "test")]
    assert np.sum(members, axis=0).max() == 1
    assert len(pools.pool("train")) == (pools.names or 32 * 32 - 64)
    for split in members:
        for axis in (0, 1):
            assert np.ptp(split.sum(axis=axis)) <= 1
    assert not (pools.fresh.members & (members[1] | members[2])).any()


def nearness(pools: NamePools, split: str) -> float:
    """Second pieces that a pairing's first piece shares with first pieces that have this second: mean over pairings."""
    train = pools.pool("train").members.astype(int)
    shared = train @ train.T  # (first, first) second pieces in common
    names = np.argwhere(pools.pool(split).members)
    return float(np.mean([shared[first] @ train[:, second] for first, second in names]))


def test_scattered_pools_hold_out_similar_pairings():
    """In order, validation names have more in common with the pool than test names; scattered, as much.
    Catches: validation names that are easier than test names; default pools that have changed."""
    ordered = [[nearness(NamePools(seed=seed), split) for split in ("validation", "test")] for seed in range(20)]
    pools = [NamePools(seed=seed, scattered=True) for seed in range(60)]
    scattered = np.array([[nearness(p, split) for split in ("validation", "test")] for p in pools])
    gap = scattered[:, 0] - scattered[:, 1]
    assert all(validation > test + 1 for validation, test in ordered)
    assert abs(gap.mean()) < 3 * gap.std() / np.sqrt(len(gap))
    assert NamePools().pool("train").members[0].nonzero()[0].tolist() == [7, 10, 16, 18, 20, 21, 26, 31]


@pytest.mark.parametrize(
    "settings", [{}, {"fresh_share": 0.3}, {"shared_first": 0.4}, {"fresh_share": 0.3, "shared_first": 0.5}]
)
def test_stated_probabilities_agree_with_frequencies(settings):
    """For every piece, the mean of -log p minus entropy is 0 within 5 standard errors."""
    pools, n = NamePools(names=64), 40_000
    cast = draw_cast(pools.pool("train"), pools.fresh, n, 4, np.random.default_rng(0), **settings)
    surplus = -np.log(cast.probability) - cast.entropy  # (stories, characters, 2)
    assert (np.abs(surplus.mean(axis=0)) <= 5 * surplus.std(axis=0) / np.sqrt(n) + 1e-5).all()
    first = cast.pieces[:, :, 0]
    shared = (first[:, 0] == first[:, 1]).mean()
    assert abs(shared - settings.get("shared_first", 0)) < 0.02
    assert all(len(set(row[1:])) == 3 for row in first[:500].tolist())
    assert len({tuple(name) for name in cast.pieces[0].tolist()}) == 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"names": 1000}, "names=1000 and twice held_out=64 are more than the 1024 pairings"),
        ({"first_pieces": 99}, "first_pieces=99 must be from 2 to 80"),
        ({"names": 0, "first_pieces": 8, "second_pieces": 8, "held_out": 8}, "use more pieces"),
        ({"held_out": 0}, "held_out=0 at least 1"),
    ],
)
def test_pools_that_cannot_be_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        NamePools(**arguments)


def test_casts_that_a_pool_cannot_fill_are_named():
    pools = NamePools(names=32)
    with pytest.raises(ValueError, match="needs two names for every first piece"):
        draw_cast(pools.pool("train"), pools.fresh, 1, 2, np.random.default_rng(0), shared_first=0.5)
