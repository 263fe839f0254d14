"""How a template's turns end: the token that stops generation, and the tag that closes a reasoning block.

Both are read off the template with short probe conversations, once for each template.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from swift.errors import SwiftError
from swift.templates.provenance import LITERAL, Traced, message_of, origin_of, origins_of

USER, ANSWER, REASONING, RESULT = "Probe question", "Probe answer", "Probe reasoning", "Probe result"
PROBE_TOOL = "probe_tool"
TOOL = {
    "type": "function",
    "function": {
        "name": PROBE_TOOL,
        "description": "Probe.",
        "parameters": {
            "type": "object",
            "properties": {"key": {"type": "string", "description": "Probe."}},
            "required": ["key"],
        },
    },
}
CALL = {"id": "call12345", "type": "function", "function": {"name": PROBE_TOOL, "arguments": {"key": "probe"}}}


MARK = re.compile(
    r"<\|[^<>|\s{}']{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|</?s>|\[/?INST\]|<\|/?[A-Za-z_]+>|<[a-z_]+\|>"
    r"|<(?:start|end)_of_[a-z]+>|<seed:[a-z_]+>|<sep>|\]~!?b[\]\[]|\[e~\["
)
"""What control tokens look like: for a tokenizer that does not know those of its template."""


class Renderer(Protocol):
    """What spans need of a template."""

    def traced(self, messages: Sequence[Any], tools: Any, *, prompt: bool = False, **switches: Any) -> Traced:
        """The render with origins."""

    def plain(self, messages: Sequence[Any], tools: Any, *, prompt: bool, **switches: Any) -> str:
        """The render, with the generation prompt where `prompt` is set."""


@dataclass(frozen=True)
class Ending:
    """How a last turn ends.

    Attributes:
        stop: the text of the token (or the plain text) that stops generation.
        append: what a last turn lacks up to and including `stop`; empty where the template closes it.
    """

    stop: str
    append: str = ""


def shared_start(one: str, other: str) -> str:
    """The longest text that both begin with."""
    size = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:size]


def last_of(text: Traced, message: int) -> int:
    """The place after the last character that came from a message; -1 where there is none."""
    return max(text.origins.rfind(origin) for origin in origins_of(message)) + 1 or -1


def first_after(text: Traced, message: int, start: int) -> int:
    """The place of the first character that came from a later message."""
    for at in range(start, len(text)):
        if text.origins[at] != LITERAL and message_of(text.origins[at]) > message:
            return at
    return len(text)


def text_ending(renderer: Renderer, control: re.Pattern[str], eos: str) -> Ending:
    """How a turn of text ends.

    Args:
        renderer: the template.
        control: matches the tokenizer's control tokens.
        eos: the tokenizer's end of sequence, which is believed where it closes a turn.

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
        ending = find_ending(short, long, opening, control, eos=eos)
        if ending:
            return ending
        if eos:
            # Nothing in the text tells that a turn is over: a server goes on until the end of sequence.
            return Ending(eos, eos)
        problem = SwiftError(
            "nothing in the chat template ends an assistant's turn, and the tokenizer has no end of sequence",
            fix="give another template with --chat_template FILE.jinja",
        )
    raise problem


def tool_ending(renderer: Renderer, control: re.Pattern[str], text: Ending) -> Ending:
    """How a turn that calls a tool ends; as a turn of text does where the template takes no calls."""
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    result = {"role": "tool", "content": RESULT, "name": PROBE_TOOL, "tool_call_id": CALL["id"]}
    messages = [_user(), call, result, {"role": "assistant", "content": ANSWER}]
    try:
        short, long = renderer.traced(messages[:2], [TOOL]), renderer.traced(messages, [TOOL])
        opening = opener(renderer, messages[:1], [TOOL], control)
    except SwiftError:
        return text
    if last_of(short, 1) < 0:
        return text
    tail = str.__getitem__(short, slice(last_of(short, 1), None))
    if not text.append and text.stop in tail:
        # What closes another turn that the template opens behind the call does not close the call's.
        unclosed = bool(opening) and opening in tail[: tail.index(text.stop)]
        return Ending(opening) if unclosed else text
    ending = find_ending(short, long, opening, control, closes=not text.append)
    if ending is None or (text.append and ending.stop == text.stop):
        return text
    return ending


def takes_calls(renderer: Renderer) -> bool:
    """Whether the template writes the tool calls of an assistant's turn."""
    try:
        text = renderer.traced([_user(), {"role": "assistant", "content": "", "tool_calls": [CALL]}], [TOOL])
    except SwiftError:
        return False
    return last_of(text, 1) >= 0


def _user() -> dict[str, Any]:
    return {"role": "user", "content": USER}


def turn_opener(renderer: Renderer, control: re.Pattern[str]) -> str:
    """What opens an assistant's turn, from whichever probe renders: a control token and the words behind it.

    The token alone may open other things as well, such as the arguments of a call. Empty where there is none.
    """
    for tools in (None, [TOOL]):
        try:
            prompt = _generation_prompt(renderer, [_user()], tools)
        except SwiftError:
            continue
        found = control.search(prompt) or MARK.search(prompt)
        if found is None:
            return ""
        behind = prompt[found.end() :]
        stop = control.search(behind) or MARK.search(behind)
        return found[0] + behind[: stop.start() if stop else None].rstrip()
    return ""


def _generation_prompt(renderer: Renderer, messages: list[Any], tools: Any) -> str:
    whole = renderer.plain(messages, tools, prompt=True)
    return whole[len(shared_start(whole, renderer.plain(messages, tools, prompt=False))) :]


def opener(renderer: Renderer, messages: list[Any], tools: Any, control: re.Pattern[str]) -> str:
    """The control token that opens an assistant's turn, or an empty string."""
    opened = _generation_prompt(renderer, messages, tools)
    found = control.search(opened) or MARK.search(opened)
    return found[0] if found else ""


def find_ending(
    short: Traced, long: Traced, opening: str, control: re.Pattern[str], *, closes: bool = True, eos: str = ""
) -> Ending | None:
    """Read the ending off turn 1 as the last turn (`short`) and as followed by others (`long`)."""
    tail = str.__getitem__(short, slice(max(last_of(short, 1), 0), None))
    edge = first_after(long, 1, 0)
    gap = str.__getitem__(long, slice(max(last_of(long[:edge], 1), 0), edge))
    shared = len(shared_start(tail, gap))
    in_tail, in_gap = list(control.finditer(tail)), list(control.finditer(gap))
    if not in_tail and not in_gap:
        in_tail, in_gap = list(MARK.finditer(tail)), list(MARK.finditer(gap))
    if closes:
        common = [m for m in in_gap if m.end() <= shared]
        if common:
            return Ending(eos if any(m[0] == eos for m in common) else _last_of_run(gap, common, ""))
        if in_tail:
            return Ending(_last_of_run(tail, in_tail, opening))
    behind = [m for m in in_gap if m.start() >= shared] if not closes else in_gap
    if behind:
        written = tail.rstrip()
        # Where the middle of a conversation writes more than its end (call ids), only the token itself is lacking.
        begin = len(written) if gap.startswith(written) else behind[0].start()
        return Ending(behind[0][0], gap[begin : behind[0].end()])
    common_text = tail[:shared]
    if common_text:
        return Ending(common_text.rstrip() or common_text)
    return None


def _last_of_run(text: str, found: list[re.Match[str]], opening: str) -> str:
    """The last control token before white space or the opener of a turn: what follows those is glue."""
    stop, end = found[0][0], found[0].end()
    for match in found[1:]:
        between = text[end : match.start()]
        if match[0] == opening or (between and not between.strip()):
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
