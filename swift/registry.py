"""Named parts: the built-in ones by module, a user's own by decorator. Every room may import this file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Generic, TypeVar

from swift.errors import SwiftError

T = TypeVar("T")


class Registry(Generic[T]):
    """Parts of one kind by name. A built-in's module is imported when the name is asked for.

    Args:
        kind: what the parts are called in errors, such as "tuner".
        option: the option that chooses one, such as "train_type".
        builtin: name -> the module whose decorator registers it.
    """

    def __init__(self, kind: str, option: str, builtin: Mapping[str, str] | None = None) -> None:
        self.kind, self.option = kind, option
        self._builtin = dict(builtin or {})
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: register a part under `name`; a user's part may replace a built-in one."""

        def keep(part: T) -> T:
            self._parts[name] = part
            return part

        return keep

    def get(self, name: str) -> T:
        """The part of that name.

        Raises:
            SwiftError: there is none; it lists those there are.
        """
        self.check(name)
        if name not in self._parts:
            import_module(self._builtin[name])
        return self._parts[name]

    def check(self, name: str) -> None:
        """Stop where there is no part of that name, without importing any.

        Raises:
            SwiftError: it lists those there are.
        """
        if name not in self:
            there = f"choose one of: {', '.join(self)}; or " if list(self) else ""
            raise SwiftError(
                f"--{self.option} {name}: there is no such {self.kind}",
                fix=f"{there}register your own with --external_plugins",
            )

    def is_builtin(self, name: str) -> bool:
        """Whether the part of that name is ours, not a user's own in its place."""
        part = self._parts.get(name)
        return name in self._builtin and (part is None or getattr(part, "__module__", None) == self._builtin[name])

    def __contains__(self, name: str) -> bool:
        return name in self._parts or name in self._builtin

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._parts.keys() | self._builtin.keys()))
