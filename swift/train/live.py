"""Runs whose samples are made while they go on: `--streaming true` and `--lazy_tokenize true`."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swift.config import Decisions, SftConfig
from swift.data import EncodedDataset, RowSet, by_reason, encode_rows, iter_rows, load_rows
from swift.data.collator import Lay
from swift.data.drops import Dropped, FailedRows
from swift.data.encoding import RowEncoder, check_some_left
from swift.data.identity import key_of
from swift.data.live import LazyCollator, LiveEncoder, StreamCollator
from swift.data.stream import Packing, UnitStream
from swift.errors import SwiftError
from swift.train import distributed
from swift.train.folders import LIVE, resume_point
from swift.train.tokenised import RunRows, how_made

if TYPE_CHECKING:
    from swift.data import StepPlan
    from swift.data.row_store import Placed
    from swift.tasks.base import Task
    from swift.templates import Template

PREVIEW = 32
"""Rows that are looked at before the run."""


def is_live(config: SftConfig) -> bool:
    """Whether samples are made while the run goes on."""
    return config.data.streaming or config.data.lazy_tokenize


def check_live(config: SftConfig) -> None:
    """Stop at options that do not go together, before a row is read.

    Raises:
        SwiftError: it names them.
    """
    data, train = config.data, config.train
    if not is_live(config):
        return
    option = "streaming" if data.streaming else "lazy_tokenize"
    if data.streaming and data.lazy_tokenize:
        raise SwiftError("--streaming and --lazy_tokenize are two ways of one thing", fix="leave out --lazy_tokenize")
    if train.auto_find_batch_size:
        raise SwiftError(
            f"--{option} with --auto_find_batch_size: the largest micro-batch is known once every row is tokenised",
            fix=f"leave out --{option}, or --auto_find_batch_size",
        )
    if data.group_by_length:
        raise SwiftError(
            f"--{option} with --group_by_length: lengths are known once every row is tokenised",
            fix=f"leave out --{option}, or --group_by_length",
        )
    if train.enable_channel_loss:
        raise SwiftError(
            f"--{option} with --enable_channel_loss: the channels are known once every row is read and tokenised",
            fix=f"leave out --{option}, or --enable_channel_loss",
        )
    if data.cached_dataset:
        raise SwiftError(
            f"--{option} with --cached_dataset: those rows are tokenised already", fix=f"leave out --{option}"
        )
    if data.cached_val_dataset:
        raise SwiftError(
            f"--{option} with --cached_val_dataset: rows for evaluation are tokenised at the start of such a run",
            fix="name the rows themselves: --val_dataset",
        )
    if data.lazy_tokenize and data.packing:
        raise SwiftError(
            "--lazy_tokenize with --packing: packs are planned from the lengths of all samples, known once tokenised",
            fix="leave out --lazy_tokenize, or pack within a window: --streaming true",
        )
    if not data.streaming:
        return
    if train.max_steps <= 0:
        raise SwiftError("--streaming needs --max_steps: nobody knows how long a stream is", fix="add --max_steps 1000")
    if data.split_dataset_ratio:
        raise SwiftError(
            f"--streaming with --split_dataset_ratio {data.split_dataset_ratio}: a share of a stream is not known",
            fix="name rows for evaluation: --val_dataset",
        )
    if data.packing:
        _check_pack_length(config)


def _check_pack_length(config: SftConfig) -> None:
    length, longest = config.data.packing_length, config.template.max_length
    if length is None and longest is None:
        raise SwiftError(
            "--streaming with --packing needs --packing_length: the longest sample is not known beforehand",
            fix="add --packing_length 4096, or --max_length",
        )
    if length is not None and longest is not None and longest > length:
        raise SwiftError(
            f"--max_length {longest} is more than --packing_length {length}",
            fix="raise --packing_length, or lower --max_length to it",
        )


class StreamRows:
    """The first rows of a stream, and the rows for evaluation, which are read whole.

    Args:
        config: the run's options.
        seed: of the order.

    Attributes:
        found: the first rows that can be used, and those for evaluation.

    Raises:
        SwiftError: a file cannot be read, or no row can be used.
    """

    def __init__(self, config: SftConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self._hub: dict[str, Any] = {"use_hf": config.model.use_hf, "hub_token": config.model.hub_token}
        held, data = None, config.data
        if data.val_dataset:
            shuffle = data.val_dataset_shuffle
            options: dict[str, Any] = {"shuffle": shuffle, "option": "val_dataset", "stop": False, **self._hub}
            held = load_rows(data.val_dataset, data, seed=seed, **options)
        self.found: tuple[RowSet, RowSet | None] = (self._first(), held)

    def read(self, epoch: int) -> Iterator[Placed | Dropped]:
        """The rows of an epoch; draws by weight differ from one to the next."""
        return iter_rows(self.config.data.dataset, self.config.data, seed=self.seed + epoch, **self._hub)

    @property
    def fails(self) -> bool:
        """Whether rows for evaluation that cannot be read stop the run."""
        held = self.found[1]
        return self.config.data.strict and held is not None and bool(held.dropped)

    def held_rows(self) -> RowSet | None:
        """The rows for evaluation."""
        return self.found[1]

    def _first(self) -> RowSet:
        good: list[Placed] = []
        dropped: list[Dropped] = []
        for item in self.read(0):
            if isinstance(item, Dropped):
                dropped.append(item)
            else:
                good.append(item)
            if len(good) == PREVIEW:
                break
        if not good:
            names = " ".join(self.config.data.dataset)
            raise SwiftError(
                f"--dataset {names}: none of {len(dropped)} rows can be used",
                where=str(dropped[0]) if dropped else None,
                fix="mend the rows; docs/data.md tells what they hold",
            )
        return RowSet(good)


@dataclass
class Live:
    """What is known of samples that are made while the run goes on.

    Attributes:
        preview: samples of the first rows.
        held: samples for evaluation.
        rows: how many rows there are; None for a stream.
        longest: tokens that a unit has at most; None where nothing says.
        identity: what the samples hang on, besides the rows.
        first: the dropped rows that were known before the run.
    """

    preview: EncodedDataset
    held: EncodedDataset | None
    rows: int | None
    longest: int | None
    identity: str
    first: list[Dropped]
    _collator: Callable[[Lay, StepPlan], LazyCollator | StreamCollator]

    def collator(self, layout: Lay, plan: StepPlan) -> LazyCollator | StreamCollator:
        """What makes this process's micro-batches."""
        return self._collator(layout, plan)


