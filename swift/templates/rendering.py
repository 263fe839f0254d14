"""The model's own chat template at work: renders as they are served, and the same renders with origins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from swift.errors import SwiftError
from swift.templates import messages as checks
from swift.templates.closing import CALL, REASONING, TOOL, USER
from swift.templates.environment import ChatTemplate
from swift.templates.provenance import Traced, origin_of
from swift.templates.search import lost, search_origins
from swift.templates.thinking import preserving
from swift.templates.tokens import Encoder


class Rendering:
    """Renders conversations by a chat template.

    Args:
        tokenizer: a transformers tokenizer.
        chat_template: Jinja source; the tokenizer's own where it is None.
        enable_thinking: the template's reasoning switch; None leaves it to the template.
        preserve_thinking: keep or drop the reasoning of earlier turns; None leaves it to the template.
        chat_template_kwargs: further variables for the template.
        response_prefix: text that the server puts behind the generation prompt.
        new_special_tokens: control tokens that contents may write too, since training added them for that.
        source: where the template came from, for messages and checkpoints.

    Attributes:
        fixed: values that would move by themselves (the date), held still and recorded.
        notes: counted warnings.

    Raises:
        SwiftError: there is no template, or its source is no Jinja.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat_template: str | None,
        *,
        enable_thinking: bool | None,
        preserve_thinking: bool | None,
        chat_template_kwargs: dict[str, Any] | None,
        response_prefix: str | None,
        new_special_tokens: Sequence[str],
        source: str,
    ) -> None:
        self.tokenizer, self.chat_template, self.source = tokenizer, chat_template, source
        self.enable_thinking, self.preserve_thinking = enable_thinking, preserve_thinking
        self.chat_template_kwargs, self.response_prefix = dict(chat_template_kwargs or {}), response_prefix
        self.fixed: dict[str, Any] = {"now": datetime.now().isoformat(timespec="seconds")}
        self.notes: Counter[str] = Counter()
        self._compiled: dict[str, ChatTemplate] = {}
        self.new_special_tokens = list(new_special_tokens)
        self._encoder = Encoder(tokenizer, self.new_special_tokens)
        self._special = dict(tokenizer.special_tokens_map)
        self._select(None)

    def hold(self, fixed: dict[str, Any]) -> None:
        """Hold still what would move by itself at the values of an earlier run."""
        self.fixed = dict(fixed)
        self._compiled.clear()

    @property
    def jinja(self) -> str:
        """The template's source; where a model has several, all of them."""
        return str(self.chat_template or self.tokenizer.chat_template)

    def _select(self, tools: Any) -> ChatTemplate:
        source: Any = self.chat_template or self.tokenizer.chat_template
        if isinstance(source, dict):
            source = source["tool_use"] if tools and "tool_use" in source else source.get("default")
        if not source:
            raise SwiftError(
                "the model has no chat template",
                where=self.source or None,
                fix="name one: --template chatml|llama|alpaca|plain, or a file: --chat_template FILE.jinja",
            )
        if source not in self._compiled:
            self._compiled[source] = ChatTemplate(source, datetime.fromisoformat(self.fixed["now"]))
        return self._compiled[source]

    def _variables(self, messages: Any, tools: Any, prompt: bool, switches: dict[str, Any]) -> dict[str, Any]:
        thinking = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        return {
            **self._special,
            **preserving(self.preserve_thinking),
            **self.chat_template_kwargs,
            **thinking,
            **switches,
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": prompt,
        }

    def plain(self, messages: Sequence[Any], tools: Any, *, prompt: bool, **switches: Any) -> str:
        """The model's render of messages as served, with the generation prompt where `prompt` is set.

        Raises:
            SwiftError: with the template's own words, when it refuses the conversation.
        """
        variables = self._variables(self._fitting(messages), tools, prompt, switches)
        text = self._guard(lambda: self._select(tools).render(variables))
        return text + self.response_prefix if prompt and self.response_prefix else text

    def traced(self, messages: Sequence[Any], tools: Any, *, prompt: bool = False, **switches: Any) -> Traced:
        """The same render with origins, checked against the plain one."""
        messages = self._fitting(messages)
        plain = self.plain(messages, tools, prompt=prompt, **switches)
        variables = self._variables(checks.traced(messages), self._traced_tools(messages, tools), prompt, switches)
        text = self._guard(lambda: self._select(tools).render_traced(variables))
        if prompt and self.response_prefix:
            text = text + self.response_prefix
        if str.__eq__(text, plain) and not lost(text, messages):
            return text
        self.notes["renders whose provenance was found by search"] += 1
        return search_origins(plain, messages)

    def _traced_tools(self, messages: Sequence[Any], tools: Any) -> Any:
        """Tools are followed only where they spell out a control token: that one must not become one."""
        if not tools or not self._encoder.pattern.search(repr(tools)):
            return tools
        return checks.trace_value(tools, origin_of(len(messages), "content"))

    def _fitting(self, messages: Sequence[Any]) -> Sequence[Any]:
        """Messages as the template takes them: arguments of tool calls as JSON text, text parts as one text."""
        if self._needs_parts:
            messages = [
                checks.with_parts(message) if message["role"] in self._needs_parts else message for message in messages
            ]
        elif any(isinstance(message.get("content"), list) for message in messages) and not self._takes_parts:
            messages = [checks.with_joined_parts(message) for message in messages]
        if not any(message.get("tool_calls") for message in messages) or not self._takes_text_only:
            return messages
        return [checks.with_text_arguments(message) for message in messages]

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether a content in parts renders as the same content in one text."""
        parts = self._shown("user", [{"type": "text", "text": USER}])
        return parts is not None and parts == self._shown("user", USER)

    @cached_property
    def _needs_parts(self) -> set[str]:
        """The roles whose contents show up in parts alone, as in templates that look for pictures in every content."""

        def needs(role: str) -> bool:
            return REASONING not in (self._shown(role, REASONING) or "") and REASONING in (
                self._shown(role, [{"type": "text", "text": REASONING}]) or ""
            )

        return {role for role in ("user", "system", "assistant", "tool") if needs(role)} if needs("user") else set()

    def _shown(self, role: str, content: Any) -> str | None:
        """A conversation with a content, as it is, in a turn of this role; None where the template refuses it."""
        turn, asked = {"role": role, "content": content}, {"role": "user", "content": [{"type": "text", "text": USER}]}
        messages = {"user": [turn], "system": [turn, asked], "assistant": [asked, turn]}.get(role, [asked, turn])
        variables = self._variables(messages, None, role == "user", {})
        try:
            return str(self._guard(lambda: self._select(None).render(variables)))
        except SwiftError:
            return None

    @cached_property
    def _takes_text_only(self) -> bool:
        """Whether the template refuses arguments as objects, and takes them as text."""
        call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
        messages: list[dict[str, Any]] = [{"role": "user", "content": USER}, call]
        taken = []
        for asked in (messages, [checks.with_text_arguments(message) for message in messages]):
            try:
                self._guard(lambda asked=asked: self._select([TOOL]).render(self._variables(asked, [TOOL], False, {})))
                taken.append(True)
            except SwiftError:
                taken.append(False)
        return taken == [False, True]

    def _guard(self, render: Any) -> Any:
        from jinja2 import TemplateError

        try:
            return render()
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            raise SwiftError(
                f"the chat template refuses this conversation: {error}",
                where=self.source or None,
                fix="change the row, or give another template with --chat_template FILE.jinja",
            ) from error
