"""What a row must be before any later stage sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from swift.data.drops import BadRow
from swift.data.formats import kind_of, to_messages
from swift.rows import Message, Row


def check_row(row: Row, *, answers: bool = True) -> None:
    """Check a row, and bring its tools and rejected turns into our shape; `answers` wants an assistant's turn.

    Raises:
        BadRow: what is wrong, in one line.
    """
    _check_turns(row["messages"], "message", answers)
    if "rejected_messages" in row:
        row["rejected_messages"] = to_messages(row["rejected_messages"])
        _check_turns(row["rejected_messages"], "rejected message")
    tools: Any = row.get("tools", [])
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("tools is not a list of objects")
    for name, value in (("images", row.get("images")), ("videos", row.get("videos")), ("audios", row.get("audios"))):
        if value is not None and not isinstance(value, list):
            raise BadRow(f"{name} is {kind_of(value)}, not a list")


def _check_turns(turns: Sequence[Message], what: str, answers: bool = True) -> None:
    if not turns:
        raise BadRow(f"there is no {what}")
    before = ""
    for number, turn in enumerate(turns, 1):
        role = turn["role"]
        _check_content(turn, f"{what} {number} ({role})")
        if role == "system" and before:
            raise BadRow(f"{what} {number} is a system turn; it can only be the first")
        if role == "user" and before == "user":
            raise BadRow(f"{what} {number} is a second user turn in a row, without an answer between")
        if role == "tool" and before not in ("assistant", "tool"):
            raise BadRow(f"{what} {number} is a tool's result without an assistant's turn before it")
        before = role
    if answers and not any(turn["role"] == "assistant" for turn in turns):
        raise BadRow(f"no {what} is an assistant's turn")


def _check_content(turn: Message, what: str) -> None:
    content = turn.get("content")
    if isinstance(content, str):
        _check_text(content, what)
    elif isinstance(content, list):
        if not all(isinstance(part, dict) and "type" in part for part in content):
            raise BadRow(f"content of {what} is a list with parts that have no type")
    else:
        raise BadRow(f"content of {what} is {kind_of(content)}, not text")
    reasoning: Any = turn.get("reasoning_content", "")
    if not isinstance(reasoning, str):
        raise BadRow(f"reasoning_content of {what} is {kind_of(reasoning)}, not text")
    loss: Any = turn.get("loss", True)
    if not isinstance(loss, bool):
        raise BadRow(f"loss of {what} is {kind_of(loss)}, not true or false")
    weight: Any = turn.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise BadRow(f"weight of {what} is {kind_of(weight)}, not a number")
    if not 0 <= weight < math.inf:
        raise BadRow(f"weight of {what} is {weight}; it must be a number from 0 on")


def _check_text(text: str, what: str) -> None:
    """JSON can spell half a surrogate pair, which no tokenizer can encode."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"content of {what} is not valid Unicode: half a surrogate pair at {error.start + 1}") from error