def prepare_live(
    config: SftConfig,
    template: Template,
    task: Task,
    reader: RunRows | StreamRows,
    longest: int | None,
    decisions: Decisions,
) -> Live:
    """Look at the first rows, and tokenise those for evaluation.

    Raises:
        SwiftError: none of the first rows gives a sample, or a row for evaluation cannot be used.
    """
    data, strategy = config.data, config.template.truncation_strategy
    _hold_earlier(config, template)
    packing = None
    if data.streaming and data.packing:
        packing = Packing(data.packing_length or config.template.max_length or 0, data.packing_strategy)
        longest = min(longest, packing.capacity) if longest else packing.capacity
        decisions.add("max_length", longest, "flag", "a sample must fit into a pack")
    assert reader.found is not None
    rows, held_rows = reader.found
    task.look([*rows.rows, *(held_rows.rows if held_rows else [])])
    samples = task.encoder(template, longest)
    encoder = RowEncoder(samples, longest, strategy)
    before = Counter(template.notes)
    preview = _preview(encoder, rows.rows[:PREVIEW])
    template.notes.clear()
    template.notes.update(before)
    held, failed = None, FailedRows()
    if data.strict and isinstance(reader, RunRows):
        failed.rows += len(rows) + len(rows.dropped)
        failed.bad.extend(rows.dropped)
    if held_rows:
        options: dict[str, Any] = {"max_length": longest, "truncation_strategy": strategy, "strict": data.strict}
        held = encode_rows(held_rows, samples, **options, failed=failed)
    failed.stop()
    if held is not None:
        check_some_left(held)
    live = LiveEncoder(encoder, data.strict)
    limit = packing.capacity if packing else (longest if config.given("max_length") else None)
    first = [*rows.dropped, *(held.dropped if held else [])]
    if isinstance(reader, StreamRows):
        buffer = data.shuffle_buffer_size if data.dataset_shuffle else 1
        reshuffle = data.train_dataloader_shuffle
        stream = UnitStream(reader.read, live, buffer=buffer, seed=reader.seed, reshuffle=reshuffle, packing=packing)
        order: list[Any] = [buffer, reader.seed, reshuffle, vars(packing) if packing else None]
        order += [data.interleave_prob, data.stopping_strategy]
        identity = key_of([how_made(config, template, task, longest), order])
        shown = f"{buffer:,} rows to draw from" if buffer > 1 else "in the order of the data"
        decisions.add("tokens", "while the run goes on", "flag", f"a stream, {shown}")

        def streamed(layout: Lay, plan: StepPlan) -> StreamCollator:
            share = plan.batch_size * plan.world_size
            tells = distributed.is_main()
            return StreamCollator(stream, units_per_step=plan.units_per_step, share=share, tells=tells, layout=layout)

        return Live(preview, held, None, limit, identity, first, streamed)
    identity = key_of([how_made(config, template, task, longest), _rows_key(rows.rows)])
    decisions.add("tokens", "while the run goes on", "flag", f"{len(rows):,} rows that were read and checked")
    return Live(
        preview, held, len(rows), limit, identity, first, lambda layout, _: LazyCollator(rows.rows, live, layout)
    )


def _hold_earlier(config: SftConfig, template: Template) -> None:
    """Render a template that tells the date as the run did that is gone on with."""
    from swift.train.setup import output_dir

    if config.train.resume_only_model:
        return
    resume = resume_point(config.train.resume_from_checkpoint, output_dir(config))
    if resume is not None and (resume / LIVE).is_file():
        template.hold(json.loads((resume / LIVE).read_text(encoding="utf-8"))["fixed"])


def _preview(encoder: RowEncoder, rows: Sequence[Placed]) -> EncodedDataset:
    found = [encoder(*placed) for placed in rows]
    preview = EncodedDataset(sample for row in found for sample in row.samples)
    if not len(preview):
        lost = [each for row in found for each in (*row.bad, *row.too_long, *row.dropped)]
        raise SwiftError(
            f"none of the first {len(rows)} rows gives a sample to train on: "
            + "; ".join(f"{count} × {reason}" for reason, count in by_reason(lost)),
            where=str(lost[0].source) if lost else None,
            fix="look at --dataset and --max_length",
        )
    return preview


def _rows_key(rows: Iterable[Placed]) -> str:
    """Changes with any row and with their order."""
    checksum = 0
    for row, _ in rows:
        checksum = zlib.crc32(json.dumps(row, sort_keys=True, default=repr).encode(), checksum)
    return f"{checksum:08x}"
