"""Rows that cannot be used: kept as a list, told in groups, written to a file."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from swift.data.row_store import RowStore
from swift.errors import SwiftError
from swift.rows import Source

SHOWN = 10
"""Rows of each group that are told in full, and groups told of a report; of further rows the lines are told."""
RUNS = 1000
"""Runs of lines that are told of a file."""

NOWHERE = Source("", -1)


@dataclass(frozen=True)
class Dropped:
    """A row, or a part of one, that is not trained on, and why.

    Attributes:
        source: where it came from.
        reason: why, in one line.
        row: what was read of it: the text of a broken line, the cells of a table's row, or the row.
    """

    source: Source | None
    reason: str
    row: Any = field(default=None, compare=False, repr=False)

    @property
    def group(self) -> str:
        """The reason without its numbers and quoted parts, so that like ones are told together."""
        return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", self.reason)

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}" if self.source else self.reason


class DroppedRows(Sequence[Dropped]):
    """Rows that were left out, in a file where they are many, so that memory does not grow with them."""

    def __init__(self, rows: Iterable[Dropped] = ()) -> None:
        self._store = RowStore()
        self.extend(rows)

    def append(self, dropped: Dropped) -> None:
        """Keep one."""
        told: Any = {"reason": dropped.reason, "row": dropped.row}
        try:
            self._store.append(told, dropped.source or NOWHERE)
        except (pickle.PicklingError, TypeError, AttributeError):
            told["row"] = repr(dropped.row)
            self._store.append(told, dropped.source or NOWHERE)

    def extend(self, rows: Iterable[Dropped]) -> None:
        """Keep several."""
        for row in rows:
            self.append(row)

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        told: Any
        told, source = self._store.read(range(len(self))[index])
        return Dropped(None if source == NOWHERE else source, told["reason"], told["row"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class BadRow(Exception):
    """Raised while a row is read or checked: what is wrong with it, in one line."""


def by_reason(dropped: Iterable[Dropped]) -> list[tuple[str, int]]:
    """Groups of reasons with their counts, the largest first; rows with one reason keep its words."""
    return sorted(((each.title, each.count) for each in _groups(dropped)), key=lambda pair: -pair[1])


@dataclass
class _Group:
    title: str
    count: int = 0
    first: list[str] = field(default_factory=list)
    rest: dict[str, list[int]] = field(default_factory=dict)

    def further(self) -> str:
        """Lines of the rows that are not told in full, by file: `rows.jsonl:12, 15-19`."""
        told = []
        for name, lines in self.rest.items():
            runs = list(_runs(lines))
            more = [f"and {len(runs) - RUNS:,} more"] if len(runs) > RUNS else []
            told.append(f"{name}:{', '.join([*runs[:RUNS], *more])}")
        return "; ".join(told)


def _runs(lines: list[int]) -> Iterator[str]:
    """Sorted numbers as text, neighbours put together: 3, 7-9."""
    start = 0
    for at in range(1, len(lines) + 1):
        if at == len(lines) or lines[at] != lines[at - 1] + 1:
            first, last = lines[start], lines[at - 1]
            yield str(first) if first == last else f"{first}-{last}"
            start = at


def _groups(dropped: Iterable[Dropped]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for row in dropped:
        group = groups.setdefault(row.group, _Group(row.reason))
        group.count += 1
        if row.reason != group.title:
            group.title = row.group
        if len(group.first) < SHOWN:
            group.first.append(str(row))
        elif row.source is not None:
            group.rest.setdefault(row.source.name, []).append(row.source.line)
    return list(groups.values())


def stop_at(bad: Sequence[Dropped], total: int, *, fix: str) -> None:
    """Stop the run when there are bad rows, showing the first of every kind.

    Args:
        bad: the rows that cannot be used.
        total: how many rows were looked at.
        fix: what the user can do.

    Raises:
        SwiftError: `bad` is not empty.
    """
    if not bad:
        return
    groups = _groups(bad)
    lines = [f"{len(bad)} of {total} rows cannot be used:"]
    for group in groups[:SHOWN]:
        lines += [f"  {row}" for row in group.first]
        if group.count > SHOWN:
            where = f": {told}" if (told := group.further()) else ""
            lines.append(f"  … and {group.count - SHOWN} more like these{where}")
    if rest := groups[SHOWN:]:
        lines.append(f"  … and {sum(each.count for each in rest)} rows for {len(rest)} other reasons")
    raise SwiftError("\n".join(lines), fix=fix)


class FailedRows:
    """The rows of a run that cannot be used, of all its passes over the data, for one report.

    Attributes:
        rows: how many rows were looked at.
        bad: those that cannot be read, or that template or task cannot encode.
        too_long: those that `--truncation_strategy raise` does not take.
    """

    def __init__(self) -> None:
        self.rows, self.bad, self.too_long = 0, DroppedRows(), DroppedRows()

    def stop(self) -> None:
        """Stop the run where there are some.

        Raises:
            SwiftError: there are; it shows the first of every kind.
        """
        fixes = ["raise --max_length, or choose another --truncation_strategy"] if self.too_long else []
        fixes += ["mend these rows; --strict false drops and counts them"] if self.bad else []
        stop_at(DroppedRows(chain(self.bad, self.too_long)), self.rows, fix="; ".join(fixes))


def write_dropped(dropped: Iterable[Dropped], path: str | Path) -> None:
    """Write one JSON line `{"source", "reason", "row"}` for each dropped row, so that it can be mended there."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(map(dropped_line, dropped))


def dropped_line(row: Dropped) -> str:
    """A dropped row as a line of such a file."""
    source = None if row.source is None else str(row.source)
    line = {"source": source, "reason": row.reason, "row": row.row}
    return json.dumps(line, ensure_ascii=False, default=str) + "\n"
