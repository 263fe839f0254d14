"""Pictures, films and sounds as parts of a message in the OpenAI protocol."""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swift.engines.base import InferRequest
from swift.errors import SwiftError
from swift.rows import Message

KINDS = {"image": "images", "video": "videos", "audio": "audios"}
"""The tag that stands for each in a text, and the field of a request that holds them."""
TAGS = re.compile(r"<(image|video|audio)>")
TYPES = {"image": "image/png", "video": "video/mp4", "audio": "audio/wav"}
"""What is said of bytes whose type nothing tells."""


def with_media(request: InferRequest, part: Callable[[str, Any], Any] | None = None) -> list[Message]:
    """The messages with the request's media as parts: where a tag stands for them, else before the last turn's text.

    Args:
        part: makes a part of a medium and its kind; None means in the OpenAI protocol.

    Raises:
        SwiftError: there are more tags than media, or one cannot be read.
    """
    part = part or part_of
    left = {kind: list(getattr(request, name)) for kind, name in KINDS.items()}
    if not any(left.values()):
        return request.messages
    messages = [
        {**message, "content": list(_parts(message["content"], left, part))}
        if message.get("role") == "user" and isinstance(message.get("content"), str)
        else message
        for message in request.messages
    ]
    rest = [part(kind, each) for kind, found in left.items() for each in found]
    if rest:
        content = messages[-1].get("content")
        own = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
        messages[-1] = {**messages[-1], "content": [*rest, *own]}
    return messages  # type: ignore[return-value]


def _parts(text: str, left: dict[str, list[Any]], part: Callable[[str, Any], Any]) -> Any:
    """The parts of a text; what its tags stand for is taken away from the media that are left."""
    at = 0
    for tag in TAGS.finditer(text):
        kind = tag[1]
        if not left[kind]:
            raise SwiftError(
                f"a message has more <{kind}> than there are {KINDS[kind]}", fix="give as many, or take the tag out"
            )
        if before := text[at : tag.start()]:
            yield {"type": "text", "text": before}
        yield part(kind, left[kind].pop(0))
        at = tag.end()
    if text[at:] or not at:
        yield {"type": "text", "text": text[at:]}


def part_of(kind: str, media: Any) -> dict[str, Any]:
    """One medium as a part.

    Args:
        media: a URL, a file, bytes, or an object with `bytes`, `path` or `url`.

    Raises:
        SwiftError: it cannot be read.
    """
    if isinstance(media, dict):
        media = next((media[key] for key in ("bytes", "path", "url") if media.get(key)), None)
    if isinstance(media, str) and media.startswith(("http://", "https://", "data:")):
        return {"type": f"{kind}_url", f"{kind}_url": {"url": media}}
    if not isinstance(media, (str, Path, bytes)):
        raise SwiftError(f"{kind} {str(media)[:60]!r} is neither a file, nor a URL, nor bytes", fix="give one of them")
    name, data = ("", media) if isinstance(media, bytes) else (str(media), _read(kind, str(media)))
    text = base64.b64encode(data).decode()
    mime = mimetypes.guess_type(name)[0] or TYPES[kind]
    if kind == "audio":
        ending = Path(name).suffix.lstrip(".").lower() or "wav"
        return {"type": "input_audio", "input_audio": {"data": text, "format": ending}}
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{mime};base64,{text}"}}


def _read(kind: str, name: str) -> bytes:
    try:
        return Path(name).expanduser().read_bytes()
    except OSError as error:
        raise SwiftError(f"{kind} {name} cannot be read: {error.strerror}", fix="name a file that is there") from None
