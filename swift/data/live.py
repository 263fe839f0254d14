"""Samples that are made while the run goes on, and what their micro-batches carry besides tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swift.data.collator import Lay
from swift.data.drops import Dropped
from swift.data.encoding import RowEncoder
from swift.data.row_store import Placed
from swift.errors import SwiftError
from swift.rows import EncodedRow

if TYPE_CHECKING:
    from swift.data.stream import UnitStream

ASIDE = "aside"
"""What a micro-batch carries besides tensors goes by this name."""


class BadSample(SwiftError):
    """A row that cannot be used was met while the run goes on: it stops there, after a checkpoint."""


@dataclass
class Aside:
    """What a micro-batch carries besides tensors.

    Attributes:
        dropped: what was left out since the last one.
        notes: the template's counted warnings since the last one.
        failure: why there are no more micro-batches from here on.
        position: where the data stands once the step that this micro-batch ends is done.
    """

    dropped: list[Dropped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    failure: SwiftError | None = None
    position: dict[str, Any] | None = None


class LiveEncoder:
    """Encodes rows and keeps what has to be told of them until it is taken.

    Args:
        encoder: encodes one row.
        strict: a row that cannot be used stops the run; else it is left out and told.
    """

    def __init__(self, encoder: RowEncoder, strict: bool) -> None:
        self.encoder, self.strict = encoder, strict
        self.dropped: list[Dropped] = []
        self._noted = Counter[str](encoder.template.notes)

    def samples(self, placed: Placed) -> list[EncodedRow]:
        """The samples of a row.

        Raises:
            BadSample: the row cannot be used (strict), or is too long under `raise`.
        """
        found = self.encoder(*placed)
        for bad in found.too_long:
            raise _stopped(bad, "raise --max_length, or choose another --truncation_strategy")
        for bad in found.bad:
            self.refuse(bad)
        self.dropped += found.dropped
        for sample in found.samples:
            sample.rendered = None
        return found.samples

    def refuse(self, bad: Dropped) -> None:
        """Stop at a row that cannot be used, or leave it out.

        Raises:
            BadSample: bad rows are not to be left out.
        """
        if self.strict:
            raise _stopped(bad, "mend this row, or drop such rows with --strict false")
        self.dropped.append(bad)

    def forget(self) -> None:
        """Let go of what is to be told: it was told before."""
        self.take()

    def take(self) -> Aside:
        """What is to be told since the last call."""
        notes, dropped = Counter(self.encoder.template.notes), self.dropped
        aside = Aside(dropped, notes - self._noted)
        self._noted, self.dropped = notes, []
        return aside


def _stopped(bad: Dropped, fix: str) -> BadSample:
    return BadSample(f"a row cannot be used: {bad.reason}", where=str(bad.source) if bad.source else None, fix=fix)


class LazyCollator:
    """Makes micro-batches from rows that are encoded here, which is in the workers of the loader where it has any.

    A unit is a row; where a row gives several samples, they share the micro-batch.

    Args:
        rows: the rows.
        encoder: encodes them.
        layout: how the samples of a batch lie.
    """

    def __init__(self, rows: Sequence[Placed], encoder: LiveEncoder, layout: Lay) -> None:
        self.rows, self.encoder, self.layout = rows, encoder, layout

    def __call__(self, unit_indices: Sequence[int]) -> dict[str, Any]:
        """The batch of these rows, with an `Aside`; rows that are left out leave it smaller."""
        try:
            samples = [sample for index in unit_indices for sample in self.encoder.samples(self.rows[index])]
        except SwiftError as error:
            return failed(self.layout, error)
        return {**self.layout(samples), ASIDE: self.encoder.take()}


class StreamCollator:
    """Makes this process's micro-batches from a stream that every process reads alike.

    The numbers that it is called with are places in the stream, which it goes through in order.

    Args:
        stream: gives units of samples.
        units_per_step: of a whole step, over all processes.
        share: the units of a micro-batch over all processes.
        tells: whether this process tells what is left out; the others leave out the same.
        layout: how the samples of a batch lie.

    Attributes:
        start: the position that the stream goes on from, as an `Aside` gave it.
    """

    def __init__(self, stream: UnitStream, *, units_per_step: int, share: int, tells: bool, layout: Lay) -> None:
        self.stream, self.units_per_step, self.share = stream, units_per_step, share
        self.tells, self.layout = tells, layout
        self.start: dict[str, Any] | None = None
        self._step, self._units = -1, list[list[EncodedRow]]()
        self._failure: SwiftError | None = None

    def __call__(self, unit_indices: Sequence[int]) -> dict[str, Any]:
        """The batch of these units, with an `Aside`."""
        step, first = divmod(unit_indices[0], self.units_per_step)
        try:
            self._go_to(step)
        except SwiftError as error:
            self._failure = error
        if self._failure:
            return failed(self.layout, self._failure)
        units = self._units[first : first + len(unit_indices)]
        batch = {**self.layout([sample for unit in units for sample in unit])}
        aside = self.stream.encoder.take()
        if not self.tells:
            aside = Aside()
        if first + self.share >= self.units_per_step:
            aside.position = {"step": step + 1, **self.stream.position()}
        return {**batch, ASIDE: aside}

    def _go_to(self, step: int) -> None:
        """Read up to a step; without a position to start from, the steps before it are made and let go."""
        if self._failure:
            return
        if self.start is not None:
            position, self.start = self.start, None
            self.stream.go_on(position)
            self._step = position["step"] - 1
        while self._step < step:
            self._units = [self.stream.unit() for _ in range(self.units_per_step)]
            self._step += 1


def failed(layout: Lay, failure: SwiftError) -> dict[str, Any]:
    """A stand-in that carries why there are no more batches; an exception would reach the run as a worker's text."""
    return {**layout([]), ASIDE: Aside(failure=failure)}
