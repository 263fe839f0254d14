"""How the arguments of a tool call are written in a model's text, and the way back to typed values.

Each encoding reads from a place in the text. `Incomplete` says that more text may settle it, `Malformed` that none can.
JSON, typed tags and quoted literals give types back as they were; other tags lose them, and there the tool's JSON
schema decides, or else the value's look.
"""

from __future__ import annotations

import ast
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import regex

NAME = r"""[^\s<>"'(){}\[\],=:|`]+"""
QUOTED = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
STRUCTURE = regex.compile(QUOTED + r'|["{}\[\]]', regex.DOTALL)
PYTHON = regex.compile(QUOTED + "|" + QUOTED.replace('"', "'") + r"""|["'(){}\[\]]""", regex.DOTALL)
BARE_KEY = regex.compile(r'([{,]\s*)([^\s{}\[\],:"\x00]+)\s*:')
HOLE_ID, HOLE_NAME, HOLE_NUMBER = "\ue000", "\ue001", "\ue002"
HOLES = {HOLE_ID: r"(?P<id>[\w.:-]*)", HOLE_NAME: NAME, HOLE_NUMBER: r"\d+"}
"""What stands for a call's id, its name and its number in the literal text of a format."""
EITHER: dict[str, str | int | None] = {"\ue003": "(?:", "\ue004": "|", "\ue005": ")"}
"""What encloses and separates spellings of the same literal."""


class Incomplete(Exception):
    """The text ends before it is clear what it holds."""


class Malformed(Exception):
    """The text is not what the format says."""


def pattern_of(literal: str) -> str:
    """A regular expression for a format's literal text: white space may be missing, holes take any value.

    White space at the front is taken as far as it is the literal's own; white space at the end is left out.
    """
    body = literal.rstrip()
    core = body.lstrip()
    lead = "".join(regex.escape(char) + "?" for char in body[: len(body) - len(core)])
    parts = [r"\s*" if part.isspace() else regex.escape(part) for part in regex.split(r"(\s+)", core) if part]
    text = lead + "".join(parts)
    for hole, pattern in HOLES.items():
        text = text.replace(hole, pattern, 1).replace(hole, r"[\w.:-]*")
    return text.translate(str.maketrans(EITHER))


def either(one: str, other: str) -> str:
    """A literal that may be written in two ways."""
    opening, bar, closing = EITHER
    return f"{opening}{one}{bar}{other}{closing}"


def tail_of(literal: str) -> str:
    """The white space that a literal ends with; all of it where it is nothing else."""
    return literal[len(literal.rstrip()) :]


def skip(text: str, at: int, white: str) -> int:
    """The place after as much of `white` as stands at `at`."""
    for char in white:
        if not text.startswith(char, at):
            break
        at += 1
    return at


def blank(text: str, at: int) -> int:
    """The place of the next character that is no white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def match_at(pattern: Any, text: str, at: int, *, must: bool = True) -> Any:
    """A match at a place.

    Raises:
        Incomplete: the text ends where the pattern could still go on.
        Malformed: it does not match, and `must` is set.
    """
    found = pattern.match(text, at, partial=True)
    if found is not None and found.partial:
        raise Incomplete
    if found is None and must:
        raise Malformed
    return found


def closed_at(text: str, at: int, tokens: Any = STRUCTURE) -> int:
    """The place after the bracket that closes the one at `at`.

    Raises:
        Incomplete: it is not closed yet.
    """
    depth = 0
    for token in tokens.finditer(text, at):
        mark = token[0]
        if mark in ("{", "[", "("):
            depth += 1
        elif mark in ("}", "]", ")"):
            depth -= 1
            if depth <= 0:
                return token.end()
        elif len(mark) == 1:
            break
    raise Incomplete


def read_json(text: str, at: int) -> tuple[int, Any]:
    """A JSON object (or a JSON text that holds one) at a place, and where it ends."""
    at = blank(text, at)
    if at >= len(text):
        raise Incomplete
    if text[at] == '"':
        end = match_at(regex.compile(QUOTED, regex.DOTALL), text, at).end()
    elif text[at] in "{[":
        end = closed_at(text, at)
    else:
        raise Malformed
    try:
        return end, json.loads(text[at:end], strict=False)
    except ValueError:
        raise Malformed from None


def types_of(schema: Any) -> set[str]:
    """The JSON types that a schema allows; empty where it does not say."""
    if not isinstance(schema, Mapping):
        return set()
    kinds = schema.get("type")
    found = {kinds} if isinstance(kinds, str) else set(kinds or ())
    for key in ("anyOf", "oneOf"):
        for option in schema.get(key) or ():
            found |= types_of(option)
    if not found and isinstance(schema.get("enum"), list):
        found = {"string"} if all(isinstance(value, str) for value in schema["enum"]) else set()
    return found


def value_of(raw: str, schema: Any = None) -> Any:
    """A value from text without types: as the schema says, or else as it looks."""
    kinds = types_of(schema)
    if kinds == {"string"}:
        return raw
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(raw)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
        known = isinstance(value, (bool, int, float, dict, list, type(None)))
        if known and (not kinds or _kind(value) & kinds):
            return value
    return raw


def _kind(value: Any) -> set[str]:
    names: dict[type, set[str]] = {
        bool: {"boolean"},
        int: {"integer", "number"},
        float: {"number"},
        dict: {"object"},
        list: {"array"},
        type(None): {"null"},
    }
    return names.get(type(value), set())


def properties_of(schema: Any) -> Mapping[str, Any]:
    """The properties of an object's schema."""
    found = schema.get("properties") if isinstance(schema, Mapping) else None
    return found if isinstance(found, Mapping) else {}


