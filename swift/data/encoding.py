"""From rows to token ids and labels, in one process or several, with the same result."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from swift.data.drops import Dropped, DroppedRows, FailedRows, by_reason
from swift.data.encoded import EncodedDataset
from swift.data.token_files import Progress, TokenWriter, open_tokens
from swift.data.truncation import Truncation, shorten
from swift.errors import SwiftError
from swift.rows import EncodedRow, Row, Source

if TYPE_CHECKING:
    from swift.data.loading import RowSet

TOO_LONG = "tokens are more than --max_length"
CHUNK = 512
"""Rows that a worker takes at a time, at most."""


class Encoder(Protocol):
    """What is asked of a template here."""

    @property
    def notes(self) -> Counter[str]:
        """Counted warnings."""

    def encode(self, row: Row, source: Source | None) -> list[EncodedRow]:
        """The samples of a row; raises SwiftError for a row that it cannot encode."""


@dataclass
class _Chunk:
    samples: EncodedDataset
    dropped: list[Dropped]
    bad: list[Dropped]
    too_long: list[Dropped]
    notes: Counter[str]
    rows: int


@dataclass
class _Job:
    rows: Sequence[tuple[Row, Source]]
    template: Encoder
    max_length: int | None
    strategy: Truncation

    def run(self, span: tuple[int, int]) -> _Chunk:
        """Encode rows [start, stop)."""
        encoder = RowEncoder(self.template, self.max_length, self.strategy)
        before = Counter(self.template.notes)
        chunk = _Chunk(EncodedDataset(), [], [], [], Counter(), span[1] - span[0])
        chunk.samples = EncodedDataset(self._samples(span, chunk, encoder))
        chunk.notes = Counter(self.template.notes) - before
        return chunk

    def _samples(self, span: tuple[int, int], chunk: _Chunk, encoder: RowEncoder) -> Iterator[EncodedRow]:
        for row, source in self.rows[slice(*span)]:
            found = encoder(row, source)
            chunk.dropped += found.dropped
            chunk.bad += found.bad
            chunk.too_long += found.too_long
            yield from found.samples


@dataclass
class RowSamples:
    """What becomes of a row.

    Attributes:
        samples: those to train on.
        dropped: parts of it that are lost, and why.
        bad: the row itself, where the template cannot encode it or its answer is not wanted.
        too_long: its samples that are too long, under `raise`.
    """

    samples: list[EncodedRow] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    bad: list[Dropped] = field(default_factory=list)
    too_long: list[Dropped] = field(default_factory=list)


@dataclass
class RowEncoder:
    """Encodes one row at a time.

    Args:
        template: encodes a row.
        max_length: longest sample, in tokens; unset means no limit.
        strategy: what happens to a longer one.
    """

    template: Encoder
    max_length: int | None
    strategy: Truncation

    def __call__(self, row: Row, source: Source) -> RowSamples:
        """The samples of a row, and what is lost of it."""
        found, whole = RowSamples(), getattr(self.template, "labels_are_targets", False)
        try:
            if not whole:
                check_liked(row, source)
            encoded = self.template.encode(row, source)
        except SwiftError as error:
            found.bad.append(Dropped(source, f"{error.what}; {error.fix}" if error.fix else error.what, row))
            return found
        lost: list[str] = []
        for sample in encoded:
            sample.source, sample.channel = source, str(row["channel"]) if row.get("channel") else None
            found.samples += self._kept(sample, lost)
        if whole and lost:
            # Texts that are compared with each other go together.
            found.samples = []
        for reason in _reasons(lost, len(encoded)):
            place = found.too_long if TOO_LONG in reason and self.strategy == "raise" else found.dropped
            place.append(Dropped(source, reason, row))
        return found

    def _kept(self, sample: EncodedRow, lost: list[str]) -> Iterator[EncodedRow]:
        """Shorten a sample, and note what is lost by it."""
        pieces = shorten(sample, self.max_length, self.strategy)
        if not pieces:
            lost.append(f"{sample.length} {TOO_LONG} {self.max_length}")
        for piece in pieces:
            if piece.trained:
                yield piece
            else:
                cut = f" is left within --max_length {self.max_length}" if piece.length < sample.length else ""
                lost.append(f"no token that carries loss{cut}")


def check_liked(row: Row, source: Source) -> None:
    """Raise a `SwiftError` where a row is to be labelled, not learnt, or its answer, or a step of it, is wrong.

    Labels are true or false, or numbers that are more than 0 where an answer is liked.
    """
    if row.get("label") is not None and not any(message["role"] == "assistant" for message in row["messages"]):
        raise SwiftError(
            "the row has a label and no answer",
            where=str(source),
            fix="--task_type seq_cls trains labels; where the text itself is to be learnt, rename that column",
        )
    labels = row.get("step_labels", [])
    wrong = [at for at, label in enumerate(labels, 1) if isinstance(label, int | float) and label <= 0]
    label = row.get("label")
    if isinstance(label, int | float) and label <= 0:
        what = f"the answer is not liked (label: {json.dumps(label)})"
    elif wrong:
        what = f"step {wrong[0]} of the answer is labelled {json.dumps(labels[wrong[0] - 1])}"
    else:
        return
    raise SwiftError(
        f"{what}, and supervised fine-tuning would teach it", where=str(source), fix="take the row out of the data"
    )


def _reasons(lost: list[str], samples: int) -> list[str]:
    """Tell each kind of loss once, however many of a row's samples it befell."""
    kinds: dict[str, list[str]] = {}
    for reason in lost:
        kinds.setdefault(Dropped(None, reason).group, []).append(reason)
    told = []
    for reasons in kinds.values():
        part = f" ({len(reasons)} of the row's {samples} samples)" if TOO_LONG in reasons[0] and samples > 1 else ""
        told.append(reasons[0] + part)
    return told


