"""Rows, samples and the order of steps of a training run."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from swift.config import Decisions, SftConfig
from swift.data import (
    Collator,
    Dropped,
    EncodedDataset,
    Layout,
    StepPlan,
    by_reason,
    check_packing,
    plan_packs,
)
from swift.data.drops import DroppedRows
from swift.data.steps import data_seed
from swift.errors import SwiftError
from swift.models import load_config
from swift.models.tokenizer import pad_id
from swift.rows import IGNORE
from swift.train import distributed
from swift.train.channels import Channels, channels_of
from swift.train.live import Live, StreamRows, is_live, prepare_live
from swift.train.tokenised import RunRows, tokenise

if TYPE_CHECKING:
    from swift.data.collator import Lay
    from swift.data.live import LazyCollator, StreamCollator
    from swift.models.source import ModelSource
    from swift.tasks.base import Task
    from swift.templates import Template

ROWS_IN_A_STEP = 16
PACK_AT_LEAST = 4096


def check_prompts(template: Template, task: Task, reader: RunRows | StreamRows, decisions: Decisions) -> None:
    """Stop where serving would send other prompts than training puts before its answers.

    Raises:
        SwiftError: it names the row and the turn and shows both texts.
    """
    from swift.engines.parity import check_parity

    if not task.from_tokens:
        return
    same = "served prompt and trained prefix are the same, id for id"
    # Of rows that are tokenised already, some are kept beside their tokens.
    sets = reader.kept if reader.found is None else [each.rows for each in reader.found if each]
    checked = [check_parity(template, rows) for rows in sets]
    decisions.add("parity", f"{sum(each.samples for each in checked)} samples checked", "data", same)


@dataclass
class Samples:
    """A tokenised set and its units: packs, or samples that the task takes together, else single samples."""

    dataset: EncodedDataset
    units: list[list[int]] | None

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.units) if self.units is not None else len(self.dataset)

    def tokens(self) -> np.ndarray:
        """int64[units], the tokens of each unit."""
        lengths = self.dataset.lengths.astype(np.int64)
        return lengths if self.units is None else np.array([lengths[unit].sum() for unit in self.units])

    def trained(self) -> np.ndarray:
        """int64[units], the trained tokens of each unit."""
        trained = self.dataset.trained.astype(np.int64)
        return trained if self.units is None else np.array([trained[unit].sum() for unit in self.units])

    def samples(self, units: Sequence[int]) -> list[int]:
        """The samples of some units."""
        return list(units) if self.units is None else [sample for unit in units for sample in self.units[unit]]

    def padded(self, multiple: int) -> Callable[[Sequence[int]], int]:
        """A function of units that gives the tokens of their padded batch."""
        lengths = -(-self.dataset.lengths.astype(np.int64) // multiple) * multiple

        def size(units: Sequence[int]) -> int:
            chosen = self.samples(units)
            return int(lengths[chosen].max()) * len(chosen)

        return size

    def fingerprint(self) -> str:
        """Changes with any token, label, weight or pack, so that a resumed run notices other data."""
        data = self.dataset
        parts = [data.ids, data.labels, data.lengths, data.weights, data.targets, data.target_sizes]
        packs = [np.array(unit, dtype=np.int64) for unit in self.units or []]
        total = 0
        for part in [*parts, *packs]:
            total = zlib.crc32(b"" if part is None else np.ascontiguousarray(part).data, total)
        return f"{total:08x}-{len(data)}-{self.count}"


def read_rows(config: SftConfig) -> RunRows | StreamRows:
    """Read and check the rows for training and evaluation, unless they are tokenised already; of a stream the first.

    Raises:
        SwiftError: a row or file cannot be used; nothing has been loaded yet.
    """
    seed = data_seed(config.train)
    if config.data.streaming:
        return StreamRows(config, seed)
    return RunRows(config, seed, keep=not config.data.lazy_tokenize)


def pack(config: SftConfig, dataset: EncodedDataset, longest: int | None, decisions: Decisions) -> Samples:
    """Put samples into packs."""
    capacity = config.data.packing_length
    if capacity is None and config.given("max_length"):
        capacity = config.template.max_length
    if capacity is None:
        capacity = max(PACK_AT_LEAST, int(dataset.lengths.max()))
        capacity = min(capacity, longest) if longest else capacity
        decisions.add(
            "packing_length", capacity, "data", "the longest sample, 4096 at least, the model's limit at most"
        )
    if int(dataset.lengths.max()) > capacity:
        raise SwiftError(
            f"--packing_length {capacity}: a sample has {int(dataset.lengths.max())} tokens",
            fix="raise it, or lower --max_length to it",
        )
    return Samples(dataset, plan_packs(dataset.lengths, capacity, config.data.packing_strategy))


def step_plan(
    config: SftConfig, units: int | None, world_size: int, decisions: Decisions, lengths: np.ndarray | None = None
) -> StepPlan:
    """The order of global batches; no number of units means a stream, which has as many as the steps take."""
    train = config.train
    accumulation = train.gradient_accumulation_steps
    per_step = train.per_device_train_batch_size * world_size
    if accumulation is None:
        accumulation = max(1, -(-ROWS_IN_A_STEP // per_step))
        reason = f"{per_step} samples in a micro-batch, so that a step has {ROWS_IN_A_STEP} or more"
        decisions.add("gradient_accumulation_steps", accumulation, "default", reason)
    return StepPlan(
        units if units is not None else train.max_steps * per_step * accumulation,
        batch_size=train.per_device_train_batch_size,
        accumulation=accumulation,
        world_size=world_size,
        seed=data_seed(train),
        shuffle=config.data.train_dataloader_shuffle and units is not None,
        drop_last=bool(train.more.get("dataloader_drop_last", False)),
        lengths=lengths if config.data.group_by_length else None,
    )


class MicroBatch(NamedTuple):
    """The shape of a micro-batch: its tokens with padding, the places whose logits are computed, and its rows."""

    tokens: int
    logits: int
    rows: int


@dataclass
class Prepared:
    """All that the data gives a run.

    Attributes:
        train: samples for training.
        held: samples for evaluation.
        plan: the order of global batches.
        end_to_end: samples lie end to end in a batch instead of being padded.
        notes: counted warnings of the template.
        dropped: rows and samples that were left out, and why.
        channels: the channels of the samples for training, where their losses are logged.
        live: what makes the samples for training while the run goes on; `train` is then a look at the first.
        task: how samples are laid.
    """

    train: Samples
    held: Samples | None
    plan: StepPlan
    end_to_end: bool
    notes: dict[str, int]
    dropped: Sequence[Dropped]
    channels: Channels | None = None
    live: Live | None = None
    task: Task | None = None

    def layout(self, tokenizer: Any, multiple: int, borders: bool = False) -> Lay:
        """How the samples of a batch lie; lengths are rounded up to `multiple`."""
        pad = pad_id(tokenizer)
        padded = Layout(pad, padding_free=self.end_to_end, pad_to_multiple_of=multiple, borders=borders)
        return padded if self.task is None else self.task.layout(padded)

    def collator(self, tokenizer: Any, samples: Samples, multiple: int, borders: bool = False) -> Collator:
        """The collator over one of the sets."""
        channels = self.channels.of_sample if self.channels and samples is self.train else None
        return Collator(samples.dataset, samples.units, self.layout(tokenizer, multiple, borders), channels)

    def train_collator(self, tokenizer: Any, multiple: int, borders: bool) -> Collator | LazyCollator | StreamCollator:
        """What makes the micro-batches of training."""
        if self.live is not None:
            return self.live.collator(self.layout(tokenizer, multiple, borders), self.plan)
        return self.collator(tokenizer, self.train, multiple, borders)

    def fingerprint(self) -> str:
        """Changes with what is trained on, so that a resumed run notices other data."""
        return self.live.identity if self.live is not None else self.train.fingerprint()

    def first_units(self) -> list[int]:
        """Units of `train` in the order of the first epoch."""
        if self.live is not None:
            return list(range(self.train.count))
        return [unit for step in self.plan.epoch(0) for micro in step for process in micro for unit in process]

    def remarks(self) -> list[str]:
        """What was left out and why, and the template's counted warnings."""
        left_out = [f"{count:,} dropped: {reason}" for reason, count in by_reason(self.dropped)]
        return [*left_out, *(f"{count:,} × {note}" for note, count in sorted(self.notes.items()))]

    def largest_units(self, multiple: int) -> list[int]:
        """The units of the micro-batch of the first epoch that has most tokens."""
        return self._largest(multiple)[1]

    def _largest(self, multiple: int) -> tuple[int, list[int]]:
        """Most tokens of a micro-batch of the first epoch, with padding, and its units."""
        tokens = -(-self.train.tokens() // multiple) * multiple
        size, units = 0, [0]
        padded = None if self.end_to_end else self.train.padded(multiple)
        for step in self.plan.epoch(0):
            for chosen in (units for micro in step for units in micro if units):
                total = int(tokens[chosen].sum()) if padded is None else padded(chosen)
                size, units = max((size, units), (total, chosen))
        return size, units

    def shapes(self, multiple: int, steps: int) -> int:
        """How many sizes the micro-batches of the first epoch have, as far as the run has steps.

        Where samples are made later, those of the first samples count.
        """
        tokens = -(-self.train.tokens() // multiple) * multiple
        if self.live is not None:
            return len(np.unique(tokens))
        padded = self.train.padded(multiple)
        taken = (units for step in islice(self.plan.epoch(0), steps) for micro in step for units in micro if units)
        return len({int(tokens[units].sum()) if self.end_to_end else padded(units) for units in taken})

    def largest_micro_batch(self, multiple: int) -> MicroBatch:
        """The micro-batch of the first epoch that takes most memory; the most that can come, by the first samples and
        `--max_length`, where samples are made later.
        """
        tokens = -(-self.train.tokens() // multiple) * multiple
        if self.live is not None:
            longest = max(int(tokens.max()), -(-(self.live.longest or 0) // multiple) * multiple)
            size = longest * self.plan.batch_size
            share = float((self.train.trained() / self.train.tokens()).max())
            logits = math.ceil(size * share) if self.end_to_end else size
            return MicroBatch(size, logits, 1 if self.end_to_end else self.plan.batch_size)
        size, units = self._largest(multiple)
        if self.end_to_end:
            return MicroBatch(size, int(self.train.trained()[units].sum()), 1)
        if self.train.units is not None or self.train.dataset.targets is not None:
            rows = len(self.train.samples(units))
            return MicroBatch(size, rows, rows)
        columns = np.zeros(size // len(units), dtype=bool)
        for unit in units:
            labels = self.train.dataset[unit].labels[1:]
            columns[: len(labels)] |= labels != IGNORE
        return MicroBatch(size, int(columns.sum()) * len(units), len(units))


def prepare(
    config: SftConfig,
    source: ModelSource,
    template: Template,
    task: Task,
    reader: RunRows | StreamRows,
    decisions: Decisions,
) -> Prepared:
    """Tokenise, pack and order the rows.

    Raises:
        SwiftError: a row cannot be used, or no sample is left.
    """
    data = config.data
    longest = config.template.max_length or source.limit
    if not config.given("max_length") and longest:
        decisions.add("max_length", longest, "model", "the longest sequence the model was made for")
    end_to_end = data.packing or data.padding_free
    if end_to_end:
        check_packing(load_config(source.path, trust_remote_code=config.model.trust_remote_code))
    if is_live(config):
        live = prepare_live(config, template, task, reader, longest, decisions)
        train, evaluation = grouped(task, live.preview), grouped(task, live.held) if live.held is not None else None
        _settle(task, source, train, evaluation, decisions)
        plan = step_plan(config, live.rows, distributed.world_size(), decisions)
        bound = "--max_length bounds them" if live.longest else "--max_length would bound them"
        decisions.add("planned from", f"{train.count} samples", "data", f"those of the first rows; {bound}")
        notes = dict(template.notes)
        return Prepared(train, evaluation, plan, end_to_end, notes, live.first, live=live, task=task)
    assert isinstance(reader, RunRows)
    sets = tokenise(reader, template, task, longest, decisions)
    train = pack(config, sets.train, longest, decisions) if config.data.packing else grouped(task, sets.train)
    evaluation = grouped(task, sets.held) if sets.held is not None else None
    _settle(task, source, train, evaluation, decisions)
    plan = step_plan(config, train.count, distributed.world_size(), decisions, train.tokens())
    dropped = DroppedRows(chain(train.dataset.dropped, evaluation.dataset.dropped if evaluation else ()))
    channels = channels_of(train.dataset) if config.train.enable_channel_loss else None
    return Prepared(train, evaluation, plan, end_to_end, dict(template.notes), dropped, channels, task=task)


def grouped(task: Task, dataset: EncodedDataset) -> Samples:
    """Samples in the units that the task takes together."""
    return Samples(dataset, task.units(dataset))


def _settle(task: Task, source: ModelSource, train: Samples, held: Samples | None, decisions: Decisions) -> None:
    task.settle(source, [each.dataset for each in (train, held) if each is not None], decisions)
