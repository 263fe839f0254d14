"""Rows that cannot be used: kept as a list, told in groups, written to a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.errors import SwiftError
from swift.rows import Source

SHOWN = 10
"""Rows shown of each group, and groups shown of a report."""


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


class BadRow(Exception):
    """Raised while a row is read or checked: what is wrong with it, in one line."""


def by_reason(dropped: Iterable[Dropped]) -> list[tuple[str, int]]:
    """Groups of reasons with their counts, the largest first; rows with one reason keep its words."""
    return sorted(((_title(rows), len(rows)) for rows in _groups(dropped)), key=lambda pair: -pair[1])


def _groups(dropped: Iterable[Dropped]) -> list[list[Dropped]]:
    groups: dict[str, list[Dropped]] = {}
    for row in dropped:
        groups.setdefault(row.group, []).append(row)
    return list(groups.values())


def _title(rows: Sequence[Dropped]) -> str:
    return rows[0].reason if all(row.reason == rows[0].reason for row in rows) else rows[0].group


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
    for rows in groups[:SHOWN]:
        lines += [f"  {row}" for row in rows[:SHOWN]]
        if len(rows) > SHOWN:
            lines.append(f"  … and {len(rows) - SHOWN} more like these")
    if rest := groups[SHOWN:]:
        lines.append(f"  … and {sum(map(len, rest))} rows for {len(rest)} other reasons")
    raise SwiftError("\n".join(lines), fix=fix)


def write_dropped(dropped: Iterable[Dropped], path: str | Path) -> None:
    """Write one JSON line `{"source", "reason", "row"}` for each dropped row, so that it can be mended there."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(map(dropped_line, dropped))


def dropped_line(row: Dropped) -> str:
    """A dropped row as a line of such a file."""
    source = None if row.source is None else str(row.source)
    line = {"source": source, "reason": row.reason, "row": row.row}
    return json.dumps(line, ensure_ascii=False, default=str) + "\n"


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, Mapping) else type(value).__name__)
