"""Media that requests name: read where that is allowed, before the engine sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from swift.engines.base import InferRequest
from swift.media import Access
from swift.templates.media import medium_of
from swift.templates.messages import KIND_OF


def fetched(request: InferRequest, access: Access) -> InferRequest:
    """The request with the bytes of its media in its messages.

    Raises:
        SwiftError: one may not be read, or is not there.
    """
    messages: list[Any] = []
    for message in request.messages:
        content: Any = message.get("content")
        if isinstance(content, list):
            content = [_with_bytes(part, access) if part["type"] in KIND_OF else part for part in content]
            messages.append({**message, "content": content})
        else:
            messages.append(message)
    return replace(request, messages=messages)


def _with_bytes(part: dict[str, Any], access: Access) -> dict[str, Any]:
    kind = KIND_OF[part["type"]]
    return {"type": kind, kind: access.read(medium_of(part))}
