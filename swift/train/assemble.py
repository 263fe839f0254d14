"""Rows, samples and the order of steps of a training run."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swift.config import Decisions, SftConfig
from swift.data import EncodedDataset, RowSet, StepPlan, encode_rows, load_rows, plan_packs, split_rows
from swift.errors import SwiftError

if TYPE_CHECKING:
    from swift.templates import Template

ROWS_IN_A_STEP = 16
PACK_AT_LEAST = 4096


@dataclass
class Samples:
    """A tokenised set and its units: packs where packing is on, else single samples."""

    dataset: EncodedDataset
    units: list[list[int]] | None

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.units) if self.units is not None else len(self.dataset)

    def tokens(self, padded: bool) -> np.ndarray:
        """int64[units], the tokens of each unit."""
        lengths = self.dataset.lengths.astype(np.int64)
        return lengths if self.units is None else np.array([lengths[unit].sum() for unit in self.units])

    def trained(self) -> np.ndarray:
        """int64[units], the trained tokens of each unit."""
        trained = self.dataset.trained.astype(np.int64)
        return trained if self.units is None else np.array([trained[unit].sum() for unit in self.units])

    def fingerprint(self) -> str:
        """Changes with any token or label, so that a resumed run notices other data."""
        parts = (zlib.crc32(np.ascontiguousarray(part).tobytes()) for part in self.dataset.arrays())
        return "-".join(f"{part:08x}" for part in parts)


def read_rows(config: SftConfig) -> tuple[RowSet, RowSet | None]:
    """Read and check the rows for training and, where wanted, for evaluation.

    Raises:
        SwiftError: a row or file cannot be used; nothing has been loaded yet.
    """
    data, hub = config.data, {"use_hf": config.model.use_hf, "hub_token": config.model.hub_token}
    seed = config.train.data_seed if config.train.data_seed is not None else config.train.seed
    rows = load_rows(data.dataset, data, seed=seed, shuffle=data.dataset_shuffle, **hub)
    if data.val_dataset:
        held = load_rows(
            data.val_dataset, data, seed=seed, shuffle=data.val_dataset_shuffle, option="val_dataset", **hub
        )
        return rows, held
    if data.split_dataset_ratio:
        return split_rows(rows, data.split_dataset_ratio, seed)
    return rows, None


def encode(config: SftConfig, rows: RowSet, template: Template, longest: int | None, progress: Any) -> EncodedDataset:
    """Tokenise rows; those that cannot be used stop the run or are dropped and counted, as `--strict` says."""
    return encode_rows(
        rows,
        template,
        max_length=longest,
        truncation_strategy=config.template.truncation_strategy,
        num_proc=config.data.dataset_num_proc,
        strict=config.data.strict,
        progress=progress,
    )


def pack(config: SftConfig, dataset: EncodedDataset, longest: int | None, decisions: Decisions) -> Samples:
    """Put samples into packs where `--packing true` asks for it."""
    if not config.data.packing:
        return Samples(dataset, None)
    capacity = config.data.packing_length
    if capacity is None and config.given("max_length"):
        capacity = config.template.max_length
    if capacity is None:
        capacity = max(PACK_AT_LEAST, int(dataset.lengths.max()))
        capacity = min(capacity, longest) if longest else capacity
        decisions.add("packing_length", capacity, "data", "the longest sample, 4096 at least, the model's limit at most")
    if int(dataset.lengths.max()) > capacity:
        raise SwiftError(
            f"--packing_length {capacity}: a sample has {int(dataset.lengths.max())} tokens",
            fix="raise it, or lower --max_length to it",
        )
    return Samples(dataset, plan_packs(dataset.lengths, capacity, config.data.packing_strategy))


def step_plan(config: SftConfig, units: int, world_size: int, decisions: Decisions) -> StepPlan:
    """The order of global batches."""
    train = config.train
    accumulation = train.gradient_accumulation_steps
    per_step = train.per_device_train_batch_size * world_size
    if accumulation is None:
        accumulation = max(1, -(-ROWS_IN_A_STEP // per_step))
        reason = f"{per_step} samples in a micro-batch, so that a step has {ROWS_IN_A_STEP} or more"
        decisions.add("gradient_accumulation_steps", accumulation, "default", reason)
    return StepPlan(
        units,
        batch_size=train.per_device_train_batch_size,
        accumulation=accumulation,
        world_size=world_size,
        seed=train.data_seed if train.data_seed is not None else train.seed,
        shuffle=config.data.train_dataloader_shuffle,
        drop_last=bool(train.more.get("dataloader_drop_last", False)),
    )


def largest_micro_batch(samples: Samples, plan: StepPlan, padded: bool) -> tuple[int, int, int]:
    """Tokens, trained positions and longest unit of the largest micro-batch of the first epoch, padding counted."""
    tokens, trained = samples.tokens(padded), samples.trained()
    largest = (0, 0, 0)
    for step in plan.epoch(0):
        for micro in step:
            for units in micro:
                if not units:
                    continue
                longest = int(tokens[units].max())
                size = longest * len(units) if padded else int(tokens[units].sum())
                kept = min(int(trained[units].sum()), size)
                largest = max(largest, (size, kept, longest))
    return largest


def system_text(value: str | None) -> str | None:
    """`--system` as text: a .txt file's content, or the words themselves.

    Raises:
        SwiftError: it looks like a file and there is none.
    """
    if value is None or not value.endswith(".txt"):
        return value
    path = Path(value)
    if not path.is_file():
        raise SwiftError(f"--system {value}: no such file")
    return path.read_text(encoding="utf-8").rstrip("\n")
