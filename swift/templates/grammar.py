"""What a model writes around its reasoning, its answer and its tool calls: the literal text between the fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import regex

from swift.templates.arguments import (
    NAME,
    Arguments,
    Incomplete,
    Malformed,
    blank,
    match_at,
    pattern_of,
    read_json,
    skip,
    tail_of,
)

TOKENS = regex.compile(r"<[^<>\s]*>|\[[A-Z_]+\]|\w+|\s|.", regex.DOTALL)
START, THOUGHT, CONTENT = "start", "reasoning", "content"


def shared_head(texts: list[str]) -> str:
    """The longest text that all begin with, in whole tags and words."""
    pieces = [TOKENS.findall(text) for text in texts]
    size = 0
    while all(len(piece) > size for piece in pieces) and len({piece[size] for piece in pieces}) == 1:
        size += 1
    return "".join(pieces[0][:size]) if pieces else ""


def shared_tail(texts: list[str]) -> str:
    """The longest text that all end with, in whole tags and words."""
    pieces = [TOKENS.findall(text)[::-1] for text in texts]
    size = 0
    while all(len(piece) > size for piece in pieces) and len({piece[size] for piece in pieces}) == 1:
        size += 1
    return "".join(pieces[0][:size][::-1]) if pieces else ""


@dataclass(frozen=True)
class Call:
    """One call that was read."""

    name: str
    arguments: Any
    id: str | None = None


@dataclass(frozen=True)
class ObjectBody:
    """A call that is one JSON object, which holds the name and the arguments."""

    name: str
    arguments: str
    id: str | None = None
    named: bool = True
    """The text around the object tells that it is a call; else only the names of known tools do."""

    def read(self, text: str, at: int, tools: Mapping[str, Any] | None, follow: Any) -> tuple[int, Call]:
        """The place after the call, and the call."""
        end, value = read_json(text, at)
        if not isinstance(value, dict):
            raise Malformed
        name = value.get(self.name, value.get("name"))
        arguments = value.get(self.arguments, value.get("arguments", value.get("parameters")))
        if isinstance(arguments, str) and arguments.strip():
            arguments = read_json(arguments, 0)[1]
        if not isinstance(name, str) or not name or not isinstance(arguments or {}, dict):
            raise Malformed
        if not self.named and (name not in tools if tools else not {self.name, self.arguments} <= value.keys()):
            raise Malformed
        own = value.get(self.id) if self.id else None
        return end, Call(name, arguments or {}, None if own is None else str(own))


@dataclass(frozen=True)
class NamedBody:
    """A call whose name stands in the text, with its arguments behind it.

    Attributes:
        between: what stands between the name and the arguments.
        arguments: how those are written.
    """

    between: str
    arguments: Arguments

    @cached_property
    def _head(self) -> Any:
        return regex.compile(f"(?P<name>{NAME})" + pattern_of(self.between))

    def read(self, text: str, at: int, tools: Mapping[str, Any] | None, follow: Any) -> tuple[int, Call]:
        """The place after the call, and the call."""
        head = match_at(self._head, text, blank(text, at))
        if head.end() == len(text):
            raise Incomplete
        name = head["name"]
        if not self.between.strip() and tools and name not in tools:
            raise Malformed
        start = skip(text, head.end(), tail_of(self.between))
        end, arguments = self.arguments.read(text, start, (tools or {}).get(name), follow)
        return end, Call(name, arguments, head.groupdict().get("id") or None)


@dataclass(frozen=True)
class Calls:
    """How calls are written.

    Attributes:
        first: what opens the first call, by what stands before it: nothing (`start`), reasoning or content.
        between: what stands between two calls; None where there can be only one.
        close: what stands behind the last call.
        body: the call itself.
    """

    first: Mapping[str, str]
    between: str | None
    close: str
    body: ObjectBody | NamedBody

    @cached_property
    def unit_close(self) -> str:
        """What closes each call."""
        return self.close if self.between is None else shared_head([self.between, self.close])

    @cached_property
    def opener(self) -> str:
        """What opens the first call wherever it stands."""
        return shared_tail(list(self.first.values()))

    def opening(self, state: str) -> str:
        """What opens the first call behind reasoning, content or nothing."""
        if state == CONTENT and state not in self.first and self.opener.strip():
            return "\n" + self.opener.lstrip()
        return self.first.get(state, self.opener)

    @cached_property
    def signs(self) -> set[str]:
        """The first tag or word of what opens a call; empty where calls stand bare."""
        return {TOKENS.findall(text.strip())[0] for text in self.first.values() if text.strip()}

    @cached_property
    def patterns(self) -> dict[str, Any]:
        """Patterns of what stands around calls."""
        unit = self.unit_close
        texts = {
            "unit_close": unit,
            "section_close": self.close[len(unit) :],
            "next": "" if self.between is None else self.between[len(unit) :],
            "follow": self.close.strip() and unit if unit.strip() else self.close,
        }
        return {name: regex.compile(pattern_of(text)) for name, text in texts.items()}


@dataclass(frozen=True)
class Grammar:
    """The whole format of an assistant's turn.

    Attributes:
        think_open: what opens reasoning, where the prompt has not done so.
        think_close: what stands between reasoning and the rest; empty where there is no reasoning.
        think_lead: white space in front of reasoning.
        prompt_open: how a prompt ends that has opened the reasoning; empty where none does.
        opened: the prompt that a server sends by default has opened it.
        content_open: what opens content, by what stands before it.
        content_close: what stands behind the content of a last turn, before the stop.
        calls: how tool calls are written; None where they are not.
        stops: what ends an answer.
        origin: `template` where it was read off the template, or the name of the table's entry.
    """

    think_open: str = ""
    think_close: str = ""
    think_lead: str = ""
    prompt_open: str = ""
    opened: bool = False
    content_open: Mapping[str, str] = field(default_factory=dict)
    content_close: str = ""
    calls: Calls | None = None
    stops: tuple[str, ...] = ()
    origin: str = "template"

    @cached_property
    def patterns(self) -> dict[str, Any]:
        """Patterns of everything that is looked for."""
        texts = {
            "think_open": self.think_open.strip() or self.prompt_tag,
            "think_close": self.think_close,
            "content_close": self.content_close,
            **{f"content_open {state}": text for state, text in self.content_open.items()},
        }
        if self.calls is not None:
            texts |= {f"call {state}": self.calls.opening(state) for state in (START, THOUGHT, CONTENT)}
            texts["call"] = self.calls.opener
        return {name: regex.compile(pattern_of(text)) for name, text in texts.items() if text.strip()}

    @cached_property
    def endings(self) -> list[Any]:
        """Patterns of what may stand at the very end and is no part of the message."""
        stops = "|".join(regex.escape(stop) for stop in sorted(self.stops, key=len, reverse=True))
        close = (
            pattern_of(self.content_close) + r"\s*" if self.content_close.strip() else regex.escape(self.content_close)
        )
        either = dict.fromkeys([f"{close}(?:{stops})" if stops else "", close, stops])
        return [regex.compile(rf"(?:{text})\Z") for text in either if text]

    @property
    def prompt_tag(self) -> str:
        """The tag by which a prompt opens reasoning."""
        tags = regex.findall(r"<[^<>]*>|\[[^\[\]]*\]", self.prompt_open)
        return tags[-1] if tags else ""

    def may_hold(self, text: str, tools: Any) -> bool:
        """Whether a text may hold calls, or begin with reasoning, in the format that the template writes."""
        if self.origin != "template":
            return False
        start = text.lstrip()
        tag = self.think_open.strip()
        if tag and tag != "<think>" and start.startswith(tag):
            return True
        if self.calls is None:
            return False
        if not self.calls.signs:
            return bool(tools) and start.startswith("{")
        return any(sign in text for sign in self.calls.signs)

    def opens(self, prompt: str) -> bool:
        """Whether a prompt has opened the reasoning."""
        return bool(self.prompt_open.strip()) and prompt.rstrip().endswith(self.prompt_open.strip())
