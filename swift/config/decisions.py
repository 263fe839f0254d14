"""What a run chose by itself, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decision:
    """One value that nobody typed: what it is, where it came from and why."""

    name: str
    value: Any
    origin: str
    """flag, file, model, data, machine or default."""
    reason: str


class Decisions:
    """The list behind the table that a run begins with."""

    def __init__(self) -> None:
        self._by_name: dict[str, Decision] = {}

    def add(self, name: str, value: Any, origin: str, reason: str) -> Any:
        """Note a decision and give its value back, so that it can be noted where it is made."""
        self._by_name[name] = Decision(name, value, origin, reason)
        return value

    def table(self) -> list[str]:
        """A line for each: name, value, where it came from, and why."""
        rows = [(each.name, _shown(each.value), each.origin, each.reason) for each in self]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)]
            lines.append(f"  {'  '.join(cells)}  {row[3]}".rstrip())
        return lines

    def __iter__(self) -> Iterator[Decision]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text.replace("\n", "\\n")
