"""The way back: the text that a model generated, as a message."""

from __future__ import annotations

import json
import re
from typing import Any

from swift.rows import Message

THINK = re.compile(r"^\s*(?:<think>)?(.*?)</think>\s*", re.DOTALL)
CALL = re.compile(r"\s*<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def parse_text(text: str) -> Message:
    """Split generated text into reasoning (`<think>`), content and tool calls (`<tool_call>` with JSON inside).

    A call that is not valid JSON stays in the content, so that nothing the model said is lost.
    """
    message: Message = {"role": "assistant"}
    thought = THINK.match(text)
    if thought:
        if thought[1].strip():
            message["reasoning_content"] = thought[1].strip("\n")
        text = text[thought.end() :]
    return {**message, **parse_calls(text)}


def parse_calls(text: str) -> Message:
    """Split text into content and the calls of its `<tool_call>` blocks."""
    calls: list[dict[str, Any]] = []

    def take(match: re.Match[str]) -> str:
        call = read_call(match[1], len(calls))
        if call is None:
            return match[0]
        calls.append(call)
        return ""

    message: Message = {"content": CALL.sub(take, text)}
    if calls:
        message["tool_calls"] = calls
    return message


def read_call(text: str, index: int) -> dict[str, Any] | None:
    """One tool call in the OpenAI shape, from `{"name": …, "arguments": {…}}`; None where it is not that."""
    try:
        call = json.loads(text)
    except ValueError:
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return {"id": f"call_{index}", "type": "function", "function": {"name": call["name"], "arguments": arguments}}
