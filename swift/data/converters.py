"""What brings a record of a known data set to known columns where renaming them is not enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from swift.data.drops import BadRow

Converter = Callable[[dict[str, Any]], dict[str, Any]]

CONVERTERS: dict[str, Converter] = {}
"""Converters by the name that a table calls them."""


def _converter(convert: Converter) -> Converter:
    CONVERTERS[convert.__name__] = convert
    return convert


def _take(record: dict[str, Any], *names: str) -> list[Any]:
    """Remove columns from a record and give their values."""
    if missing := [name for name in names if name not in record]:
        raise BadRow(f"column {missing[0]} is missing; the row has {', '.join(record)}")
    return [record.pop(name) for name in names]


@_converter
def first_answer(record: dict[str, Any]) -> dict[str, Any]:
    """`answers`, a list of texts: the first is the response, all stay beside it."""
    answers = record.get("answers")
    if not isinstance(answers, list) or not answers:
        raise BadRow("answers holds no answer")
    return record | {"response": answers[0]}


@_converter
def choice(record: dict[str, Any]) -> dict[str, Any]:
    """`question`, `choices` and the number of the right one, from 0, in `answer`: letters to choose from."""
    question, choices, answer = _take(record, "question", "choices", "answer")
    if not isinstance(choices, list) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise BadRow(f"answer {answer!r} is not the number of a choice")
    letters = [chr(ord("A") + number) for number in range(len(choices))]
    lines = [f"{letter}. {text}" for letter, text in zip(letters, choices, strict=True)]
    return record | {
        "query": "\n".join([question, *lines]),
        "response": f"{letters[answer]}. {choices[answer]}",
    }


@_converter
def question_list(record: dict[str, Any]) -> dict[str, Any]:
    """`questions` and `answers`, lists of one length: a conversation."""
    questions, answers = _take(record, "questions", "answers")
    if len(questions) != len(answers):
        raise BadRow(f"{len(questions)} questions have {len(answers)} answers")
    return record | {"messages": _dialogue(list(zip(questions, answers, strict=True)))}


@_converter
def qa_list(record: dict[str, Any]) -> dict[str, Any]:
    """`qa`, a list of objects with question and answer: a conversation."""
    [pairs] = _take(record, "qa")
    return record | {"messages": _dialogue([(pair["question"], pair["answer"]) for pair in pairs])}


def _dialogue(pairs: list[tuple[Any, Any]]) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


@_converter
def function_calls(record: dict[str, Any]) -> dict[str, Any]:
    """`query` and `answers`, the calls that answer it, as JSON."""
    query, answers = _take(record, "query", "answers")
    try:
        calls = json.loads(answers) if isinstance(answers, str) else answers
    except ValueError as error:
        raise BadRow(f"answers is not JSON: {answers[:40]!r}") from error
    turns = [{"role": "user", "content": query}, {"role": "assistant", "content": "", "tool_calls": calls}]
    return record | {"messages": turns}


@_converter
def base64_images(record: dict[str, Any]) -> dict[str, Any]:
    """`images`, a list of JPEG files in base64: as data URLs."""
    [images] = _take(record, "images")
    items = images if isinstance(images, list) else [images]
    return record | {"images": [f"data:image/jpeg;base64,{''.join(item.split())}" for item in items]}


@_converter
def human_or_machine(record: dict[str, Any]) -> dict[str, Any]:
    """`chatgpt_answers`, a list of texts: the first is the response."""
    answers = record.get("chatgpt_answers")
    if not isinstance(answers, list) or not answers:
        raise BadRow("chatgpt_answers holds no answer")
    return record | {"response": answers[0]}
