"""One column's value as a row holds it: lists and objects out of text, media in one shape, labels as numbers."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from typing import Any

from swift.data.drops import BadRow
from swift.data.turns import to_messages
from swift.rows import Message, kind_of

URLS = ("url", "image_url", "video_url", "audio_url", "image", "video", "audio")
"""Keys under which an object holds where its picture, film or sound is."""

SOUND = {"array", "sampling_rate"}


def value_of(name: str, value: Any) -> Any:
    """The value of the column that goes by our `name`.

    Raises:
        BadRow: it is nothing that such a column may hold.
    """
    read = READERS.get(name)
    return value if read is None else read(name, value)


def turns_in_text(text: str) -> list[Message] | None:
    """Turns that a csv file holds as text; None where the text is none."""
    if not text.startswith("[{"):
        return None
    value = _decoded(text)
    return to_messages(value) if isinstance(value, list) else None


def _decoded(text: str) -> Any:
    """JSON or a Python literal; None where the text is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def _structure(name: str, value: Any) -> Any:
    """Lists and objects out of the text that csv files hold them in."""
    if not isinstance(value, str):
        return value
    found = _decoded(value)
    if found is None:
        raise BadRow(f"column {name} is text that is not JSON: {value[:40]!r}")
    return found


def _texts(name: str, value: Any) -> Any:
    """Texts, which csv files may hold as a list in text."""
    found = _decoded(value) if isinstance(value, str) and value.startswith("[") else None
    return found if isinstance(found, list) else value


def _media(name: str, value: Any) -> list[Any]:
    """Each picture, film or sound as a path or URL, an object with its bytes, or what a library decoded."""
    items = _texts(name, value)
    if isinstance(items, list):
        return [_medium(name, number, item) for number, item in enumerate(items, 1) if item is not None]
    return [_medium(name, 1, items)] if items != "" else []


def _medium(name: str, number: int, item: Any) -> Any:
    if isinstance(item, str):
        return item
    if isinstance(item, bytes | bytearray):
        return {"bytes": bytes(item)}
    if isinstance(item, Mapping):
        found = {key: value for key, value in item.items() if value is not None}
        if "bytes" in found or found.keys() >= SOUND:
            return found
        if isinstance(found.get("path"), str):
            return found["path"]
        for key in URLS:
            if key in found:
                return _medium(name, number, found[key])
    elif isinstance(item, list) and name == "videos":
        return [_medium(name, number, frame) for frame in item]
    elif item is not None and not isinstance(item, bool | int | float | list):
        return item
    raise BadRow(f"{name} {number} is {kind_of(item)}, not a path, a URL, or an object with bytes, path or url")


def _tools(name: str, value: Any) -> list[dict[str, Any]]:
    """Tools in OpenAI's shape."""
    tools = _structure(name, value) if value != "" else []
    tools = [_structure(name, tool) for tool in tools] if isinstance(tools, list) else None
    if tools is None or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("tools is not a list of objects")
    bare = ("name" in tool and "function" not in tool and "type" not in tool for tool in tools)
    return [{"type": "function", "function": tool} if alone else tool for tool, alone in zip(tools, bare, strict=True)]


def _label(name: str, value: Any) -> Any:
    """Numbers out of the text that csv files hold them in; other text is the name of a class."""
    if isinstance(value, str) and value:
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        found = _decoded(value) if value[0] in "[-+.0123456789" else None
        value = value if found is None else found
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, bool | int | float | str) for part in parts):
        raise BadRow(f"{name} is {kind_of(value)}, not a number, true or false, a class or a list of these")
    return value


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise BadRow(f"{name} is {value!r}, not a number")


def _objects(name: str, value: Any) -> Any:
    found = _structure(name, value)
    if not isinstance(found, dict | list):
        raise BadRow(f"objects is {kind_of(found)}, not an object with ref and bbox")
    return found


def _channel(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadRow(f"channel is {kind_of(value)}, not text")
    return value


READERS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("messages", "history", "extra", "rejected_messages", "completions"), _structure),
    **dict.fromkeys(("images", "videos", "audios"), _media),
    **dict.fromkeys(("positives", "negatives", "rejected_response"), _texts),
    **dict.fromkeys(("label", "score"), _label),
    "tools": _tools,
    "objects": _objects,
    "margin": _number,
    "channel": _channel,
}
