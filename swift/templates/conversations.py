"""Short conversations of every kind: what `swift template` shows, the survey asks, and a deployment is checked with."""

from __future__ import annotations

from typing import Any

from swift.rows import Row
from swift.templates.closing import TOOL


def _turns(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


def _call(number: int, key: str) -> dict[str, Any]:
    arguments = {"key": key}
    return {
        "id": f"abcdef12{number}",
        "type": "function",
        "function": {"name": TOOL["function"]["name"], "arguments": arguments},  # type: ignore[index]
    }


def _result(number: int, content: str) -> dict[str, Any]:
    name = TOOL["function"]["name"]  # type: ignore[index]
    return {"role": "tool", "name": name, "tool_call_id": f"abcdef12{number}", "content": content}


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one turn": _turns("What is 2+2?", "It is 4."),
    "three turns": _turns("Hi", "Hello!", "How are you?", "Fine.", "And now?", "Good."),
    "system": [{"role": "system", "content": "Be brief."}, *_turns("Hi", "Hello!", "More", "Again!")],
    "reasoning": [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "reasoning_content": "Adding two.", "content": "Four."},
        {"role": "user", "content": "3+3?"},
        {"role": "assistant", "reasoning_content": "Adding three.", "content": "Six."},
    ],
    "tools": [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [_call(3, "Paris")]},
        _result(3, '{"temp": 20}'),
        {"role": "assistant", "content": "It is 20 degrees."},
    ],
    "parallel calls": [
        {"role": "user", "content": "Weather in Paris and Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [_call(3, "Paris"), _call(4, "Rome")]},
        _result(3, '{"temp": 20}'),
        _result(4, '{"temp": 25}'),
        {"role": "assistant", "content": "20 and 25 degrees."},
    ],
    "white space": _turns("  indented\n", "\n  code\n\ntext  \n", "next", " y"),
    "empty answer": _turns("Say nothing.", "", "Hi", "Hello!"),
    "same twice": _turns("same", "same", "same", "same"),
    "Unicode": _turns("Grüße 🌍 你好", "héllo 😀👨‍👩‍👧 你好，世界"),
}


def conversation_row(name: str) -> Row:
    """One of them as a row, with the tool it calls."""
    calls = any(message.get("tool_calls") for message in CONVERSATIONS[name])
    row: Any = {"messages": CONVERSATIONS[name]}
    return {**row, "tools": [TOOL]} if calls else row
