from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from swift.data import RankBatches, StepPlan, UnitIndex
from swift.errors import SwiftError


def plan_of(units: int, **changes) -> StepPlan:
    options = {"batch_size": 2, "accumulation": 2, "world_size": 2, "seed": 7, "shuffle": False} | changes
    return StepPlan(units, **options)


def test_the_order_without_shuffle_is_the_order_of_the_data():
    steps = plan_of(16).epoch(0)
    assert steps == [
        [[[0, 1], [2, 3]], [[4, 5], [6, 7]]],
        [[[8, 9], [10, 11]], [[12, 13], [14, 15]]],
    ]


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (1, [[[8], []]]),
        (3, [[[8, 9], [10]]]),
        (4, [[[8, 9], [10, 11]]]),
        (5, [[[8, 9], [10]], [[11], [12]]]),
        (7, [[[8, 9], [10, 11]], [[12, 13], [14]]]),
    ],
)
def test_the_last_step_is_spread_evenly(rest, expected):
    plan = plan_of(8 + rest)
    assert plan.steps_per_epoch == 2
    assert plan.epoch(0)[-1] == expected


@pytest.mark.parametrize("units", [1, 7, 8, 29, 64])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_unit_comes_once_and_ranks_have_as_many_micro_batches(units, world_size, shuffle):
    plan = plan_of(units, world_size=world_size, shuffle=shuffle)
    ranks = [list(RankBatches(plan, rank)) for rank in range(world_size)]
    assert sorted(unit for rank in ranks for batch in rank for unit in batch) == list(range(units))
    assert {len(rank) for rank in ranks} == {plan.micro_batches_per_epoch} == {len(RankBatches(plan, 0))}
    assert len(plan.epoch(0)) == plan.steps_per_epoch
    assert all(len(batch) <= plan.batch_size for rank in ranks for batch in rank)


@pytest.mark.parametrize(("batch_size", "accumulation", "world_size"), [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)])
def test_a_step_has_the_same_units_however_it_is_dealt_out(batch_size, accumulation, world_size):
    reference = plan_of(50, batch_size=8, accumulation=1, world_size=1, shuffle=True)
    plan = plan_of(50, batch_size=batch_size, accumulation=accumulation, world_size=world_size, shuffle=True)
    for epoch in (0, 3):
        for step, expected in zip(plan.epoch(epoch), reference.epoch(epoch), strict=True):
            assert [u for micro in step for rank in micro for u in rank] == [u for m in expected for r in m for u in r]


@pytest.mark.parametrize(("batch_size", "accumulation", "world_size"), [(1, 8, 1), (2, 2, 2), (4, 1, 2)])
def test_steps_of_like_length_are_the_same_however_they_are_dealt_out(batch_size, accumulation, world_size):
    lengths = np.random.RandomState(0).randint(1, 1000, 1003)
    options = {"shuffle": True, "lengths": lengths}
    reference = plan_of(1003, batch_size=8, accumulation=1, world_size=1, **options)
    plan = plan_of(1003, batch_size=batch_size, accumulation=accumulation, world_size=world_size, **options)
    for epoch in (0, 1):
        units = [[u for micro in step for rank in micro for u in rank] for step in plan.epoch(epoch)]
        assert units == [[u for m in expected for r in m for u in r] for expected in reference.epoch(epoch)]
        assert sorted(u for step in units for u in step) == list(range(1003))
        assert lengths[units[0]].max() == lengths[[u for step in units[:-1] for u in step]].max()
        assert len(units[-1]) == 3
    assert plan.epoch(0) != plan.epoch(1)

    def padding(plan):
        batches = [lengths[rank] for step in plan.epoch(0) for micro in step for rank in micro if rank]
        return sum(len(batch) * batch.max() - batch.sum() for batch in batches)

    assert padding(reference) < 0.1 * padding(plan_of(1003, batch_size=8, accumulation=1, world_size=1, shuffle=True))


def test_epochs_differ_and_repeat():
    plan = plan_of(64, shuffle=True)
    assert plan.epoch(0) != plan.epoch(1)
    assert plan.epoch(1) == plan_of(64, shuffle=True).epoch(1)
    assert plan.epoch(0) != plan_of(64, shuffle=True, seed=8).epoch(0)
    batches = RankBatches(plan, 1)
    batches.set_epoch(1)
    assert list(batches) == [micro[1] for step in plan.epoch(1) for micro in step]


def test_drop_last_leaves_the_smaller_step_out():
    plan = plan_of(13, drop_last=True)
    assert (plan.steps_per_epoch, plan.micro_batches_per_epoch, len(plan.epoch(0))) == (1, 2, 1)


@pytest.mark.parametrize(("units", "drop_last"), [(0, False), (7, True)])
def test_no_step_at_all_is_an_error(units, drop_last):
    with pytest.raises(SwiftError, match=f"{units} samples do not fill one step of 8"):
        plan_of(units, drop_last=drop_last)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_takes_the_plan(workers):
    batches = RankBatches(plan_of(9), 1)
    loader = torch.utils.data.DataLoader(UnitIndex(9), batch_sampler=batches, collate_fn=list, num_workers=workers)
    assert list(loader) == [[2, 3], [6, 7], []]


def test_importing_the_room_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'datasets', 'pandas', 'pyarrow'} & set(sys.modules)"
    code = f"import sys, swift.data; [getattr(swift.data, n) for n in swift.data.__all__]; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)
