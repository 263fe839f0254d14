"""Turns of any known spelling, as messages with our keys and roles."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from swift.data.drops import BadRow
from swift.rows import Message, kind_of

PLAIN = frozenset({"system", "user", "assistant", "tool"})
"""Our own roles; a turn of just one of these and a text is taken as it is."""

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
"""How hh-rlhf writes the turns of a conversation into one text."""


@cache
def formats() -> dict[str, Any]:
    """The table of known columns, roles and message keys."""
    return dict(json.loads((Path(__file__).parent / "table" / "formats.json").read_text(encoding="utf-8")))


def turn_of(role: str, content: Any) -> Message:
    """One message."""
    return {"role": role, "content": content}


def to_messages(value: Any) -> list[Message]:
    """Turns of any known spelling, with our keys and roles; function calls join the assistant's turn before them.

    Raises:
        BadRow: it is not a list of turns, or a role is unknown.
    """
    if not isinstance(value, list):
        raise BadRow(f"messages is {kind_of(value)}, not a list of turns")
    turns: list[Message] = []
    roles = formats()["roles"]
    for number, item in enumerate(value, 1):
        if type(item) is dict and len(item) == 2:
            role, said = item.get("role"), item.get("content")
            if type(role) is str and role in PLAIN and type(said) is str:
                turns.append(cast(Message, item))
                continue
            role, said = item.get("from"), item.get("value")
            if type(role) is str and type(said) is str and roles.get(role) in PLAIN:
                turns.append(turn_of(roles[role], said))
                continue
        if not isinstance(item, Mapping):
            raise BadRow(f"message {number} is {kind_of(item)}, not an object with role and content")
        if "human" in item and "assistant" in item:
            turns += [turn_of("user", item["human"]), turn_of("assistant", item["assistant"])]
            continue
        turn = _with_our_keys(item, number)
        if turn["role"] != "call":
            turns.append(turn)
            continue
        calls = _calls(turn.pop("content", None), number)
        before = turns[-1] if turns and turns[-1].get("role") == "assistant" else None
        if before is not None and before.get("loss") == turn.get("loss"):
            turns[-1] = {**before, "tool_calls": [*before.get("tool_calls", []), *calls]}
        else:
            turns.append(cast(Message, {**turn, "role": "assistant", "content": "", "tool_calls": calls}))
    return turns


def _with_our_keys(item: Mapping[str, Any], number: int) -> Message:
    table = formats()
    turn = {table["message_keys"].get(key, key): value for key, value in item.items() if value is not None}
    role = turn.get("role")
    ours = table["roles"].get(role.lower()) if isinstance(role, str) else None
    if ours is None:
        raise BadRow(f"message {number} has no role" if role is None else f"message {number} has unknown role {role!r}")
    turn["role"] = ours
    if "tool_calls" in turn:
        turn["tool_calls"] = _calls(turn["tool_calls"], number)
        turn.setdefault("content", "")
    if turn.get("loss") in (0, 1):
        turn["loss"] = bool(turn["loss"])
    return cast(Message, turn)


def _calls(value: Any, number: int) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's shape, with arguments as an object."""
    calls = _json(value, f"tool call of message {number}")
    return [_call(call, number) for call in (calls if isinstance(calls, list) else [calls])]


def _call(call: Any, number: int) -> dict[str, Any]:
    call = _json(call, f"tool call of message {number}")
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRow(f"tool call of message {number} has no function name")
    arguments = _json(function.get("arguments", function.get("parameters", {})), f"arguments in message {number}")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise BadRow(f"arguments in message {number} is {kind_of(arguments)}, not an object")
    identity = {"id": call["id"]} if "id" in call and function is not call else {}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}


def _json(value: Any, what: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise BadRow(f"{what} is not JSON: {value[:40]!r}") from error


def spoken(text: str) -> list[Message] | None:
    """The turns of a text that is written as `\\n\\nHuman: …\\n\\nAssistant: …`; None where it is not."""
    first, *parts = SPEAKER.split(text)
    if first.strip() or not parts:
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    return [turn_of(roles[who], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True)]
