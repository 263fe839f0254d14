"""How a template's turns end: the token that stops generation, and the tag that closes a reasoning block.

Both are read off the template with short probe conversations, once for each template.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass
from typing import Any, Protocol

from swift.errors import SwiftError
from swift.templates.provenance import LITERAL, Traced, message_of, origin_of

USER, ANSWER, REASONING, RESULT = "Probe question", "Probe answer", "Probe reasoning", "Probe result"
TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "Probe.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
    },
}
CALL = {"id": "call12345", "type": "function", "function": {"name": "probe_tool", "arguments": {"key": "probe"}}}


class Renderer(Protocol):
    """What spans need of a template."""

    def traced(self, messages: list[Any], tools: Any, **switches: Any) -> Traced:
        """The render with origins."""

    def plain(self, messages: list[Any], tools: Any, *, prompt: bool, **switches: Any) -> str:
        """The render, with the generation prompt where `prompt` is set."""


@dataclass(frozen=True)
class Ending:
    """How a last turn ends.

    Attributes:
        stop: the text of the token (or the plain text) that stops generation.
        append: what a last turn lacks up to and including `stop`; empty where the template closes it.
        kept: how much of the text behind a last turn stays when `append` is appended.
    """

    stop: str
    append: str = ""
    kept: int = 0


def last_of(text: Traced, message: int) -> int:
    """The place after the last character that came from a message; -1 where there is none."""
    first, last = origin_of(message, "content"), origin_of(message, "name")
    for at in range(len(text) - 1, -1, -1):
        if first <= text.origins[at] <= last:
            return at + 1
    return -1


def first_after(text: Traced, message: int, start: int) -> int:
    """The place of the first character that came from a later message."""
    for at in range(start, len(text)):
        if text.origins[at] != LITERAL and message_of(text.origins[at]) > message:
            return at
    return len(text)


def text_ending(renderer: Renderer, control: re.Pattern[str]) -> Ending:
    """How a turn of text ends.

    Raises:
        SwiftError: when no probe renders, or nothing in the template ends a turn.
    """
    turn = {"role": "assistant", "content": ANSWER}
    for tools in (None, [TOOL]):
        messages = [_user(), turn, _user(), turn]
        try:
            short, long = renderer.traced(messages[:2], tools), renderer.traced(messages, tools)
            opening = opener(renderer, messages[:1], tools, control)
        except SwiftError as error:
            problem = error
            continue
        ending = find_ending(short, long, opening, control, closes=True)
        if ending:
            return ending
        problem = SwiftError("nothing in the chat template ends an assistant's turn", fix="see --chat_template")
    raise problem


def tool_ending(renderer: Renderer, control: re.Pattern[str], text: Ending) -> Ending:
    """How a turn that calls a tool ends; as a turn of text does where the template takes no calls."""
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    result = {"role": "tool", "content": RESULT, "name": "probe_tool", "tool_call_id": CALL["id"]}
    messages = [_user(), call, result, {"role": "assistant", "content": ANSWER}]
    try:
        short, long = renderer.traced(messages[:2], [TOOL]), renderer.traced(messages, [TOOL])
        opening = opener(renderer, messages[:1], [TOOL], control)
    except SwiftError:
        return text
    if last_of(short, 1) < 0:
        return text
    return find_ending(short, long, opening, control, closes=not text.append) or text


def _user() -> dict[str, Any]:
    return {"role": "user", "content": USER}


def opener(renderer: Renderer, messages: list[Any], tools: Any, control: re.Pattern[str]) -> str:
    """The control token that opens an assistant's turn, or an empty string."""
    whole = renderer.plain(messages, tools, prompt=True)
    before = renderer.plain(messages, tools, prompt=False)
    found = control.search(whole[len(os.path.commonprefix([whole, before])) :])
    return found[0] if found else ""


def find_ending(
    short: Traced, long: Traced, opening: str, control: re.Pattern[str], *, closes: bool
) -> Ending | None:
    """Read the ending off turn 1 as the last turn (`short`) and as followed by others (`long`)."""
    start = first_start = last_of(short, 1)
    tail = str.__getitem__(short, slice(max(start, 0), None))
    edge = first_after(long, 1, 0)
    first_start = last_of(long[:edge], 1)
    gap = str.__getitem__(long, slice(max(first_start, 0), edge))
    shared = len(os.path.commonprefix([tail, gap]))
    in_tail, in_gap = list(control.finditer(tail)), list(control.finditer(gap))
    if closes:
        common = [m for m in in_gap if m.end() <= shared]
        if common:
            return Ending(common[-1][0])
        if in_tail:
            return Ending(_last_of_first_run(in_tail, opening))
    behind = [m for m in in_gap if m.start() >= shared] if not closes else in_gap
    if behind:
        return Ending(behind[0][0], gap[shared : behind[0].end()], shared)
    common_text = tail[:shared]
    if common_text:
        return Ending(common_text.rstrip() or common_text)
    return None


def _last_of_first_run(found: list[re.Match[str]], opening: str) -> str:
    stop, end = found[0][0], found[0].end()
    for match in found[1:]:
        if match.start() != end or match[0] == opening:
            break
        stop, end = match[0], match.end()
    return stop


def reasoning_close(renderer: Renderer) -> str | None:
    """What the template writes between the reasoning and the content of a turn; None where it drops reasoning."""
    turn = {"role": "assistant", "content": ANSWER, "reasoning_content": REASONING, "thinking": REASONING}
    try:
        text = renderer.traced([_user(), turn], None)
    except SwiftError:
        return None
    start = text.origins.rfind(origin_of(1, "reasoning_content"))
    stop = text.origins.find(origin_of(1, "content"), start)
    return None if start < 0 or stop < 0 else str.__getitem__(text, slice(start + 1, stop))
