"""Encoded samples in files: written chunk by chunk, gone on with after a crash, and memory-mapped."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from swift.data.drops import Dropped, DroppedRows
from swift.data.encoded import EncodedDataset
from swift.rows import Source

COLUMNS = {
    "ids": np.int32,
    "labels": np.int32,
    "weights": np.float32,
    "lengths": np.int32,
    "trained": np.int32,
    "names": np.int32,
    "lines": np.int64,
    "channels": np.int32,
    "targets": np.float32,
    "target_sizes": np.int32,
}
"""Files of flat numbers, in the machine's order of bytes."""

SOME = {"weights": "weighted", "targets": "aimed", "target_sizes": "aimed"}
"""Files that are there only where samples have what they hold -> what says so in the journal."""

JOURNAL, LEFT_OUT = "journal.jsonl", "left_out.jsonl"


@dataclass
class Progress:
    """How far the files have come.

    Attributes:
        rows: rows that were read.
        samples: samples written.
        tokens: tokens written.
        values: values of targets written.
        names: names of sources and channels, by number.
        weighted: whether there are weights.
        aimed: whether there are targets.
        notes: the template's counted warnings.
        dropped, bad, too_long: what is not in the files.
    """

    rows: int = 0
    samples: int = 0
    tokens: int = 0
    values: int = 0
    names: list[str] = field(default_factory=list)
    weighted: bool = False
    aimed: bool = False
    notes: Counter[str] = field(default_factory=Counter)
    dropped: DroppedRows = field(default_factory=DroppedRows)
    bad: DroppedRows = field(default_factory=DroppedRows)
    too_long: DroppedRows = field(default_factory=DroppedRows)

    def take(self, line: dict[str, Any]) -> None:
        """Go on by one line of the journal."""
        self.rows, self.samples, self.tokens = line["rows"], line["samples"], line["tokens"]
        self.names += line["names"]
        self.weighted, self.aimed, self.values = line["weighted"], line["aimed"], line["values"]
        self.notes.update(line["notes"])
        for kind in ("dropped", "bad", "too_long"):
            getattr(self, kind).extend(dropped_of(each) for each in line[kind])

    def columns(self) -> list[str]:
        """The files that are there."""
        return [column for column in COLUMNS if column not in SOME or getattr(self, SOME[column])]

    def count(self, column: str) -> int:
        """Numbers in a column's file."""
        if column == "targets":
            return self.values
        return self.tokens if column in ("ids", "labels", "weights") else self.samples

    def size(self, column: str) -> int:
        """Bytes of a column's file."""
        return self.count(column) * np.dtype(COLUMNS[column]).itemsize


