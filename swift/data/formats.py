"""From the columns that data sets have to a `Row`, recognised without being told."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from swift.data.drops import BadRow
from swift.rows import Message, Row

JSON_COLUMNS = {"messages", "history", "tools", "images", "videos", "audios", "objects", "rejected_messages", "extra"}
"""Columns that hold lists or objects; text in them, as csv files have it, is JSON or a Python literal."""


@cache
def formats() -> dict[str, Any]:
    """The table of known columns, roles and message keys."""
    return dict(json.loads((Path(__file__).parent / "table" / "formats.json").read_text(encoding="utf-8")))


def to_row(record: Mapping[str, Any], columns: Mapping[str, str] | None = None, *, answers: bool = True) -> Row:
    """Map a record's columns to a row; its messages are not checked yet.

    Args:
        record: one row as the file has it. Empty columns (None) are as good as absent.
        columns: the data's column names -> ours, applied first and all at once.
        answers: a question must have its answer.

    Raises:
        BadRow: the columns are none of the known forms, or two go by one name.
    """
    record = _renamed({name: value for name, value in record.items() if value is not None}, columns or {})
    names = _present(record, answers)
    read = {ours: _parsed(ours, record[theirs]) for ours, theirs in names.items()}
    row: dict[str, Any] = {"messages": _messages(read)}
    used = set(names.values())
    if "rejected_response" in record and "rejected_messages" not in record:
        used.add("rejected_response")
        row["rejected_messages"] = [*row["messages"][:-1], _turn("assistant", record["rejected_response"])]
    extra = _extra(record)
    for name, value in record.items():
        if name in formats()["kept"]:
            row[name] = _parsed(name, value)
        elif name not in used and name != "extra":
            extra[name] = value
    if extra:
        row["extra"] = extra
    return cast(Row, row)


def _extra(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a column of that name holds: columns kept from an earlier pass, or else any value of the user's."""
    given = record.get("extra", {})
    if isinstance(given, str) and given.lstrip().startswith("{"):
        given = _parsed("extra", given)
    return dict(given) if isinstance(given, dict) else {"extra": given}


def _renamed(record: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for name, value in record.items():
        ours = columns.get(name, name)
        if ours in renamed:
            raise BadRow(f"two columns go by the name {ours!r} after --columns: map the other one away too")
        renamed[ours] = value
    return renamed


def _present(record: Mapping[str, Any], answers: bool) -> dict[str, str]:
    """Our name -> the record's column, for those that make up the conversation."""
    aliases = formats()["columns"]
    found = {ours: next((a for a in theirs if a in record), None) for ours, theirs in aliases.items()}
    names = {ours: theirs for ours, theirs in found.items() if theirs is not None}
    if "messages" in names:
        return {ours: theirs for ours, theirs in names.items() if ours in ("messages", "system")}
    if names.get("query") != "instruction":
        names.pop("input", None)
    asked = "query" in names and (not answers or isinstance(record[names["query"]], list))
    if not asked and not {"query", "response"} <= names.keys():
        raise BadRow(
            f"columns {', '.join(record) or '(none)'} are no known form: messages; conversations; "
            "instruction + output; query + response; prompt + completion; question + answer; name yours with --columns"
        )
    return names


def _parsed(name: str, value: Any) -> Any:
    """Lists and objects out of the text that csv files hold them in."""
    if name not in JSON_COLUMNS or not isinstance(value, str):
        return value
    if name in ("images", "videos", "audios") and not value.startswith("["):
        return [value]
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value)
        except (ValueError, SyntaxError):
            continue
    raise BadRow(f"column {name} is text that is not JSON: {value[:40]!r}")


def _messages(read: dict[str, Any]) -> list[Message]:
    if "messages" in read:
        turns = to_messages(read["messages"])
    elif isinstance(read["query"], list):
        response = read.get("response", [])
        turns = to_messages(read["query"])
        turns += to_messages(response) if isinstance(response, list) else [_turn("assistant", response)]
    else:
        query = read["query"]
        if read.get("input"):
            query = f"{query}\n{read['input']}" if query else read["input"]
        response = read.get("response", [])
        turns = [*_history(read.get("history", [])), _turn("user", query)]
        turns += to_messages(response) if isinstance(response, list) else [_turn("assistant", response)]
    if not read.get("system"):
        return turns
    if not turns or turns[0].get("role") != "system":
        return [_turn("system", read["system"]), *turns]
    if turns[0].get("content") != read["system"]:
        raise BadRow("the system column and the system turn differ; --columns can rename the column")
    return turns


def _turn(role: str, content: Any) -> Message:
    return {"role": role, "content": content}


def _history(pairs: Any) -> list[Message]:
    if not isinstance(pairs, list) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
        raise BadRow("history is not a list of [query, response] pairs")
    return [_turn(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]


def to_messages(value: Any) -> list[Message]:
    """Turns of any known spelling, with our keys and roles; function calls join the assistant's turn before them.

    Raises:
        BadRow: it is not a list of turns, or a role is unknown.
    """
    if not isinstance(value, list):
        raise BadRow(f"messages is {kind_of(value)}, not a list of turns")
    turns: list[Message] = []
    for number, item in enumerate(value, 1):
        if not isinstance(item, Mapping):
            raise BadRow(f"message {number} is {kind_of(item)}, not an object with role and content")
        if "human" in item and "assistant" in item:
            turns += [_turn("user", item["human"]), _turn("assistant", item["assistant"])]
            continue
        turn = _with_our_keys(item, number)
        if turn["role"] != "call":
            turns.append(turn)
            continue
        calls = _calls(turn.pop("content", None), number)
        before = turns[-1] if turns and turns[-1].get("role") == "assistant" else None
        if before is not None and before.get("loss") == turn.get("loss"):
            before["tool_calls"] = [*before.get("tool_calls", []), *calls]
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


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, Mapping) else type(value).__name__)
