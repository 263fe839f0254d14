"""What each kind of data becomes: turns to train on, and what belongs to its kind beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from swift.data.drops import BadRow
from swift.data.turns import spoken, to_messages, turn_of
from swift.data.values import turns_in_text
from swift.rows import Message, kind_of

Build = Callable[[dict[str, Any]], dict[str, Any]]
"""From columns by our names to the fields of a row."""


def conversation(read: dict[str, Any]) -> dict[str, Any]:
    """Turns, or a query with its answer; with another answer to reject where there is one."""
    rejected = read.get("rejected_response")
    row: dict[str, Any] = {"messages": _with_system([*_asked(read), *_answer(read)], read.get("system"))}
    if isinstance(rejected, list) and rejected and all(isinstance(item, str) for item in rejected):
        # Several texts are passages not to be found: the answer is the one to be found.
        *row["messages"], answer = row["messages"]
        return row | {"positives": [[turn_of("user", answer.get("content"))]], "negatives": _passages(rejected)}
    if "rejected_messages" in read:
        row["rejected_messages"] = _side(read["rejected_messages"], row["messages"][:-1])
    elif rejected is not None:
        row["rejected_messages"] = _side(rejected, row["messages"][:-1])
    return row


def pair(read: dict[str, Any]) -> dict[str, Any]:
    """Two answers to one question; `messages` ends with the chosen one."""
    prompt = _asked(read)
    if "messages" in read and prompt and prompt[-1].get("role") == "assistant":
        prompt = prompt[:-1]
    system = read.get("system")
    return {
        "messages": _with_system(_side(read["chosen"], prompt), system),
        "rejected_messages": _with_system(_side(read["rejected"], prompt), system),
    }


def embedding(read: dict[str, Any]) -> dict[str, Any]:
    """A query with passages to be found and passages not to be found."""
    negatives = _passages(read.get("negatives", []))
    for name, value in read.items():
        if name.startswith(("negative_", "hard_negative")) or (name.startswith("negative") and name[8:].isdigit()):
            negatives += _passages(value)
    turns = _with_system([*_asked(read), *_answer(read)], read.get("system"))
    row: dict[str, Any] = {"messages": turns, "positives": _passages(read["positives"])}
    return row | ({"negatives": negatives} if negatives else {})


def sentences(read: dict[str, Any]) -> dict[str, Any]:
    """Two sentences, and how alike they are."""
    row: dict[str, Any] = {
        "messages": [turn_of("user", read["sentence1"])],
        "positives": [[turn_of("user", read["sentence2"])]],
    }
    label = read.get("label", read.get("score"))
    return row if label is None else row | {"label": label}


def steps(read: dict[str, Any]) -> dict[str, Any]:
    """An answer in steps, each with its own label; the turn joins them by line ends."""
    texts, labels = read["completions"], read["label"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRow(f"completions is {kind_of(texts)}, not a list of steps as texts")
    if not isinstance(labels, list) or len(labels) != len(texts):
        raise BadRow(f"labels does not hold one label for each of {len(texts)} completions")
    turns = [*_asked(read), turn_of("assistant", "\n".join(texts))]
    return {"messages": _with_system(turns, read.get("system")), "steps": texts, "step_labels": labels}


def plain_text(read: dict[str, Any]) -> dict[str, Any]:
    """A text to learn whole: one turn of the assistant."""
    return {"messages": [turn_of("assistant", read["text"])]}


def question(read: dict[str, Any]) -> dict[str, Any]:
    """A text to label or to answer."""
    return {"messages": [turn_of("user", read["text"])]}


def _asked(read: dict[str, Any]) -> list[Message]:
    """The turns before the answer."""
    if "messages" in read:
        return to_messages(read["messages"])
    query = read.get("query")
    if isinstance(query, list):
        return [*_history(read.get("history", [])), *to_messages(query)]
    if read.get("input"):
        query = f"{query}\n{read['input']}" if query else read["input"]
    history = _history(read.get("history", []))
    return history if query is None else [*history, turn_of("user", query)]


def _answer(read: dict[str, Any]) -> list[Message]:
    if "messages" in read:
        return []
    response = read.get("response", read.get("solution"))
    if response is None:
        return []
    turns = to_messages(response) if isinstance(response, list) else [turn_of("assistant", response)]
    if read.get("reasoning_content") and turns:
        turns[-1] = {**turns[-1], "reasoning_content": read["reasoning_content"]}
    return turns


def _history(pairs: Any) -> list[Message]:
    if not isinstance(pairs, list) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
        raise BadRow("history is not a list of [query, response] pairs")
    return [turn_of(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]


def _with_system(turns: list[Message], system: Any) -> list[Message]:
    if not system:
        return turns
    if not turns or turns[0].get("role") != "system":
        return [turn_of("system", system), *turns]
    if turns[0].get("content") != system:
        raise BadRow("the system column and the system turn differ; --columns can rename the column")
    return turns


def _side(answer: Any, prompt: Sequence[Message]) -> list[Message]:
    """A whole conversation from one of two answers, whether or not it repeats the prompt."""
    if isinstance(answer, str):
        turns = turns_in_text(answer) or (None if prompt else spoken(answer)) or [turn_of("assistant", answer)]
    else:
        turns = to_messages([answer] if isinstance(answer, dict) else answer)
    return [*prompt, *turns] if not turns or turns[0].get("role") in ("assistant", "tool") else turns


def _passages(value: Any) -> list[list[Message]]:
    """Each passage as turns: texts, one conversation, or several."""
    if isinstance(value, str):
        return [[turn_of("user", value)]]
    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise BadRow(f"a passage is {kind_of(value)}, not text or a list of turns")
    if items and all(isinstance(item, dict) for item in items):
        return [to_messages(items)]
    return [to_messages(item) if isinstance(item, list) else [_passage(item)] for item in items]


def _passage(item: Any) -> Message:
    if not isinstance(item, str):
        raise BadRow(f"a passage is {kind_of(item)}, not text or a list of turns")
    return turn_of("user", item)