class Arguments(Protocol):
    """An encoding of arguments."""

    def read(self, text: str, at: int, schema: Any, follow: Any) -> tuple[int, dict[str, Any]]:
        """The place after the arguments, and their values.

        Args:
            text: what was generated so far.
            at: where the arguments begin.
            schema: the JSON schema of the tool's parameters, or None.
            follow: pattern of what closes the call.
        """
        ...


@dataclass(frozen=True)
class JsonArguments:
    """One JSON object, or a JSON text that holds one."""

    def read(self, text: str, at: int, schema: Any, follow: Any) -> tuple[int, dict[str, Any]]:
        """See `Arguments`."""
        end, value = read_json(text, at)
        if isinstance(value, str):
            _, value = read_json(value, 0)
        if not isinstance(value, dict):
            raise Malformed
        return end, value


@dataclass(frozen=True)
class PythonArguments:
    """The arguments of a Python call, `(s='text', n=5, o={"x": true})`; the opening bracket is behind us.

    Attributes:
        raw: text stands between its quotes as it is, quotes inside included.
    """

    raw: bool

    def read(self, text: str, at: int, schema: Any, follow: Any) -> tuple[int, dict[str, Any]]:
        """See `Arguments`."""
        found: dict[str, Any] = {}
        key = regex.compile(r"\s*,?\s*(\w+)\s*=\s*")
        end = regex.compile(r"\s*\)")
        while not match_at(end, text, at, must=False):
            head = match_at(key, text, at)
            at, found[head[1]] = self._value(text, head.end())
        return match_at(end, text, at).end(), found

    def _value(self, text: str, at: int) -> tuple[int, Any]:
        if at >= len(text):
            raise Incomplete
        if self.raw and text[at] in "'\"":
            for quote in regex.compile(text[at]).finditer(text, at + 1):
                behind = match_at(regex.compile(r"\s*(?:\)\s*(?:,|\])|,\s*\w+\s*=)"), text, quote.end(), must=False)
                if behind:
                    return quote.end(), text[at + 1 : quote.start()]
            raise Incomplete
        end = self._literal_end(text, at)
        try:
            return end, _python_value(text[at:end].strip())
        except (SyntaxError, ValueError):
            raise Malformed from None

    def _literal_end(self, text: str, at: int) -> int:
        depth = 0
        for token in regex.compile(PYTHON.pattern + "|,", regex.DOTALL).finditer(text, at):
            mark = token[0]
            if not depth and mark in (",", ")"):
                return token.start()
            depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(mark, 0)
            if mark in ("'", '"'):
                break
        raise Incomplete


def _python_value(source: str) -> Any:
    """A literal of Python or JSON."""
    try:
        return json.loads(source)
    except ValueError:
        return ast.literal_eval(source)


@dataclass(frozen=True)
class QuotedArguments:
    """A literal with bare keys and a quote of its own, `{s:<q>text<q>,n:5}`; the opening brace is behind us."""

    quote: str

    def read(self, text: str, at: int, schema: Any, follow: Any) -> tuple[int, dict[str, Any]]:
        """See `Arguments`."""
        pieces, depth, place, json_text = regex.escape(self.quote), 1, at, ["{"]
        token = regex.compile(f"{pieces}(.*?){pieces}|[{{}}\\[\\]]", regex.DOTALL)
        while depth:
            found = token.search(text, place)
            if found is None or (found[1] is None and self.quote in text[place : found.start()]):
                raise Incomplete
            between = text[place : found.start()]
            json_text.append(between)
            json_text.append(found[0] if found[1] is None else json.dumps(found[1]))
            depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(found[0], 0)
            place = found.end()
        strings = {index: piece for index, piece in enumerate(json_text) if piece.startswith('"')}
        bare = "".join("\x00" if index in strings else piece for index, piece in enumerate(json_text))
        quoted = iter(strings.values())
        whole = regex.sub("\x00", lambda _: next(quoted), BARE_KEY.sub(r'\1"\2":', bare.replace("None", "null")))
        try:
            value = json.loads(whole)
        except ValueError:
            raise Malformed from None
        return place, value


