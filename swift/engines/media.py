"""Pictures, films and sounds as parts of a message in the OpenAI protocol."""

from __future__ import annotations

import base64
import io
import mimetypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swift.engines.base import InferRequest
from swift.errors import SwiftError
from swift.media import EVERYTHING, value_in
from swift.rows import Message
from swift.templates.media import medium_of

KINDS = {"image": "images", "video": "videos", "audio": "audios"}
"""The tag that stands for each in a text, and the field of a request that holds them."""
TAGS = re.compile(r"<(image|video|audio)>")
TYPES = {"image": "image/png", "video": "video/mp4", "audio": "audio/wav"}
"""What is said of bytes whose type nothing tells."""


def with_media(request: InferRequest, part: Callable[[str, Any], Any] | None = None) -> list[Message]:
    """The messages with the request's media as parts: where a tag stands for them, else before the last question.

    Args:
        part: makes a part of a medium and its kind; None means in the OpenAI protocol.

    Raises:
        SwiftError: there are more tags than media, or one cannot be read.
    """
    wire, part = part is None, part or part_of
    left = {kind: list(getattr(request, name)) for kind, name in KINDS.items()}
    tagged = any(left.values())
    messages: list[Any] = []
    for message in request.messages:
        content: Any = message.get("content")
        if wire and isinstance(content, list):
            content = [_as_part(each) for each in content]
        elif tagged and message.get("role") == "user" and isinstance(content, str):
            content = list(_parts(content, left, part))
        messages.append(message if content is message.get("content") else {**message, "content": content})
    if rest := [part(kind, each) for kind, found in left.items() for each in found]:
        asked = [at for at, message in enumerate(messages) if message.get("role") == "user"]
        if not asked:
            raise SwiftError("there is no turn of the user for the media to stand in", fix="add one")
        content = messages[asked[-1]].get("content")
        own = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
        messages[asked[-1]] = {**messages[asked[-1]], "content": [*rest, *own]}
    return messages


def _as_part(part: Any) -> Any:
    """A part of a content; those of transformers' protocol become OpenAI's."""
    ours = isinstance(part, dict) and part.get("type") in KINDS
    return part_of(part["type"], medium_of(part)) if ours else part


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
        media: a URL, a file, bytes, a picture of PIL, or an object with `bytes`, `path` or `url`.

    Raises:
        SwiftError: it cannot be read.
    """
    media = value_in(media)
    if isinstance(media, str) and media.startswith("data:audio/"):
        head, _, data = media.partition(";base64,")
        return {"type": "input_audio", "input_audio": {"data": data, "format": head.removeprefix("data:audio/")}}
    if isinstance(media, str) and media.startswith(("http://", "https://", "data:")):
        return {"type": f"{kind}_url", f"{kind}_url": {"url": media}}
    if kind == "image" and hasattr(media, "save"):
        file = io.BytesIO()
        media.save(file, "PNG")
        media = file.getvalue()
    if not isinstance(media, (str, Path, bytes)):
        raise SwiftError(f"{kind} {str(media)[:60]!r} is neither a file, nor a URL, nor bytes", fix="give one of them")
    name = "" if isinstance(media, bytes) else str(media)
    text = base64.b64encode(EVERYTHING.read(media)).decode()
    mime = mimetypes.guess_type(name)[0] or TYPES[kind]
    if kind == "audio":
        ending = Path(name).suffix.lstrip(".").lower() or "wav"
        return {"type": "input_audio", "input_audio": {"data": text, "format": ending}}
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{mime};base64,{text}"}}
