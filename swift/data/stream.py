"""Units of samples read one by one from rows that are never held all at once, from any point on exactly."""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from swift.data.drops import Dropped
from swift.data.live import LiveEncoder
from swift.data.packing import plan_packs
from swift.data.row_store import Placed
from swift.data.steps import seeded
from swift.errors import SwiftError
from swift.rows import EncodedRow

PACK_WINDOW = 1000
"""Samples that best-fit packing looks over at a time."""

DRAWS = 1000
"""Draws made at a time."""


@lru_cache(2)
def _block(seed: int, epoch: int, block: int) -> list[float]:
    numbers: list[float] = seeded(seed, epoch, block).random_sample(DRAWS).tolist()
    return numbers


class Numbered(NamedTuple):
    """A sample with the number of its row in the reading order of the epoch, and its own number in the row."""

    row: int
    piece: int
    encoded: EncodedRow

    @property
    def key(self) -> list[int]:
        """What tells it from others."""
        return [self.row, self.piece]


@dataclass
class Packing:
    """How samples are packed.

    Attributes:
        capacity: tokens that a pack holds; no sample is longer.
        strategy: best-fit within a window, or in the order of the stream.
        window: samples that best-fit looks over.
    """

    capacity: int
    strategy: Literal["binpack", "sequential"]
    window: int = PACK_WINDOW


