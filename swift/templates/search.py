"""Origins found by looking for the contents, where a template does what `Traced` text does not follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swift.templates import messages as checks
from swift.templates.provenance import LITERAL, Traced, origin_of


def lost(text: Traced, messages: Sequence[Any]) -> bool:
    """Whether an answer stands in the text without its origin: the template did to it what is not followed."""
    return any(
        message["role"] == "assistant"
        and not message.get("tool_calls")
        and origin_of(index, "content") not in text.origins
        and (content := checks.text_of(message).strip())
        and content in text
        for index, message in enumerate(messages)
    )


def search_origins(text: str, messages: Sequence[Any]) -> Traced:
    """Origins by looking for the contents one after the other; what is not found stays the template's."""
    origins, at = [LITERAL] * len(text), 0
    for index, message in enumerate(messages):
        calls = message.get("tool_calls") or ()
        names = [("name", call.get("function", call)["name"]) for call in calls]
        fields = [("reasoning_content", message.get("reasoning_content") or ""), ("content", checks.text_of(message))]
        for name, value in [*fields, *names]:
            value = value.strip()
            start = text.find(value, at) if value else -1
            if start >= 0:
                at = start + len(value)
                origins[start:at] = origin_of(index, name) * len(value)
    return Traced(text, "".join(origins))