def encode_rows(
    rowset: RowSet,
    template: Encoder,
    *,
    max_length: int | None,
    truncation_strategy: Truncation,
    num_proc: int = 1,
    strict: bool = True,
    progress: Callable[[int, int], None] | None = None,
    folder: Path | None = None,
    failed: FailedRows | None = None,
) -> EncodedDataset:
    """Encode every row; the result and its order do not depend on `num_proc`.

    Args:
        rowset: the rows.
        template: encodes one row; its `notes` are added up over all processes.
        max_length: longest sample, in tokens; unset means no limit.
        truncation_strategy: what happens to a longer one.
        num_proc: processes.
        strict: stop, after all rows were looked at, when some could not be read or encoded.
        progress: called with (rows done, rows).
        folder: keeps the samples in files there instead of in memory; goes on where an earlier call was killed.
        failed: takes the rows to stop at, where the caller stops at those of several sets together.

    Raises:
        SwiftError: rows that cannot be used (strict), rows too long under `raise`, nothing left, a worker that died.
    """
    job = _Job(rowset.rows, template, max_length, truncation_strategy)
    total = len(rowset.rows)
    writer = None if folder is None else TokenWriter(folder)
    told = Progress() if writer is None else writer.progress
    template.notes.update(told.notes)

    def parts() -> Iterator[EncodedDataset]:
        for chunk in _chunks(job, num_proc, told.rows):
            left_out = {"dropped": chunk.dropped, "bad": chunk.bad, "too_long": chunk.too_long}
            if writer is not None:
                writer.add(chunk.samples, chunk.rows, chunk.notes, **left_out)
            else:
                told.rows += chunk.rows
                for kind, rows in left_out.items():
                    getattr(told, kind).extend(rows)
                yield chunk.samples
            if progress:
                progress(told.rows, total)

    try:
        samples = EncodedDataset.join(parts(), rows=total)
    finally:
        if writer is not None:
            writer.close()
    if folder is not None:
        samples = open_tokens(folder)
    samples.dropped = DroppedRows(chain(rowset.dropped, told.dropped, told.bad))
    stops = FailedRows() if failed is None else failed
    stops.rows += total + len(rowset.dropped)
    stops.too_long.extend(told.too_long)
    stops.bad.extend(chain(rowset.dropped, told.bad) if strict else ())
    if failed is None:
        stops.stop()
        check_some_left(samples)
    return samples


def check_some_left(samples: EncodedDataset) -> None:
    """Stop where no row became a sample.

    Raises:
        SwiftError: it counts the reasons.
    """
    if not len(samples):
        reasons = (
            "; ".join(f"{count} × {reason}" for reason, count in by_reason(samples.dropped)) or "there are no rows"
        )
        raise SwiftError(f"no sample is left to train on: {reasons}", fix="look at --dataset and --max_length")


def _chunks(job: _Job, num_proc: int, done: int) -> Iterator[_Chunk]:
    total = len(job.rows)
    size = max(1, min(CHUNK, -(-total // (4 * num_proc))))
    spans = [(start, min(start + size, total)) for start in range(done, total, size)]
    if num_proc == 1 or len(spans) < 2:
        return map(job.run, spans)
    # The workers inherit what the template has learned from the first rows.
    first = job.run(spans[0])
    return chain([first], _in_workers(job, spans[1:], min(num_proc, len(spans) - 1)))


def _in_workers(job: _Job, spans: list[tuple[int, int]], num_proc: int) -> Iterator[_Chunk]:
    if "fork" not in multiprocessing.get_all_start_methods():
        raise SwiftError(f"--dataset_num_proc {num_proc}: processes cannot be forked on this system", fix="use 1")
    # Forked workers share the rows and the template; others would each want a pickled copy of all rows.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(num_proc, context, initializer=_start_worker, initargs=(job,)) as pool:
        try:
            for chunk in pool.map(_run_in_worker, spans):
                job.template.notes.update(chunk.notes)
                yield chunk
        except BrokenProcessPool as error:
            raise SwiftError(
                f"--dataset_num_proc {num_proc}: a process that tokenises died",
                fix="it is often killed for want of memory: use fewer processes, or 1 to see the row",
            ) from error


_job: _Job | None = None


def _start_worker(job: _Job) -> None:
    global _job
    # The processes already use every core; threads inside each would only compete.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _job = job


def _run_in_worker(span: tuple[int, int]) -> _Chunk:
    assert _job is not None
    return _job.run(span)
