"""Rows kept as bytes, in a file where they are many, so that memory does not grow with them."""

from __future__ import annotations

import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy as np

from swift.hub.cache import cache_root
from swift.rows import Row, Source

IN_MEMORY = 32 * 2**20
"""Bytes of rows that stay in memory."""

BUFFER = 2**20

Placed = tuple[Row, Source]


class RowStore:
    """Rows that were read, each with where it came from; they can be appended and read by number."""

    def __init__(self) -> None:
        self._ends, self._lines, self._name_of = array("q", [0]), array("q"), array("i")
        self._names: dict[str, int] = {}
        self._listed: list[str] = []
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._written = 0

    def __len__(self) -> int:
        return len(self._lines)

    def append(self, row: Row, source: Source) -> None:
        """Keep a row."""
        data = pickle.dumps(row, pickle.HIGHEST_PROTOCOL)
        self._memory += data
        self._ends.append(self._ends[-1] + len(data))
        self._lines.append(source.line)
        self._name_of.append(self._names.setdefault(source.name, len(self._names)))
        if len(self._memory) > (IN_MEMORY if self._file is None else BUFFER):
            self._flush()

    def _flush(self) -> None:
        """Move what is in memory to a file without a name, which is gone with this process."""
        if self._file is None:
            folder: Path | None = cache_root() / "tmp"
            try:
                (cache_root() / "tmp").mkdir(parents=True, exist_ok=True)
            except OSError:
                folder = None
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        with memoryview(self._memory) as data:
            at = 0
            while at < len(data):
                at += os.pwrite(self._file.fileno(), data[at:], self._written + at)
        self._written += len(self._memory)
        self._memory = bytearray()

    def read(self, index: int) -> Placed:
        """Row `index`; a new object at each call."""
        start, stop = self._ends[index], self._ends[index + 1]
        if start >= self._written:
            data = bytes(self._memory[start - self._written : stop - self._written])
        else:
            assert self._file is not None
            # Forked processes share the file's place, so it is never moved.
            data = os.pread(self._file.fileno(), stop - start, start)
        return pickle.loads(data), self.source(index)

    def source(self, index: int) -> Source:
        """Where row `index` came from."""
        if len(self._listed) != len(self._names):
            self._listed = list(self._names)
        return Source(self._listed[self._name_of[index]], self._lines[index])

    def places(self) -> np.ndarray:
        """int64[rows, 2], the name's number and the line of each row."""
        return np.stack([np.array(self._name_of, np.int64), np.array(self._lines, np.int64)], axis=1)

    def all(self, start: int = 0) -> StoredRows:
        """The rows from number `start` on."""
        return StoredRows(self, np.arange(start, len(self)))


class StoredRows(Sequence[Placed]):
    """Some rows of a store, in an order of their own.

    Args:
        store: keeps them.
        numbers: int64[rows], their numbers there.
    """

    def __init__(self, store: RowStore, numbers: np.ndarray) -> None:
        self.store, self.numbers = store, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Placed: ...
    @overload
    def __getitem__(self, index: slice) -> StoredRows: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return StoredRows(self.store, self.numbers[index])
        return self.store.read(int(self.numbers[index]))

    def __iter__(self) -> Iterator[Placed]:
        return map(self.store.read, self.numbers.tolist())

    def __add__(self, other: StoredRows) -> StoredRows:
        return StoredRows(self.store, np.concatenate([self.numbers, other.numbers]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def take(self, order: Iterable[int]) -> StoredRows:
        """These of them, in this order."""
        return StoredRows(self.store, self.numbers[np.fromiter(order, np.int64)])

    def same(self) -> tuple[np.ndarray, int]:
        """A number for each row, equal for copies of one row and counted in the order that rows first occur.

        Returns:
            int64[rows], and how many different rows there are.
        """
        places = self.store.places()[self.numbers]
        _, first, group = np.unique(places, axis=0, return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return rank[group.reshape(-1)], len(first)
