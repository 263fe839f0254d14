from __future__ import annotations

import numpy as np
import pytest

from swift.data import plan_packs
from swift.errors import SwiftError


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """The textbook's way, one sample at a time."""
    packs: list[list[int]] = []
    rooms: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [pack for pack, room in enumerate(rooms) if room >= lengths[index]]
        if not fitting:
            packs.append([])
            rooms.append(capacity)
        best = min(fitting, key=lambda pack: rooms[pack], default=len(packs) - 1)
        packs[best].append(index)
        rooms[best] -= lengths[index]
    return packs


def test_best_fit_decreasing_by_hand():
    assert plan_packs([6, 3, 5, 4, 2], 10, "binpack") == [[0, 3], [1, 2, 4]]


def test_sequential_keeps_the_order():
    assert plan_packs([6, 3, 5, 4, 2], 10, "sequential") == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("strategy", ["binpack", "sequential"])
@pytest.mark.parametrize("seed", range(5))
def test_every_sample_is_in_one_pack_and_no_pack_is_too_long(strategy, seed):
    lengths = np.random.RandomState(seed).randint(1, 101, 500)
    packs = plan_packs(lengths, 100, strategy)
    assert sorted(i for pack in packs for i in pack) == list(range(500))
    assert max(lengths[pack].sum() for pack in packs) <= 100
    assert packs == plan_packs(lengths, 100, strategy)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("low", "high"), [(1, 101), (1, 30), (30, 60)])
def test_packs_are_as_full_as_best_fit_decreasing_makes_them(seed, low, high):
    lengths = np.random.RandomState(seed).randint(low, high, 200)
    ours = sorted(int(lengths[pack].sum()) for pack in plan_packs(lengths, 100, "binpack"))
    expected = sorted(int(lengths[pack].sum()) for pack in best_fit_decreasing(lengths.tolist(), 100))
    assert ours == expected


@pytest.mark.parametrize("sigma", [0.5, 0.9, 1.2])
def test_best_fit_fills_packs_of_ordinary_samples(sigma):
    """Lengths of conversations are about log-normal."""
    lengths = np.random.RandomState(0).lognormal(np.log(300), sigma, 20_000).astype(np.int64).clip(2, 4096)
    packs = plan_packs(lengths, 4096, "binpack")
    assert lengths.sum() >= 0.99 * 4096 * len(packs)


def test_no_samples_give_no_packs():
    assert plan_packs([], 10, "binpack") == plan_packs([], 10, "sequential") == []


def test_a_sample_longer_than_a_pack_is_an_error():
    with pytest.raises(SwiftError, match="sample 1 has 11 tokens, which is more than --packing_length 10"):
        plan_packs([3, 11], 10, "binpack")
