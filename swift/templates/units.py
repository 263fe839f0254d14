"""Where a probe call stands in a text, and how it is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import regex

from swift.templates.arguments import (
    HOLE_ID,
    HOLE_NAME,
    HOLE_NUMBER,
    JsonArguments,
    NestedArguments,
    PythonArguments,
    QuotedArguments,
    TaggedArguments,
)
from swift.templates.grammar import NamedBody, ObjectBody, shared_head, shared_tail

ID = "zq3456789"
NAMES = ("zqfirst", "zqsecond")
KEYS, VALUES = ("zqkeya", "zqkeyb"), ("zqvala", "zqvalb")
PLAIN = dict(zip(KEYS, VALUES, strict=True))
DECODER = json.JSONDecoder()
"""What the probe call is made of: its id, names of functions, keys and values."""


@dataclass(frozen=True)
class Unit:
    """A call in a text: where it stands and how it is written."""

    start: int
    stop: int
    body: ObjectBody | NamedBody


def put_holes(literal: str) -> str:
    """The literal with holes where it holds an id, a name of the probe or a number."""
    literal = regex.sub(ID[:-1] + r"\d", HOLE_ID, literal)
    for name in NAMES:
        literal = literal.replace(name, HOLE_NAME)
    return regex.sub(r"(?<!\w)\d+(?!\w)", HOLE_NUMBER, literal)


def find_unit(text: str | None, name: str = NAMES[0], start: int = 0) -> Unit | None:
    """The call of `PLAIN` under a name in a text."""
    if text is None or (at := text.find(name, start)) < 0:
        return None
    return _object_unit(text, name, start) or _json_unit(text, at, name) or _tag_unit(text, at, name)


def _decode(text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = DECODER.raw_decode(text, at)
    except ValueError:
        return None, at
    return value, end


def _holds(value: Any, wanted: Any) -> bool:
    return value == wanted or (isinstance(value, str) and _decode(value, 0)[0] == wanted)


def _object_unit(text: str, name: str, start: int) -> Unit | None:
    for brace in regex.compile(r"\{").finditer(text, start):
        value, end = _decode(text, brace.start())
        if not isinstance(value, dict):
            continue
        names = [key for key, item in value.items() if item == name]
        arguments = [key for key, item in value.items() if _holds(item, PLAIN)]
        if names and arguments:
            own = [key for key, item in value.items() if key not in (*names, *arguments) and isinstance(item, str)]
            ids = [key for key in own if "id" in key.lower()]
            return Unit(brace.start(), end, ObjectBody(names[0], arguments[0], ids[0] if ids else None))
    return None


def _json_unit(text: str, at: int, name: str) -> Unit | None:
    for brace in regex.compile(r'[{"]').finditer(text, at + len(name)):
        value, end = _decode(text, brace.start())
        if _holds(value, PLAIN):
            between = put_holes(text[at + len(name) : brace.start()])
            return Unit(at, end, NamedBody(between, JsonArguments()))
    return None


def _tag_unit(text: str, at: int, name: str) -> Unit | None:
    """A call whose keys and values stand apart."""
    places, behind = [], at + len(name)
    for word in (KEYS[0], VALUES[0], KEYS[1], VALUES[1]):
        behind = text.find(word, behind)
        if behind < 0:
            return None
        places.append((behind, behind + len(word)))
        behind += len(word)
    opening, value, following = (
        text[at + len(name) : places[0][0]],
        text[places[0][1] : places[1][0]],
        text[places[1][1] : places[2][0]],
    )
    rest = text[places[3][1] :]
    if KEYS[0] in following:
        mark = regex.match(r".*?(?=</)", following, regex.DOTALL)
        head = opening.removesuffix(f"{mark[0]}<") if mark else opening
        stop = f"{mark[0]}</{KEYS[1]}>" if mark else ""
        return Unit(at, places[3][1] + len(stop), NamedBody(put_holes(head), NestedArguments(mark[0] if mark else "")))
    if opening == "(":
        return Unit(at, places[3][1] + rest.index(")") + 1, NamedBody("(", PythonArguments(False)))
    if opening == "{" and value.startswith(":") and rest.startswith(value[1:] + "}"):
        return Unit(at, places[3][1] + len(value), NamedBody("{", QuotedArguments(value[1:])))
    close = shared_head([following, rest])
    key = shared_tail([opening, following[len(close) :]])
    if not close.strip() or not (key + value).strip():
        return None
    body = NamedBody(put_holes(opening[: len(opening) - len(key)]), TaggedArguments(key, ((value, "either"),), close))
    return Unit(at, places[3][1] + len(close), body)
