"""Which characters of a render the model has to generate, and how many samples a conversation takes.

A turn is trained from the end of the prompt that a server sends for it to the token that stops generation. Turns
share a sample as long as its text holds, letter for letter, what each of them is served with and has to answer.
"""

from __future__ import annotations

import os.path
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from swift.errors import SwiftError
from swift.templates.closing import Ending, Renderer, last_of, reasoning_close, text_ending, tool_ending
from swift.templates.messages import text_of
from swift.templates.provenance import FIELDS, Traced, origin_of

THINKING = ("enable_thinking", "thinking")
"""The switches by which servers turn reasoning on and off."""

DEFAULT_CLOSE = "\n</think>\n\n"


@dataclass(frozen=True)
class Span:
    """The characters `[start, stop)` that the assistant's turn at index `message` has to generate."""

    start: int
    stop: int
    message: int


@dataclass
class Sample:
    """One text to train on, with the spans that carry loss."""

    text: Traced
    spans: list[Span] = field(default_factory=list)


@dataclass(frozen=True)
class Turn:
    """One assistant turn as it is served: `text[:span.start]` is the prompt."""

    text: Traced
    span: Span

    @property
    def wanted(self) -> str:
        """The prompt and the answer."""
        return str.__getitem__(self.text, slice(0, self.span.stop))


