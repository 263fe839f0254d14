"""What comes with micro-batches besides tensors: rows left out, warnings, where the data stands, and why it ends."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from swift.data.drops import Dropped, dropped_line
from swift.data.live import ASIDE, Aside, StreamCollator
from swift.errors import SwiftError
from swift.train import distributed
from swift.train.folders import LIVE


class Halt(SwiftError):
    """The data of a run ends here: the last whole step is kept before the mistake is told."""


class Told(TrainerCallback):
    """Takes what micro-batches carry when their step begins, so that a checkpoint knows what was trained, no more.

    Args:
        path: dropped.jsonl.
        first: rows that were dropped before the run.
        collator: makes the micro-batches; a stream is told where to go on.
        fixed: what the template holds still, such as the date of the run's start.

    Attributes:
        notes: the template's counted warnings.
        dropped: how many rows and samples were left out during the run.
    """

    def __init__(self, path: Path, first: list[Dropped], collator: Any, fixed: dict[str, Any]) -> None:
        self.path, self.first, self.collator, self.fixed = path, first, collator, fixed
        self.notes, self.dropped = Counter[str](), 0
        self._position: dict[str, Any] | None = None
        self._known: set[str] = set()
        self._kept: tuple[int, int] = (0, 0)
        self._aside: list[Aside] = []

    def strip(self, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The batches without what they carry."""
        for batch in batches:
            self._aside.append(batch.pop(ASIDE))
            yield batch

    def take(self) -> None:
        """Write down what the micro-batches of a step carried; every process calls this before each step.

        Raises:
            Halt: some process cannot go on.
        """
        asides, self._aside = self._aside, []
        if distributed.any_process(any(aside.dropped or aside.notes or aside.failure for aside in asides)):
            asides = [aside for part in distributed.all_gather(asides) for aside in part]
        for failure in (aside.failure for aside in asides if aside.failure):
            raise Halt(failure.what, where=failure.where, fix=failure.fix)
        self._position = next((aside.position for aside in asides if aside.position), None)
        self._write([each for aside in asides for each in aside.dropped])
        for aside in asides:
            self.notes.update(aside.notes)

    def _write(self, dropped: list[Dropped]) -> None:
        """Append what is new: a row that is read in each epoch is told once."""
        lines = [line for each in dropped if (line := dropped_line(each)) not in self._known]
        self._known.update(lines)
        self.dropped += len(lines)
        if lines and distributed.is_main():
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(lines)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the file anew, or cut it to what was told up to the checkpoint."""
        start, count = self._kept
        lines = []
        if count and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)[start : start + count]
        distributed.barrier()
        self._known, self.dropped = set(lines), count
        if not distributed.is_main():
            return
        lines = [*map(dropped_line, self.first), *lines]
        if lines or self.path.is_file():
            self.path.write_text("".join(lines), encoding="utf-8")

    def save(self, folder: Path) -> None:
        """Note in a checkpoint where the data stands."""
        value = {"fixed": self.fixed, "first": len(self.first), "dropped": self.dropped, "notes": self.notes}
        value["position"] = self._position
        (folder / LIVE).write_text(json.dumps(value) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint's state; without one the stream is gone through from its start."""
        file = folder / LIVE
        if not file.is_file():
            return
        value = json.loads(file.read_text(encoding="utf-8"))
        self._kept, self.notes = (value["first"], value["dropped"]), Counter(value["notes"])
        self._position = value["position"]
        if isinstance(self.collator, StreamCollator):
            self.collator.start = value["position"]

    def lines(self) -> list[str]:
        """What was left out and the counted warnings, for the end of a run."""
        told = [f"{self.dropped:,} rows or samples left out during the run: {self.path}"] if self.dropped else []
        return [*told, *(f"{count:,} × {note}" for note, count in sorted(self.notes.items()))]
