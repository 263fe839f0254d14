"""What a run chose by itself, and why."""

from __future__ import annotations

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

    def __iter__(self) -> Any:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)