class Turns:
    """Finds the generated spans of conversations under one template.

    Args:
        renderer: gives the renders.
        control: matches the tokenizer's control tokens.
        notes: counts what a user should know about.
        keep_switch: the user set the reasoning switch off; turns follow it even where they hold reasoning.
    """

    def __init__(self, renderer: Renderer, control: re.Pattern[str], notes: Counter[str], keep_switch: bool) -> None:
        self.renderer, self.control, self.notes, self.keep_switch = renderer, control, notes, keep_switch

    @cached_property
    def text_ending(self) -> Ending:
        """How a turn of text ends."""
        return text_ending(self.renderer, self.control)

    @cached_property
    def tool_ending(self) -> Ending:
        """How a turn that calls tools ends."""
        return tool_ending(self.renderer, self.control, self.text_ending)

    @cached_property
    def reasoning_close(self) -> str | None:
        """What stands between reasoning and content."""
        return reasoning_close(self.renderer)

    def samples(self, messages: Sequence[Any], tools: Any, wanted: Sequence[int], full: Traced) -> list[Sample]:
        """The samples that train the turns at the indices `wanted`, in the order of their last turn.

        Args:
            messages: the conversation, as served.
            tools: its tools.
            wanted: indices of the assistant turns that carry loss.
            full: the render of the whole conversation.
        """
        turns = {index: self.turn(messages, tools, index) for index in wanted}
        left, samples = list(wanted), []
        while left:
            last = turns[left[-1]]
            text = full if not samples and full.startswith(last.wanted) else last.text
            shared = [index for index in left if text.startswith(turns[index].wanted)]
            left = [index for index in left if index not in shared]
            samples.append(Sample(text, [turns[index].span for index in shared]))
        if len(samples) > 1:
            self.notes["rows split into one sample per turn, because the template rewrites earlier turns"] += 1
        return samples[::-1]

    def turn(self, messages: Sequence[Any], tools: Any, index: int) -> Turn:
        """One assistant turn, as it is served.

        Raises:
            SwiftError: when the template leaves it uncertain what the turn generates.
        """
        message = messages[index]
        history, both = messages[:index], messages[: index + 1]
        prompt, text = self._render(history, both, tools, {})
        if not text.startswith(prompt):
            thinks = bool((message.get("reasoning_content") or "").strip())
            switched = {} if thinks and self.keep_switch else dict.fromkeys(THINKING, thinks)
            other = self._render(history, both, tools, switched)
            if other[1].startswith(other[0]):
                prompt, text = other
            elif thinks and self._closed_already(prompt, text, index):
                bare = {key: value for key, value in message.items() if key not in ("reasoning_content", "thinking")}
                self.notes["reasoning left out: the prompt says not to think"] += 1
                return self.turn([*history, bare], tools, index)
            else:
                text = self._join(prompt, text, message, index)
        return self._finish(Traced.of(text), len(prompt), message, index)

    def _render(self, history: Any, both: Any, tools: Any, switches: dict[str, Any]) -> tuple[str, Traced]:
        prompt = self.renderer.plain(history, tools, prompt=True, **switches)
        return prompt, self.renderer.traced(both, tools, **switches)

    def _parting(self, prompt: str, text: Traced, index: int) -> int:
        """Where the training render leaves the served prompt, never inside a tag."""
        at = len(os.path.commonprefix([prompt, str.__str__(text)]))
        tag = max(text.rfind("<", 0, at), text.rfind("[", 0, at))
        if tag >= 0 and not re.search(r"[>\]\s]", str.__getitem__(text, slice(tag, at))):
            at = tag
        origins = text.origins
        first, last = origin_of(0, FIELDS[0]), origin_of(index, FIELDS[0])
        if any(first <= origin < last for origin in origins[at:]):
            raise SwiftError(
                "the chat template renders the messages before an assistant's turn in one way for the prompt and in "
                "another way with the answer: what the model has to generate is uncertain",
                fix="give another template with --chat_template FILE.jinja",
            )
        return at

    def _closed_already(self, prompt: str, text: Traced, index: int) -> bool:
        opened = prompt[self._parting(prompt, text, index) :]
        return (self.reasoning_close or DEFAULT_CLOSE).strip() in opened

    def _join(self, prompt: str, text: Traced, message: Any, index: int) -> Traced:
        """The served prompt opens what the training render lacks: put the answer behind the served prompt."""
        at = self._parting(prompt, text, index)
        opened, rest = prompt[at:], text[at:]
        close = self.reasoning_close or DEFAULT_CLOSE
        content = rest.origins.find(origin_of(index, "content"))
        head = rest[: content if content >= 0 else len(rest)]
        blank = Traced(prompt, text.origins[:at] + "\0" * len(opened))
        if origin_of(index, "reasoning_content") in rest.origins or close.strip() in opened + head:
            return blank + rest
        if not re.search(r"<[^<>/]*>\s*$|:\s*$", opened) or not self._opens_reasoning(opened):
            return blank + rest
        reasoning = (message.get("reasoning_content") or "").strip("\n")
        if reasoning:
            self.notes["reasoning that the template drops put back, because the prompt opens a reasoning block"] += 1
        else:
            self.notes["empty reasoning block, opened by the prompt, closed and trained"] += 1
        return blank + Traced(reasoning, origin_of(index, "reasoning_content")) + close + rest

    def _opens_reasoning(self, opened: str) -> bool:
        return "think" in opened.lower() or self.reasoning_close is not None

    def _finish(self, text: Traced, start: int, message: Any, index: int) -> Turn:
        calls = bool(message.get("tool_calls"))
        endings = [self.tool_ending, self.text_ending] if calls else [self.text_ending]
        after = max(last_of(text, index), start)
        for ending in endings:
            at = text.find(ending.stop, after)
            if at >= 0:
                turn = Turn(text, Span(start, at + len(ending.stop), index))
                break
            if ending.append:
                closed = text[: after + ending.kept] + ending.append
                turn = Turn(closed, Span(start, len(closed), index))
                break
        else:
            raise SwiftError(
                f"the chat template does not end the assistant's turn (message {index}) with {endings[-1].stop!r}: "
                "what stops generation is uncertain",
                fix="give another template with --chat_template FILE.jinja",
            )
        self._check_dropped(turn, message, index)
        return turn

    def _check_dropped(self, turn: Turn, message: Any, index: int) -> None:
        origins = turn.text.origins[turn.span.start : turn.span.stop]
        seen: Callable[[str], bool] = lambda name: origin_of(index, name) in origins  # noqa: E731
        if message.get("tool_calls") and not (seen("name") or seen("arguments")):
            raise SwiftError(
                f"the chat template drops the tool calls of message {index}",
                fix="choose how tools are written with --agent_template, or a template with --chat_template FILE.jinja",
            )
        if (message.get("reasoning_content") or "").strip() and not seen("reasoning_content"):
            self.notes["reasoning dropped by the template"] += 1
        if text_of(message).strip() and not seen("content"):
            if not message.get("tool_calls"):
                raise SwiftError(
                    f"the content of message {index} (assistant) cannot be found in the render of the chat template",
                    fix="give another template with --chat_template FILE.jinja",
                )
            self.notes["content beside tool calls dropped by the template"] += 1