class TokenWriter:
    """Appends chunks of samples to the files of a folder; what a killed process left whole there is kept.

    Args:
        folder: exists; empty, or what an earlier writer of the same samples left.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.progress = folder, read_progress(folder)
        self._files: dict[str, IO[bytes]] = {}
        for column in self.progress.columns():
            self._open(column, self.progress.size(column))
        keep = sum(len(line.encode()) for line in _journal_lines(folder, self.progress.rows))
        self._journal = (folder / JOURNAL).open("a", encoding="utf-8")
        self._journal.truncate(keep)

    def _open(self, column: str, size: int) -> None:
        file = (self.folder / f"{column}.bin").open("ab")
        file.truncate(size)
        self._files[column] = file

    def add(self, part: EncodedDataset, rows: int, notes: Counter[str], **left_out: Sequence[Dropped]) -> None:
        """Append the samples of the next `rows` rows, then note in the journal that they are there.

        Args:
            part: the samples.
            rows: how many rows they come from.
            notes: the template's counted warnings over these rows.
            left_out: dropped, bad and too_long.
        """
        before = self.progress
        if part.weights is not None and not before.weighted:
            self._open("weights", 0)
            self._ones(before.tokens)
        if part.targets is not None and not before.aimed:
            self._open("targets", 0)
            self._open("target_sizes", 0)
        fresh = [name for name in part.names if name not in before.names]
        numbers = {name: at for at, name in enumerate([*before.names, *fresh])}
        renamed = np.array([*(numbers[name] for name in part.names), -1], np.int32)
        values = {
            "ids": part.ids,
            "labels": part.labels,
            "lengths": part.lengths,
            "trained": part.trained,
            "names": renamed[part.source_names],
            "lines": part.source_lines,
            "channels": renamed[part.channels],
        }
        if part.targets is not None and part.target_sizes is not None:
            values |= {"targets": part.targets, "target_sizes": part.target_sizes}
        if part.weights is not None:
            values["weights"] = part.weights
        elif before.weighted:
            self._ones(len(part.ids))
        for column, value in values.items():
            self._files[column].write(np.ascontiguousarray(value, COLUMNS[column]).data)
        for file in self._files.values():
            file.flush()
        line = {
            "rows": before.rows + rows,
            "samples": before.samples + len(part),
            "tokens": before.tokens + len(part.ids),
            "names": fresh,
            "values": before.values + (0 if part.targets is None else len(part.targets)),
            "weighted": "weights" in self._files,
            "aimed": "targets" in self._files,
            "notes": dict(notes),
            **{kind: [told_of(each) for each in left_out.get(kind, ())] for kind in ("dropped", "bad", "too_long")},
        }
        text = json.dumps(line, ensure_ascii=False, default=repr)
        self._journal.write(text + "\n")
        self._journal.flush()
        before.take(json.loads(text))

    def _ones(self, count: int) -> None:
        for start in range(0, count, 1 << 20):
            self._files["weights"].write(np.ones(min(1 << 20, count - start), np.float32).data)

    def close(self) -> None:
        """Close the files."""
        self._journal.close()
        for file in self._files.values():
            file.close()


def read_progress(folder: Path) -> Progress:
    """What is whole in a folder: lines of the journal whose samples are all in the files."""
    progress = Progress()
    for text in _journal_lines(folder):
        line = json.loads(text)
        sizes = ("samples", "tokens", "values", "weighted", "aimed")
        ahead = Progress(**{name: line[name] for name in sizes})
        if any(_size(folder / f"{column}.bin") < ahead.size(column) for column in ahead.columns()):
            break
        progress.take(line)
    return progress


def _journal_lines(folder: Path, rows: int | None = None) -> Iterator[str]:
    """The whole lines of the journal, up to so many rows; a kill may leave half of one at the end."""
    file = folder / JOURNAL
    if not file.is_file():
        return
    with file.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            if not line.endswith("\n") or (rows is not None and json.loads(line)["rows"] > rows):
                return
            yield line


def _size(path: Path) -> int:
    return os.path.getsize(path) if path.is_file() else 0


def told_of(dropped: Dropped) -> dict[str, Any]:
    """What is dropped, for JSON."""
    source = dropped.source
    place = None if source is None else [source.name, source.line]
    return {"source": place, "reason": dropped.reason, "row": dropped.row}


def dropped_of(told: dict[str, Any]) -> Dropped:
    """The way back of `told_of`."""
    place = told["source"]
    return Dropped(None if place is None else Source(*place), told["reason"], told["row"])


def write_left_out(dropped: Iterable[Dropped], folder: Path) -> None:
    """Keep what was left out before anything was encoded beside the samples."""
    with (folder / LEFT_OUT).open("w", encoding="utf-8") as file:
        for each in dropped:
            file.write(json.dumps(told_of(each), ensure_ascii=False, default=repr) + "\n")


def read_left_out(folder: Path) -> Iterator[Dropped]:
    """The way back of `write_left_out`."""
    with (folder / LEFT_OUT).open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield dropped_of(json.loads(line))


def open_tokens(folder: Path) -> EncodedDataset:
    """The samples of a folder, memory-mapped; what was left out stands in `dropped`."""
    progress = read_progress(folder)

    def column(name: str) -> np.ndarray:
        dtype, count = np.dtype(COLUMNS[name]), progress.count(name)
        # An empty file cannot be mapped.
        return np.memmap(folder / f"{name}.bin", dtype, "r", shape=(count,)) if count else np.zeros(0, dtype)

    return EncodedDataset.over(
        column("ids"),
        column("labels"),
        column("weights") if progress.weighted else None,
        lengths=column("lengths"),
        trained=column("trained"),
        names=progress.names,
        source_names=column("names"),
        source_lines=column("lines"),
        channels=column("channels"),
        rows=progress.rows,
        targets=column("targets") if progress.aimed else None,
        target_sizes=column("target_sizes") if progress.aimed else None,
        dropped=DroppedRows(chain(progress.dropped, progress.bad)),
    )