@dataclass(frozen=True)
class TaggedArguments:
    """Each argument between literals of its own: `<parameter=KEY>\\nVALUE\\n</parameter>`.

    Attributes:
        key: what stands before a key.
        values: what stands between key and value, and whether the value behind it is JSON, plain text, or either.
        close: what stands behind a value.
        cdata: text with markup in it stands in a CDATA block.
        escaped: text is HTML-escaped.
    """

    key: str
    values: tuple[tuple[str, str], ...]
    close: str
    cdata: bool = False
    escaped: bool = False

    def read(self, text: str, at: int, schema: Any, follow: Any) -> tuple[int, dict[str, Any]]:
        """See `Arguments`."""
        heads = [
            (regex.compile(pattern_of(self.key) + r"(?P<key>[^<>\n]+?)" + pattern_of(value)), tail_of(value), kind)
            for value, kind in self.values
        ]
        close = regex.compile(pattern_of(self.close))
        found: dict[str, Any] = {}
        while True:
            at = blank(text, at)
            head = self._head(heads, text, at)
            if head is None:
                match_at(follow, text, at)
                return at, found
            match, tail, kind = head
            start = skip(text, match.end(), tail)
            stop, at = self._value_end(text, start, close, [pattern for pattern, _, _ in heads], follow)
            key = match["key"]
            found[key] = self._value(text[start:stop], kind, properties_of(schema).get(key))

    def _head(self, heads: list[Any], text: str, at: int) -> Any:
        partial = False
        for pattern, tail, kind in heads:
            found = pattern.match(text, at, partial=True)
            if found is not None and not found.partial:
                return found, tail, kind
            partial |= found is not None
        if partial:
            raise Incomplete
        return None

    def _value_end(self, text: str, start: int, close: Any, heads: list[Any], follow: Any) -> tuple[int, int]:
        """Where a value ends: at the first closing literal that another argument or the call's end follows."""
        for found in close.finditer(text, start):
            behind = blank(text, found.end())
            after = [pattern.match(text, behind, partial=True) for pattern in (*heads, follow)]
            if any(match is not None and not match.partial for match in after):
                return found.start(), found.end()
            if any(match is not None for match in after):
                raise Incomplete
        raise Incomplete

    def _value(self, raw: str, kind: str, schema: Any) -> Any:
        if self.cdata and raw.startswith("<![CDATA[") and raw.endswith("]]>"):
            return raw[9:-3]
        raw = html.unescape(raw) if self.escaped else raw
        if kind == "text":
            return raw
        return value_of(raw, None if kind == "json" else schema)


@dataclass(frozen=True)
class NestedArguments:
    """Each argument as an element named by its key, objects and lists as elements inside: `<o><x>y</x></o>`.

    Attributes:
        mark: what stands before each tag.
    """

    mark: str

    def read(self, text: str, at: int, schema: Any, follow: Any) -> tuple[int, dict[str, Any]]:
        """See `Arguments`."""
        at, pairs = self._elements(text, at, schema)
        match_at(follow, text, blank(text, at))
        return at, dict(pairs)

    def _elements(self, text: str, at: int, schema: Any) -> tuple[int, list[tuple[str, Any]]]:
        opening = regex.compile(regex.escape(self.mark) + r"<(?P<key>[^<>/\s][^<>]*)>")
        pairs: list[tuple[str, Any]] = []
        while found := match_at(opening, text, at, must=False):
            key = found["key"]
            inner = properties_of(schema).get(key) or (schema or {}).get("items") if isinstance(schema, dict) else None
            at, value = self._value(text, found.end(), key, inner, opening)
            pairs.append((key, value))
        return at, pairs

    def _value(self, text: str, at: int, key: str, schema: Any, opening: Any) -> tuple[int, Any]:
        closing = f"{self.mark}</{key}>"
        if match_at(opening, text, at, must=False):
            at, pairs = self._elements(text, at, schema)
            match_at(regex.compile(regex.escape(closing)), text, at)
            is_list = "array" in types_of(schema) or all(name == "item" for name, _ in pairs)
            return at + len(closing), [value for _, value in pairs] if is_list else dict(pairs)
        stop = text.find(closing, at)
        if stop < 0:
            raise Incomplete
        if stop == at and types_of(schema) & {"object", "array"}:
            return stop + len(closing), {} if "object" in types_of(schema) else []
        return stop + len(closing), value_of(text[at:stop], schema)
