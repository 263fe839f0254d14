"""Which units every optimizer step, micro-batch and rank gets: one plan owns the global batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from swift.errors import SwiftError

WINDOW = 50
"""Steps of units that are sorted together by length."""

Step = list[list[list[int]]]
"""Units of one optimizer step: by micro-batch, then by rank."""


def data_seed(options: Any) -> int:
    """The seed of the order of the data: `data_seed` of these options, or else their `seed`."""
    return int(options.seed if options.data_seed is None else options.data_seed)


def seeded(*seeds: int) -> np.random.RandomState:
    """Random numbers whose stream numpy keeps the same in every version, so that a resumed run sees the same order."""
    return np.random.RandomState([seed % 2**32 for seed in seeds])


class StepPlan:
    """The global batches of a run; the same for every rank.

    A unit is a sample, or a pack of samples. Every step but the last of an epoch has
    `batch_size * accumulation * world_size` units. The last one takes the rest in as few micro-batches as hold it,
    spread evenly, so that every rank has the same number of micro-batches; some of those may be empty.

    Args:
        units: how many there are.
        batch_size: units of a micro-batch on a rank.
        accumulation: micro-batches of a step.
        world_size: ranks.
        seed: of the order.
        shuffle: a new order in each epoch; else the order of the data.
        drop_last: leave out the last, smaller step.
        lengths: of each unit, where steps are made of units of like length; the last, smaller step has random ones.

    Raises:
        SwiftError: there is not one step in an epoch.
    """

    def __init__(
        self,
        units: int,
        *,
        batch_size: int,
        accumulation: int,
        world_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool = False,
        lengths: np.ndarray | None = None,
    ) -> None:
        self.units, self.batch_size, self.accumulation, self.world_size = units, batch_size, accumulation, world_size
        self.seed, self.shuffle, self.drop_last, self.lengths = seed, shuffle, drop_last, lengths
        self.units_per_step = batch_size * accumulation * world_size
        full, rest = divmod(units, self.units_per_step)
        self._last_units = 0 if drop_last else rest
        self._last_micro_batches = -(-self._last_units // (batch_size * world_size))
        self.steps_per_epoch = full + (self._last_units > 0)
        self.micro_batches_per_epoch = full * accumulation + self._last_micro_batches
        if not self.steps_per_epoch:
            raise SwiftError(
                f"{units} samples do not fill one step of {self.units_per_step} "
                f"({batch_size} per device × {accumulation} accumulated × {world_size} processes)",
                fix="use more data or a smaller batch, or keep the last step (--dataloader_drop_last false)",
            )

    def split_into(self, batch_size: int) -> StepPlan:
        """The same steps in micro-batches of another size, by which a rank's share of a step can be divided."""
        return StepPlan(
            self.units,
            batch_size=batch_size,
            accumulation=self.batch_size * self.accumulation // batch_size,
            world_size=self.world_size,
            seed=self.seed,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            lengths=self.lengths,
        )

    def epoch(self, epoch: int) -> list[Step]:
        """The steps of an epoch, the same for every call with the same number."""
        return list(self.steps(epoch))

    def steps(self, epoch: int) -> Iterator[Step]:
        """The same, one by one; without shuffling nothing is held but the step."""
        order: Sequence[int] = range(self.units)
        if self.shuffle:
            draw = seeded(self.seed, epoch)
            shuffled = draw.permutation(self.units)
            order = (shuffled if self.lengths is None else self._grouped(shuffled, draw)).tolist()
        for start in range(0, self.steps_per_epoch * self.units_per_step, self.units_per_step):
            yield self._step(list(order[start : start + self.units_per_step]))

    def _grouped(self, order: np.ndarray, draw: np.random.RandomState) -> np.ndarray:
        """The order in which each step has units of like length: int64[units] from a random int64[units].

        Units are sorted, the longest first, within stretches of `WINDOW` steps, so that steps differ between epochs.
        """
        assert self.lengths is not None
        lengths = self.lengths
        whole = self.units // self.units_per_step * self.units_per_step

        def falling(units: np.ndarray) -> np.ndarray:
            return units[np.argsort(-lengths[units], kind="stable")]

        size = self.units_per_step * WINDOW
        windows = [falling(order[start : min(start + size, whole)]) for start in range(0, whole, size)]
        steps = np.concatenate([*windows, order[:0]]).reshape(-1, self.units_per_step)
        steps = steps[draw.permutation(len(steps))]
        if len(steps):
            first = int(lengths[steps[:, 0]].argmax())
            steps[[0, first]] = steps[[first, 0]]
        return np.concatenate([steps.ravel(), falling(order[whole:])])

    def step(self, number: int) -> Step:
        """An optimizer step of the run, counted from 1 over all epochs."""
        epoch, before = divmod(number - 1, self.steps_per_epoch)
        return next(islice(self.steps(epoch), before, None))

    def _step(self, units: list[int]) -> Step:
        """Deal the units of one step out to micro-batches and ranks, as evenly as they go."""
        micro_batches = -(-len(units) // (self.batch_size * self.world_size))
        small, larger = divmod(len(units), micro_batches * self.world_size)
        sizes = [small + (slot < larger) for slot in range(micro_batches * self.world_size)]
        stops = np.cumsum(sizes).tolist()
        slots = [units[stop - size : stop] for size, stop in zip(sizes, stops, strict=True)]
        return [slots[first : first + self.world_size] for first in range(0, len(slots), self.world_size)]


class RankBatches:
    """The micro-batches of one rank, as the batch sampler of a DataLoader.

    Args:
        plan: the plan that all ranks share.
        rank: this rank.
    """

    def __init__(self, plan: StepPlan, rank: int) -> None:
        self.plan, self.rank, self._epoch = plan, rank, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self.plan.micro_batches_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.plan.steps(self._epoch):
            for ranks in step:
                yield ranks[self.rank]


class UnitIndex:
    """The data set that a DataLoader is given: item i is i, and the collator fetches what it stands for."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.n:
            raise IndexError(index)
        return index
