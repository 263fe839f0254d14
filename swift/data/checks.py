"""What a row must be before any later stage sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from swift.data.drops import BadRow
from swift.rows import Message, Row, kind_of


def check_row(row: Row, *, answers: bool = True) -> None:
    """Check the turns of a row.

    Args:
        row: the row, as `to_row` gives it.
        answers: it must hold what is trained: an assistant's turn, a label, or passages to be found.

    Raises:
        BadRow: what is wrong, in one line.
    """
    wanted = answers and "label" not in row and "positives" not in row
    _check_turns(row["messages"], "message", wanted)
    if "rejected_messages" in row:
        _check_turns(row["rejected_messages"], "rejected message", True)
    if row.get("positives") == []:
        raise BadRow("there is no positive passage")
    for passage in row.get("positives", []):
        _check_turns(passage, "positive message", False)
    for passage in row.get("negatives", []):
        _check_turns(passage, "negative message", False)


def _check_turns(turns: Sequence[Message], what: str, answers: bool) -> None:
    if not turns:
        raise BadRow(f"there is no {what}")
    before, answered = "", False
    for number, turn in enumerate(turns, 1):
        role = turn["role"]
        # Nearly every turn is a role and a text that any encoding can hold.
        if not (len(turn) == 2 and type(text := turn.get("content")) is str and text.isascii()):
            _check_content(turn, f"{what} {number} ({role})")
        if role == "assistant":
            answered = True
        elif role == "user":
            if before == "user":
                raise BadRow(f"{what} {number} is a second user turn in a row, without an answer between")
        elif role == "system":
            if before:
                raise BadRow(f"{what} {number} is a system turn; it can only be the first")
        elif before not in ("assistant", "tool"):
            raise BadRow(f"{what} {number} is a tool's result without an assistant's turn before it")
        before = role
    if answers and not answered:
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
