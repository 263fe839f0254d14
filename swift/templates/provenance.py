"""Text that knows which message and field each of its characters came from.

A `Traced` string goes through a chat template like any other string; what the template does to it (slices, strips,
joins, JSON) is done to its origins as well. Origins are a second string of the same length, so that slicing and
joining them costs what slicing and joining text costs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex

LITERAL = "\0"
"""The origin of characters that the template wrote."""

FIELDS = ("content", "reasoning_content", "arguments", "name")
"""Fields of a message that are followed, in the order of their codes."""


def origin_of(message: int, field: str) -> str:
    """The one-character origin of a field of the message at an index."""
    return chr(1 + message * len(FIELDS) + FIELDS.index(field))


def origins_of(message: int) -> list[str]:
    """The origins of all fields of a message."""
    return [origin_of(message, field) for field in FIELDS]


def message_of(origin: str) -> int:
    """The index of the message that an origin belongs to; -1 for the template's own text."""
    return (ord(origin) - 1) // len(FIELDS)


class Traced(str):
    """A string with one origin per character."""

    origins: str
    __slots__ = ("origins",)

    def __new__(cls, text: str, origins: str) -> Traced:
        """Wrap `text`; `origins` is as long as it is, or a single origin for all of it."""
        self = super().__new__(cls, text)
        size = str.__len__(self)
        self.origins = origins if len(origins) == size else origins[:1] * size
        return self

    @classmethod
    def of(cls, value: Any) -> Traced:
        """Any string as a traced one; plain text counts as written by the template."""
        return value if isinstance(value, Traced) else cls(value, LITERAL)

    def _cut(self, start: int, stop: int) -> Traced:
        return Traced(str.__getitem__(self, slice(start, stop)), self.origins[start:stop])

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> Traced:
        return Traced(str.__add__(self, other), self.origins + origins_in(other))

    def __radd__(self, other: str) -> Traced:
        return Traced(str.__add__(other, self), origins_in(other) + self.origins)

    def __mul__(self, times: SupportsIndex) -> Traced:
        return Traced(str.__mul__(self, times), self.origins * times.__index__())

    __rmul__ = __mul__

    def __getitem__(self, key: Any) -> Traced:
        return Traced(str.__getitem__(self, key), self.origins[key])

    def __iter__(self) -> Iterator[str]:
        return (Traced(char, origin) for char, origin in zip(str.__iter__(self), self.origins, strict=True))

    def lstrip(self, chars: str | None = None) -> Traced:
        """Strip on the left."""
        return self._cut(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None) -> Traced:
        """Strip on the right."""
        return self._cut(0, len(str.rstrip(self, chars)))

    def strip(self, chars: str | None = None) -> Traced:
        """Strip on both sides."""
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> Traced:
        """Drop a prefix."""
        return self._cut(len(prefix) if self.startswith(prefix) else 0, len(self))

    def removesuffix(self, suffix: str) -> Traced:
        """Drop a suffix."""
        return self._cut(0, len(self) - len(suffix) if suffix and self.endswith(suffix) else len(self))

    def _pieces(self, texts: Iterable[str]) -> list[Any]:
        """Find texts that stand in this order, and give them their origins."""
        found, at = [], 0
        for text in texts:
            start = self.find(text, at)
            at = start + len(text)
            found.append(self._cut(start, at))
        return found

    def _separated(self, texts: list[str], sep: str) -> list[Any]:
        found, at = [], 0
        for text in texts:
            found.append(self._cut(at, at + len(text)))
            at += len(text) + len(sep)
        return found

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        """Split; every piece keeps its origins."""
        texts = str.split(self, sep, maxsplit)
        return self._pieces(texts) if sep is None else self._separated(texts, sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        """Split from the right; every piece keeps its origins."""
        texts = str.rsplit(self, sep, maxsplit)
        return self._pieces(texts) if sep is None else self._separated(texts, sep)

    def splitlines(self, keepends: bool = False) -> list[Any]:
        """Split at line ends; every line keeps its origins."""
        whole = self._separated(str.splitlines(self, True), "")
        short = str.splitlines(self, keepends)
        return [line._cut(0, len(text)) for line, text in zip(whole, short, strict=True)]

    def partition(self, sep: str) -> tuple[Any, Any, Any]:
        """Split once."""
        a, b, _ = str.partition(self, sep)
        cut = len(a) + len(b)
        return self._cut(0, len(a)), self._cut(len(a), cut), self._cut(cut, len(self))

    def rpartition(self, sep: str) -> tuple[Any, Any, Any]:
        """Split once, from the right."""
        a, b, _ = str.rpartition(self, sep)
        cut = len(a) + len(b)
        return self._cut(0, len(a)), self._cut(len(a), cut), self._cut(cut, len(self))

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Traced:
        """Replace; the new text keeps its own origins, or takes that of what it stands for."""
        parts = self.split(old, count) if old else None
        if parts is None:
            return Traced.of(str.replace(self, old, new, count))
        joined, at = parts[0], len(parts[0])
        for part in parts[1:]:
            ours = new if isinstance(new, Traced) else Traced(new, self.origins[at : at + 1] or LITERAL)
            joined = joined + ours + part
            at += len(old) + len(part)
        return joined

    def join(self, parts: Iterable[str]) -> Traced:
        """Join parts, which may be plain or traced."""
        parts = list(parts)
        return Traced(str.join(self, parts), self.origins.join(map(origins_in, parts)))

    def _same_length(self, text: str) -> Traced:
        if len(text) == len(self):
            return Traced(text, self.origins)
        return Traced(text, self.origins[:1] if len(set(self.origins)) == 1 else LITERAL)

    def lower(self) -> Traced:
        """Lower case."""
        return self._same_length(str.lower(self))

    def upper(self) -> Traced:
        """Upper case."""
        return self._same_length(str.upper(self))

    def title(self) -> Traced:
        """Title case."""
        return self._same_length(str.title(self))

    def capitalize(self) -> Traced:
        """First letter in upper case."""
        return self._same_length(str.capitalize(self))


def origins_in(text: str) -> str:
    """The origins of any string."""
    return text.origins if isinstance(text, Traced) else LITERAL * len(text)


def join_traced(parts: Iterable[Any]) -> str:
    """`"".join(map(str, parts))` that keeps origins; plain when no part is traced."""
    texts = [str(part) for part in parts]
    joined = "".join(texts)
    if any(type(text) is Traced for text in texts):
        return Traced(joined, "".join(map(origins_in, texts)))
    return joined


class TracedDict(dict):
    """A mapping whose text belongs to a field as a whole: braces, keys and numbers too."""

    origin: str = LITERAL

    def __str__(self) -> str:
        return Traced(dict.__repr__(self), self.origin)


def holds_traced(value: Any) -> bool:
    """Whether a traced string stands anywhere inside."""
    if isinstance(value, (Traced, TracedDict)):
        return True
    if isinstance(value, dict):
        return any(map(holds_traced, value.values()))
    return isinstance(value, (list, tuple)) and any(map(holds_traced, value))


def dump_json(
    value: Any, *, ensure_ascii: bool, indent: int | str | None, separators: tuple[str, str] | None, sort_keys: bool
) -> str:
    """`json.dumps` whose text keeps the origins of the strings inside."""

    def plain(leaf: Any) -> str:
        return json.dumps(leaf, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    if not holds_traced(value):
        return plain(value)
    between, colon = separators or ((", ", ": ") if indent is None else (",", ": "))
    step = " " * indent if isinstance(indent, int) else indent
    return _dump(value, plain, (between, colon), step, 0, LITERAL, sort_keys)


def _dump(
    value: Any,
    plain: Callable[[Any], str],
    separators: tuple[str, str],
    step: str | None,
    depth: int,
    origin: str,
    sort_keys: bool,
) -> str:
    if isinstance(value, TracedDict):
        origin = value.origin
    if isinstance(value, str):
        return _dump_text(value, plain, origin)
    if not isinstance(value, (dict, list, tuple)) or not value:
        return Traced(plain(value), origin)
    edge = "" if step is None else "\n" + step * (depth + 1)
    last = "" if step is None else "\n" + step * depth
    between = Traced(separators[0] + edge, origin)
    parts: list[str] = []
    if isinstance(value, dict):
        opening, closing = "{", "}"
        for key, item in sorted(value.items()) if sort_keys else value.items():
            name = plain(key) if isinstance(key, str) else json.dumps({key: 0}).partition(":")[0][1:]
            head = Traced(name + separators[1], origin)
            parts.append(head + _dump(item, plain, separators, step, depth + 1, origin, sort_keys))
    else:
        opening, closing = "[", "]"
        parts = [_dump(item, plain, separators, step, depth + 1, origin, sort_keys) for item in value]
    return Traced(opening + edge, origin) + between.join(parts) + Traced(last + closing, origin)


def _dump_text(text: str, plain: Callable[[Any], str], origin: str) -> Traced:
    dumped = plain(str.__str__(text))
    kinds = set(origins_in(text))
    if len(kinds) <= 1:
        return Traced(dumped, kinds.pop() if kinds and isinstance(text, Traced) else origin)
    inner = "".join(origins * len(plain(char)[1:-1]) for char, origins in zip(text, origins_in(text), strict=True))
    return Traced(dumped, inner[:1] + inner + inner[-1:])