class UnitStream:
    """Packs or single samples, from rows that are read again and again, each time in another order.

    A position names rows by their numbers in the order of reading, so it is small; going on from it reads the rows up
    to it once more and encodes those that were not trained on yet. A checksum tells whether they are the same rows.

    Args:
        read: gives the rows of an epoch, in order.
        encoder: encodes them.
        buffer: rows among which the next one is drawn at random; 1 keeps the order of the data.
        seed: of the draws.
        reshuffle: other draws in each epoch.
        packing: unset means that every unit is one sample.
    """

    def __init__(
        self,
        read: Callable[[int], Iterator[Placed | Dropped]],
        encoder: LiveEncoder,
        *,
        buffer: int,
        seed: int,
        reshuffle: bool = True,
        packing: Packing | None = None,
    ) -> None:
        self.read, self.encoder, self.size, self.seed = read, encoder, buffer, seed
        self.reshuffle, self.packing = reshuffle, packing
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self.epoch, self.rows, self.checksum, self.draws = epoch, 0, 0, 0
        self._reader: Iterator[Placed | Dropped] | None = None
        self._ended, self._given = False, False
        self._buffer: list[tuple[int, Placed]] = []
        self._pending: deque[Numbered] = deque()
        self._window: list[Numbered] = []
        self._ready: deque[list[Numbered]] = deque()

    def unit(self) -> list[EncodedRow]:
        """The next unit; the end of an epoch is the start of the next one.

        Raises:
            SwiftError: a row cannot be used (strict), a file cannot be read, or no row gives a sample.
        """
        while True:
            unit = self._packed() if self.packing else self._single()
            if unit:
                self._given = True
                return [sample.encoded for sample in unit]
            if not self._given:
                raise SwiftError(
                    f"--dataset: none of {self.rows:,} rows gives a sample to train on",
                    fix="look at --dataset and --max_length",
                )
            self._begin(self.epoch + 1)

    def position(self) -> dict[str, Any]:
        """Where the stream stands, as JSON values: it goes on from there with the same units."""
        return {
            "epoch": self.epoch,
            "rows": self.rows,
            "checksum": self.checksum,
            "draws": self.draws,
            "buffer": [number for number, _ in self._buffer],
            "pending": [sample.key for sample in self._pending],
            "window": [sample.key for sample in self._window],
            "ready": [[sample.key for sample in unit] for unit in self._ready],
        }

    def go_on(self, position: dict[str, Any]) -> None:
        """Stand where a position says.

        Raises:
            SwiftError: the rows up to there are not the same.
        """
        self._begin(position["epoch"])
        ready = [key for unit in position["ready"] for key in unit]
        encoded = {row for row, _ in [*position["pending"], *position["window"], *ready]}
        rows = self._read_up_to(position, encoded.union(position["buffer"]))
        self._buffer = [(number, rows[number]) for number in position["buffer"]]
        samples = {number: self.encoder.samples(rows[number]) for number in sorted(encoded)}

        def numbered(keys: list[list[int]]) -> list[Numbered]:
            return [Numbered(row, piece, samples[row][piece]) for row, piece in keys]

        self._pending.extend(numbered(position["pending"]))
        self._window = numbered(position["window"])
        self._ready.extend(numbered(unit) for unit in position["ready"])
        self.draws, self._given = position["draws"], True
        self.encoder.forget()

    def _read_up_to(self, position: dict[str, Any], wanted: set[int]) -> dict[int, Placed]:
        """Read the rows before a position and keep some."""
        kept: dict[int, Placed] = {}
        while self.rows < position["rows"]:
            item = self._next()
            if item is None:
                break
            if not isinstance(item, Dropped) and self.rows - 1 in wanted:
                kept[self.rows - 1] = item
        if (self.rows, self.checksum) != (position["rows"], position["checksum"]):
            raise SwiftError(
                f"the first {position['rows']:,} rows differ from those of the run to go on with",
                fix="restore what the run had, or take only the weights: --resume_only_model true",
            )
        return kept

    def _next(self) -> Placed | Dropped | None:
        """The next row as it is read; it counts and goes into the checksum."""
        if self._reader is None:
            self._reader = self.read(self.epoch)
        item = next(self._reader, None)
        if item is not None:
            self.rows += 1
            told = [item.row, item.reason] if isinstance(item, Dropped) else item[0]
            text = json.dumps(told, sort_keys=True, default=repr)
            self.checksum = zlib.crc32(text.encode(), self.checksum)
        return item

    def _drawn(self) -> tuple[int, Placed] | None:
        """The next row to encode."""
        while not self._ended and len(self._buffer) < self.size:
            item = self._next()
            if item is None:
                self._ended = True
            elif not isinstance(item, Dropped):
                self._buffer.append((self.rows - 1, item))
            elif not self.epoch:
                self.encoder.refuse(item)
        if not self._buffer:
            return None
        at = int(self._draw() * len(self._buffer)) if len(self._buffer) > 1 else 0
        self._buffer[at], self._buffer[-1] = self._buffer[-1], self._buffer[at]
        return self._buffer.pop()

    def _draw(self) -> float:
        """A number in [0, 1) that hangs on the seed, the epoch and how many were drawn, so no state has to be kept."""
        block, at = divmod(self.draws, DRAWS)
        self.draws += 1
        return _block(self.seed, self.epoch if self.reshuffle else 0, block)[at]

    def _sample(self) -> Numbered | None:
        while not self._pending:
            drawn = self._drawn()
            if drawn is None:
                return None
            number, placed = drawn
            samples = self.encoder.samples(placed)
            self._pending.extend(Numbered(number, piece, sample) for piece, sample in enumerate(samples))
        return self._pending.popleft()

    def _single(self) -> list[Numbered]:
        sample = self._sample()
        return [] if sample is None else [sample]

    def _packed(self) -> list[Numbered]:
        assert self.packing is not None
        while not self._ready:
            if self.packing.strategy == "sequential":
                return self._filled_in_order(self.packing.capacity)
            if not self._fit(self.packing):
                return []
        return self._ready.popleft()

    def _filled_in_order(self, capacity: int) -> list[Numbered]:
        """Samples in order, until the next one does not fit; that one opens the next pack."""
        room = capacity - sum(sample.encoded.length for sample in self._window)
        while (sample := self._sample()) is not None:
            if sample.encoded.length > room:
                full, self._window = self._window, [sample]
                return full
            self._window.append(sample)
            room -= sample.encoded.length
        last, self._window = self._window, []
        return last

    def _fit(self, packing: Packing) -> bool:
        """Fill the window and pack it best-fit; the emptiest pack waits for the samples that follow."""
        ended = False
        while not ended and len(self._window) < packing.window:
            sample = self._sample()
            ended = sample is None
            self._window += [] if sample is None else [sample]
        if not self._window:
            return False
        lengths = [sample.encoded.length for sample in self._window]
        packs = plan_packs(lengths, packing.capacity, packing.strategy)
        filled = [sum(lengths[at] for at in pack) for pack in packs]
        waits = None if ended or len(packs) == 1 else filled.index(min(filled))
        window, self._window = self._window, []
        for number, pack in enumerate(packs):
            samples = [window[at] for at in pack]
            if number == waits:
                self._window = samples
            else:
                self._ready.append(samples)
        return True
