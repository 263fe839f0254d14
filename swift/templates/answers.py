"""A template's answers: their format, what was generated as messages, and calls written out in a row's text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from swift.errors import SwiftError
from swift.rows import Message
from swift.templates import messages as checks
from swift.templates.closing import TOOL, USER
from swift.templates.derive import derive
from swift.templates.grammar import Grammar
from swift.templates.parsing import Parser, parse

if TYPE_CHECKING:
    from swift.templates.template import Template

MARKUP = re.compile(r"[<\[{>=]")
"""One of these stands in the opening of every known call."""


class Answers:
    """The way from text to messages under one template."""

    def __init__(self, template: Template) -> None:
        self._template = template

    @contextmanager
    def _unnoted(self) -> Iterator[None]:
        """What probes and trials run into is nothing that a user should know."""
        kept = Counter(self._template.notes)
        try:
            yield
        finally:
            self._template.notes.clear()
            self._template.notes.update(kept)

    @cached_property
    def grammar(self) -> Grammar:
        """The format of the model's answers, read off the template."""
        with self._unnoted():
            grammar = derive(self._served, self._template.jinja, self._stops, self._default_prompt())
        agent = self._template.agent
        return grammar if agent is None else replace(grammar, calls=agent.calls, origin=agent.name)

    @cached_property
    def _stops(self) -> list[str]:
        try:
            return self._template.stop_texts
        except SwiftError:
            eos = self._template.tokenizer.eos_token
            return [str(eos)] if eos else []

    def _default_prompt(self) -> str:
        for tools in (None, [TOOL]):
            try:
                return self._template.plain([{"role": "user", "content": USER}], tools, prompt=True)
            except SwiftError:
                continue
        return ""

    def _served(self, message: dict[str, Any], tools: Any) -> tuple[str, str]:
        """The prompt of a turn behind a question, and what the model generates."""
        return self._template.served_turn([{"role": "user", "content": USER}, message], tools)

    def parse(self, text: str, tools: Any, prompt: str | None) -> Message:
        """See `Template.parse`."""
        opened = None if prompt is None else self.grammar.opens(prompt)
        return parse(self.grammar, text, tools=tools, opened=opened)

    def parser(self, tools: Any, prompt: str | None) -> Parser:
        """See `Template.parser`."""
        opened = self.grammar.opened if prompt is None else self.grammar.opens(prompt)
        return Parser(self.grammar, tools=tools, opened=opened)

    def read(self, conversation: Sequence[dict[str, Any]], at: int, tools: Any) -> dict[str, Any]:
        """The turn at an index; where its text holds calls as the template writes them, with the calls as fields.

        It stays as it is where the template would not write the same text for the fields, save for white space.
        """
        message = conversation[at]
        content = message.get("content")
        if message["role"] != "assistant" or message.get("tool_calls") or not isinstance(content, str):
            return message
        if not MARKUP.search(content) or not self.grammar.may_hold(content, tools):
            return message
        parsed = parse(self.grammar, content, tools=tools, opened=False)
        if not parsed.get("tool_calls") and "reasoning_content" not in parsed:
            return message
        (fields,) = checks.served([{**message, **parsed}])
        try:
            with self._unnoted():
                written = self._template.served_turn([*conversation[:at], fields], tools)[1]
        except SwiftError:
            written = ""
        for stop in self._stops:
            written = written.removesuffix(stop)
        same = "".join(written.split()).endswith("".join(content.split()))
        kind = "read as fields" if same else "left as text: the template would write them otherwise"
        self._template.notes[f"tool calls or reasoning in an assistant's text {kind}"] += 1
        return fields if same else message
