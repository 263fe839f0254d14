"""Media that requests name: read where that is allowed, and opened, before the engine sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from swift.engines.base import InferRequest
from swift.errors import SwiftError
from swift.media import Access
from swift.templates.media import MediaReader, medium_of
from swift.templates.messages import KIND_OF


def opened(request: InferRequest, access: Access, reader: MediaReader) -> InferRequest:
    """The request with its media in its messages, as the model's processor takes them.

    Raises:
        SwiftError: one may not be read, cannot be, or together they are too large.
    """
    read = 0

    def open_part(part: dict[str, Any]) -> dict[str, Any]:
        nonlocal read
        kind = KIND_OF[part["type"]]
        data = access.read(medium_of(part))
        read += len(data)
        if read > access.most_together:
            raise SwiftError(
                f"the media of one request have more than {access.most_together / (1 << 20):g} MiB", fix="send fewer"
            )
        return {"type": kind, kind: reader.open(kind, data, access)}

    messages: list[Any] = []
    for message in request.messages:
        content: Any = message.get("content")
        if isinstance(content, list):
            content = [open_part(part) if part["type"] in KIND_OF else part for part in content]
            messages.append({**message, "content": content})
        else:
            messages.append(message)
    return replace(request, messages=messages)
