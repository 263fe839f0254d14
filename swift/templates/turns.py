"""Which characters of a render the model has to generate, and how many samples a conversation takes.

A turn is trained from the end of the prompt that a server sends for it to the token that stops generation. Turns
share a sample as long as its text holds, letter for letter, what each of them is served with and has to answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from swift.errors import SwiftError
from swift.rows import THINKING
from swift.templates.closing import (
    Ending,
    Renderer,
    last_of,
    reasoning_close,
    shared_start,
    takes_calls,
    text_ending,
    tool_ending,
    turn_opener,
)
from swift.templates.messages import text_of
from swift.templates.provenance import LITERAL, Traced, origin_of, origins_of

DEFAULT_CLOSE = "\n</think>\n\n"
TAG = re.compile(r"<[^<>]*>")
EMPTY_BLOCK = re.compile(r"\s*<([^<>/]+)>\s*</\1>\s*")


@dataclass(frozen=True)
class Span:
    """The characters `[start, stop)` that the assistant's turn at index `message` has to generate.

    `thinking` is the value of the reasoning switch that its prompt is made with; None where that is left alone.
    """

    start: int
    stop: int
    message: int
    thinking: bool | None = None


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

    def within(self, text: Traced) -> Span | None:
        """Where a text holds the prompt, and behind it this answer; None where it does not.

        An empty reasoning block that a template writes into the last turn only may be lacking: the server parses the
        same message out of the answer without it, and renders it so from then on.
        """
        start, stop = self.span.start, self.span.stop
        if text.startswith(self.wanted):
            return self.span
        if not text.startswith(self.wanted[:start]):
            return None
        block = EMPTY_BLOCK.match(self.wanted, start)
        if block is None or self.text.origins[start : block.end()].strip(LITERAL):
            return None
        end = start + stop - block.end()
        same = str.__getitem__(text, slice(start, end)) == self.wanted[block.end() :]
        if not same or text.origins[start:end] != self.text.origins[block.end() : stop]:
            return None
        return replace(self.span, stop=end)


@dataclass(frozen=True)
class ServingOptions:
    """What decides prompts besides the template.

    Attributes:
        thinking_off: the reasoning switch is set off; turns follow it even where they hold reasoning.
        response_prefix: what stands behind every generation prompt.
        eos: the tokenizer's end of sequence.
        without_thinking: turns without reasoning follow the prompt of the reasoning switch set off.
    """

    thinking_off: bool = False
    response_prefix: str = ""
    eos: str = ""
    without_thinking: bool = False


class Turns:
    """Finds the generated spans of conversations under one template.

    Args:
        renderer: gives the renders.
        control: matches the tokenizer's control tokens.
        notes: counts what a user should know about.
        options: what the user set.
    """

    def __init__(
        self, renderer: Renderer, control: re.Pattern[str], notes: Counter[str], options: ServingOptions
    ) -> None:
        self.renderer, self.control, self.notes, self.options = renderer, control, notes, options

    @cached_property
    def text_ending(self) -> Ending:
        """How a turn of text ends."""
        return text_ending(self.renderer, self.control, self.options.eos)

    @cached_property
    def tool_ending(self) -> Ending:
        """How a turn that calls tools ends."""
        return tool_ending(self.renderer, self.control, self.text_ending)

    @cached_property
    def opening(self) -> str:
        """The control token that opens an assistant's turn."""
        return turn_opener(self.renderer, self.control)

    @cached_property
    def takes_calls(self) -> bool:
        """Whether the template writes tool calls."""
        return takes_calls(self.renderer)

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
        whole = len(messages) - 1
        turns = {index: self.turn(messages, tools, index, full if index == whole else None) for index in wanted}
        left = list(wanted)
        samples: list[Sample] = []
        while left:
            last = turns[left[-1]]
            text = full if not samples and full.startswith(last.wanted) else last.text
            shared = {index: span for index in left if (span := turns[index].within(text)) is not None}
            left = [index for index in left if index not in shared]
            samples.append(Sample(text, list(shared.values())))
        if len(samples) > 1:
            self.notes["rows split into one sample per turn, because the template rewrites earlier turns"] += 1
        return samples[::-1]

    def turn(self, messages: Sequence[Any], tools: Any, index: int, rendered: Traced | None = None) -> Turn:
        """One assistant turn, as it is served.

        Args:
            messages: the conversation.
            tools: its tools.
            index: which of the messages.
            rendered: the render up to this turn, where it is at hand.

        Raises:
            SwiftError: when the template leaves it uncertain what the turn generates.
        """
        message = messages[index]
        if index == 0:
            self._check_opening()
        history, both = messages[:index], messages[: index + 1]
        thinks = bool((message.get("reasoning_content") or "").strip())
        switched = {} if thinks and self.options.thinking_off else dict.fromkeys(THINKING, thinks)
        held: tuple[Traced, int, bool | None] | None = None
        thinking: bool | None = None
        order = (switched, {}) if self.options.without_thinking and not thinks else ({}, switched)
        for switches in order:
            thinking = switches.get(THINKING[0])
            prompt = self.renderer.plain(history, tools, prompt=True, **switches)
            known = None if switches else rendered
            text = self.renderer.traced(both, tools, **switches) if known is None else known
            if text.startswith(prompt):
                held = held or (text, len(prompt), thinking)
                # A template may show reasoning only with its switch on, as the server then has it.
                if not thinks or origin_of(index, "reasoning_content") in text.origins:
                    return self._finish(text, len(prompt), thinking, message, index)
        if held:
            return self._finish(*held, message, index)
        served = self.renderer.traced(history, tools, prompt=True, **switched)
        joined = self._join(served, text, message, index)
        self.notes["answers put behind the served prompt, which the template's own render lacks"] += joined is not None
        if joined is None:
            bare = {key: value for key, value in message.items() if key not in ("reasoning_content", "thinking")}
            self.notes["reasoning left out: the prompt says not to think"] += 1
            return self.turn([*history, bare], tools, index)
        return self._finish(joined, len(prompt), thinking, message, index)

    def _check_opening(self) -> None:
        try:
            self.renderer.plain([], None, prompt=True)
        except SwiftError as error:
            raise SwiftError(
                "the row begins with an assistant turn, and the chat template has no prompt without messages",
                fix="put a user's message before it, or take a template without that demand, such as --template plain",
            ) from error

    def _parting(self, prompt: Traced, text: Traced, index: int) -> tuple[int, int]:
        """Where prompt and training render part behind the history, never inside a tag: places in either."""
        own = [text.origins.find(origin) for origin in origins_of(index)]
        start = min((at for at in own if at >= 0), default=len(text))
        served, trained = len(prompt.origins.rstrip(LITERAL)), len(text.origins[:start].rstrip(LITERAL))
        if prompt.origins[:served][-1:] != text.origins[:trained][-1:]:
            raise SwiftError(
                f"the chat template puts something else before message {index + 1} (assistant) in the prompt "
                "than in the whole conversation: what the model has to generate is uncertain",
                fix="give another template with --chat_template FILE.jinja",
            )
        heads = str.__getitem__(prompt, slice(served, None)), str.__getitem__(text, slice(trained, start))
        common = shared_start(*heads)
        tag = max(common.rfind("<"), common.rfind("["))
        if tag >= 0 and not re.search(r"[>\]\s]", common[tag:]):
            common = common[:tag]
        opened, behind = heads[0][len(common) :], len(common)
        if opened.strip() and opened in heads[1]:
            at = heads[1].rindex(opened)
            # The two differ before the turn opens, as where only the whole conversation closes the turn before it. Some
            # templates end every render with the prompt of one more turn: behind a turn that says nothing is its end.
            if start < len(text) or self.text_ending.stop not in heads[1][len(common) : at]:
                behind = at + len(opened)
        elif self.opening and self.opening in heads[0]:
            header = heads[0][heads[0].rindex(self.opening) :]
            if header in heads[1]:
                # What differs stands before the opening of the turn, as an instruction that is always the last one.
                behind = heads[1].index(header) + len(header)
        return served + len(common), trained + behind

    def _join(self, prompt: Traced, text: Traced, message: Any, index: int) -> Traced | None:
        """The served prompt is not how the training render begins: put the answer behind the served prompt.

        Returns:
            None where the prompt has closed its reasoning block, and the turn brings reasoning.
        """
        at, behind = self._parting(prompt, text, index)
        opened, rest = str.__getitem__(prompt, slice(at, None)), text[behind:]
        close = self.reasoning_close or DEFAULT_CLOSE
        reasoning = (message.get("reasoning_content") or "").strip("\n")
        closed = close.strip() in opened or len(TAG.findall(opened)) > 1
        if reasoning and closed:
            return None
        content = rest.origins.find(origin_of(index, "content"))
        head = str.__getitem__(rest, slice(0, content if content >= 0 else None))
        shown = origin_of(index, "reasoning_content") in rest.origins
        if closed or shown or not self._opens_reasoning(opened):
            return prompt + rest
        if reasoning:
            self.notes["reasoning that the template drops put back, because the prompt opens a reasoning block"] += 1
        elif close.strip() not in head:
            self.notes["empty reasoning block, opened by the prompt, closed and trained"] += 1
        thought = prompt + Traced(reasoning, origin_of(index, "reasoning_content"))
        return thought + rest if close.strip() in head else thought + close + rest

    def _opens_reasoning(self, opened: str) -> bool:
        """Whether what the prompt opens waits for reasoning: one tag is open, a pair is closed."""
        tags = len(TAG.findall(opened))
        return tags == 1 or (not tags and self.reasoning_close is not None and opened != self.options.response_prefix)

    def _finish(self, text: Traced, start: int, thinking: bool | None, message: Any, index: int) -> Turn:
        calls = bool(message.get("tool_calls"))
        endings = [self.tool_ending, self.text_ending] if calls else [self.text_ending]
        after = max(last_of(text, index), start)
        for ending in endings:
            at = text.find(ending.stop, after)
            # A stop that lies behind the opening of another turn belongs to that turn.
            another = after > start and bool(self.opening) and self.opening in text[after : max(at, after)]
            if at >= 0 and not another:
                turn = Turn(text, Span(start, at + len(ending.stop), index, thinking))
                break
            if ending.append:
                closed = text[: max(after, len(str.rstrip(text)))] + ending.append
                turn = Turn(closed, Span(start, len(closed), index, thinking))
                break
        else:
            if self._says_nothing(message):
                # A server's prompt, and the stop that the model gives at once.
                closed = text[:start] + endings[-1].stop
                return Turn(closed, Span(start, len(closed), index, thinking))
            raise SwiftError(
                f"the chat template does not end the assistant's turn (message {index + 1}) with {endings[-1].stop!r}: "
                "what stops generation is uncertain",
                fix="give another template with --chat_template FILE.jinja",
            )
        self._check_dropped(turn, message, index)
        return turn

    @staticmethod
    def _says_nothing(message: Any) -> bool:
        said = (text_of(message), message.get("reasoning_content") or "")
        return not message.get("tool_calls") and not any(part.strip() for part in said)

    def _check_dropped(self, turn: Turn, message: Any, index: int) -> None:
        origins = turn.text.origins[turn.span.start : turn.span.stop]
        seen: Callable[[str], bool] = lambda name: origin_of(index, name) in origins  # noqa: E731
        calls = len(message.get("tool_calls") or ())
        named = len(re.findall(re.escape(origin_of(index, "name")) + "+", origins))
        if calls and not (named or seen("arguments")):
            raise SwiftError(
                f"the chat template drops the tool calls of message {index + 1}",
                fix="choose a form in which calls become text, such as --agent_template hermes, or a template that "
                "writes them: --chat_template FILE.jinja",
            )
        if 0 < named < calls:
            raise SwiftError(
                f"the chat template drops the tool calls of message {index + 1} but {named}: it has {calls}",
                fix="put each call into a turn of its own, or give another template with --chat_template FILE.jinja",
            )
        if (message.get("reasoning_content") or "").strip() and not seen("reasoning_content"):
            self.notes["reasoning dropped by the template"] += 1
        if text_of(message).strip() and not seen("content"):
            if not message.get("tool_calls"):
                raise SwiftError(
                    f"content of message {index + 1} (assistant) is not found in the render of the chat template",
                    fix="give another template with --chat_template FILE.jinja",
                )
            self.notes["content beside tool calls dropped by the template"] += 1
