"""Rows as questions: what an engine is asked, and the answer that it is compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from swift.engines.base import InferRequest
from swift.rows import Row, Source


@dataclass
class Question:
    """A row without its last answer.

    Attributes:
        labels: that answer; None where the row has none.
        key: stands for all that the answer depends on, where answers are kept.
    """

    request: InferRequest
    labels: str | None
    source: Source
    extra: dict[str, Any]
    key: str = ""


def question_of(row: Row, source: Source) -> Question:
    """Take the last answer out of a row: it is what the model's answer is compared with."""
    messages = list(row["messages"])
    labels = None
    if messages and messages[-1].get("role") == "assistant":
        content = messages.pop().get("content")
        labels = content if isinstance(content, str) or content is None else json.dumps(content, ensure_ascii=False)
    request = InferRequest(
        messages, row.get("tools"), row.get("images") or [], row.get("videos") or [], row.get("audios") or []
    )
    return Question(request, labels, source, dict(row.get("extra") or {}))
