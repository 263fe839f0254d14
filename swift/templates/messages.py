"""Messages as a chat template takes them: checked, in the shape servers send, and with provenance."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from swift.errors import SwiftError
from swift.rows import kind_of
from swift.templates.provenance import Traced, TracedDict, origin_of

ROLES = ("system", "user", "assistant", "tool", "developer", "function", "ipython")
MEND = "mend the row, or take it out of the data"
OURS = ("loss", "weight")
"""Keys of a message that belong to training and that no template sees."""

THINK = re.compile(r"\s*<think>\n?(.*?)\n?</think>\n*", re.DOTALL)
THOUGHT = re.compile(r"\s*(?:<think>)?\n?(.*?)\n?</think>\n*", re.DOTALL)


def check(messages: Any, where: str | None) -> None:
    """Raise a `SwiftError` for what no template can render."""
    if not isinstance(messages, (list, tuple)) or not messages:
        raise SwiftError("there is no message", where=where, fix='give "messages": [{"role": …, "content": …}, …]')
    for number, message in enumerate(messages, 1):
        # Nearly every message is a role and a text.
        plain = type(message) is dict and len(message) == 2 and type(message.get("content")) is str
        if plain and message.get("role") in ROLES:
            continue
        if not isinstance(message, dict):
            what = f"message {number} is {kind_of(message)}, not an object with role and content"
            raise SwiftError(what, where=where, fix=MEND)
        role = message.get("role")
        if role not in ROLES:
            what = f"message {number} has no role" if role is None else f"message {number} has unknown role {role!r}"
            raise SwiftError(what, where=where, fix=f"use one of: {', '.join(ROLES)}")
        content = message.get("content")
        if not isinstance(content, (str, list, tuple, type(None))):
            raise SwiftError(
                f"content of message {number} ({role}) is {kind_of(content)}, not text",
                where=where,
                fix="give a string, or a list of parts such as {'type': 'text', 'text': …}",
            )
        for key in ("reasoning_content", "name"):
            if not isinstance(message.get(key), (str, type(None))):
                what = f"{key} of message {number} ({role}) is {kind_of(message[key])}, not text"
                raise SwiftError(what, where=where, fix=MEND)
        if not content and not message.get("tool_calls") and role == "assistant" and content != "":
            raise SwiftError(f"message {number} (assistant) has neither content nor tool_calls", where=where, fix=MEND)
        check_calls(message.get("tool_calls"), number, where)


MEDIA = ("images", "videos", "audios")
KIND_OF = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "video": "video",
    "video_url": "video",
    "audio": "audio",
    "audio_url": "audio",
    "input_audio": "audio",
}
"""Types of the parts of a content that are no text, and what each stands for in chat templates."""


def media_in(columns: Mapping[str, Any], messages: Any) -> list[str]:
    """The names of the columns and the types of the parts that hold pictures, films and sounds.

    Args:
        columns: a row, or what else holds lists of media beside its messages.
        messages: whose contents may hold them as parts.
    """
    found = [name for name in MEDIA if columns.get(name)]
    for message in messages or ():
        content = message.get("content") if isinstance(message, dict) else None
        if type(content) is str:
            continue
        parts = content if isinstance(content, (list, tuple)) else ()
        found += [str(part["type"]) for part in parts if isinstance(part, dict) and part.get("type") in KIND_OF]
    return list(dict.fromkeys(found))


def check_media(columns: Mapping[str, Any], messages: Any, where: str | None = None) -> None:
    """Raise a `SwiftError` for pictures, films and sounds, where only text is read.

    Args:
        columns: as in `media_in`.
        messages: as in `media_in`.
        where: place of the row.
    """
    if found := media_in(columns, messages):
        raise SwiftError(
            f"pictures, films and sounds are not read here, and there are {', '.join(found)}",
            where=where,
            fix="take them out of the row, or the row out of the data",
        )


def check_calls(calls: Any, number: int, where: str | None) -> None:
    """Raise a `SwiftError` for tool calls that are not in the OpenAI shape."""
    if calls is None:
        return
    if not isinstance(calls, (list, tuple)):
        raise SwiftError(f"tool_calls of message {number} is {kind_of(calls)}, not a list", where=where, fix=MEND)
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise SwiftError(
                f"tool call of message {number} has no function name",
                where=where,
                fix="write {'type': 'function', 'function': {'name': …, 'arguments': {…}}}",
            )


def tools_of(tools: Any, where: str | None) -> list[dict[str, Any]] | None:
    """Tools in the OpenAI shape: bare function objects are wrapped, JSON text is read.

    Raises:
        SwiftError: one of them is no tool.
    """
    if isinstance(tools, str):
        tools = _json_tool(tools, where)
    if isinstance(tools, dict):
        tools = [tools]
    if not tools:
        return None
    out = []
    for tool in tools:
        tool = _json_tool(tool, where) if isinstance(tool, str) else tool
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise SwiftError(
                f"a tool names no function: {str(tool)[:60]}",
                where=where,
                fix="write {'type': 'function', 'function': {'name': …, 'description': …, 'parameters': {…}}}",
            )
        out.append(tool if "function" in tool else {"type": "function", "function": tool})
    return out


def _json_tool(text: str, where: str | None) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise SwiftError(
            f"tools hold text that is no JSON: {text[:60]!r}", where=where, fix="write a JSON object"
        ) from None


def served(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages as servers hand them to the template.

    Keys without a value and the keys of training go; arguments given as JSON text become objects, as servers do;
    reasoning is there under the other name that templates read.
    """
    out = []
    for message in messages:
        ours = {key: value for key, value in message.items() if value is not None and key not in OURS}
        if "reasoning_content" in ours:
            ours = {"thinking": ours["reasoning_content"], **ours}
        if ours.get("tool_calls"):
            ours["tool_calls"] = [_with_object_arguments(call) for call in ours["tool_calls"]]
        out.append(ours)
    return out


def _with_object_arguments(call: dict[str, Any]) -> dict[str, Any]:
    if "function" in call:
        return {**call, "function": _with_object_arguments(call["function"])}
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            return call
        if isinstance(parsed, dict):
            return {**call, "arguments": parsed}
    return call


def with_text_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose tool calls have their arguments as JSON text."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        inner = dict(call.get("function", call))
        if isinstance(inner.get("arguments"), dict):
            inner["arguments"] = json.dumps(inner["arguments"], ensure_ascii=False)
        calls.append({**call, "function": inner} if "function" in call else inner)
    return {**message, "tool_calls": calls}


def with_joined_parts(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose content is one text."""
    return {**message, "content": text_of(message)} if isinstance(message.get("content"), list) else message


def with_parts(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose content is a list of parts."""
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def traced(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A copy whose contents, reasoning and tool calls carry their origin."""
    out = []
    for index, message in enumerate(messages):
        copy = dict(message)
        if (content := copy.get("content")) is not None:
            copy["content"] = _trace_content(content, origin_of(index, "content"))
        for key in ("reasoning_content", "thinking"):
            if isinstance(copy.get(key), str):
                copy[key] = Traced(copy[key], origin_of(index, "reasoning_content"))
        if copy.get("tool_calls"):
            copy["tool_calls"] = [_trace_call(call, index) for call in copy["tool_calls"]]
        out.append(copy)
    return out


def _trace_content(content: Any, origin: str) -> Any:
    if isinstance(content, str):
        return Traced(content, origin)
    if isinstance(content, (list, tuple)):
        return [_trace_content(part, origin) for part in content]
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        return {**content, "text": Traced(content["text"], origin)}
    return content


def _trace_call(call: dict[str, Any], index: int) -> dict[str, Any]:
    if "function" in call:
        return {**call, "function": _trace_call(call["function"], index)}
    copy = dict(call)
    copy["name"] = Traced(copy["name"], origin_of(index, "name"))
    if "arguments" in copy:
        copy["arguments"] = trace_value(copy["arguments"], origin_of(index, "arguments"))
    return copy


def trace_value(value: Any, origin: str) -> Any:
    """A JSON value with one origin throughout."""
    if isinstance(value, str):
        return Traced(value, origin)
    if isinstance(value, dict):
        mapping = TracedDict({key: trace_value(item, origin) for key, item in value.items()})
        mapping.origin = origin
        return mapping
    if isinstance(value, (list, tuple)):
        return [trace_value(item, origin) for item in value]
    return value


def text_of(message: Any) -> str:
    """The text of a message's content, its parts joined."""
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        return "".join(part.get("text") or "" if isinstance(part, dict) else str(part) for part in content)
    return content or ""


def split_reasoning(message: dict[str, Any], *, opened: bool) -> dict[str, Any]:
    """Move a `<think>` block at the start of an assistant's text into `reasoning_content`.

    Args:
        message: any message.
        opened: the opening tag may be missing, as in texts generated behind a prompt that holds it.
    """
    content = message.get("content")
    if message.get("role") != "assistant" or message.get("reasoning_content") or not isinstance(content, str):
        return message
    found = (THOUGHT if opened else THINK).match(content)
    if not found or not found[1].strip():
        return message
    return {**message, "reasoning_content": found[1], "thinking": found[1], "content": content[found.end() :]}


def shape_of(messages: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    """What a template's decisions may depend on besides the text: roles and which fields hold anything."""
    return tuple(
        (
            message["role"],
            _fill(message.get("content")),
            _fill(message.get("reasoning_content")),
            tuple(len(call.get("function", call).get("arguments") or ()) for call in message.get("tool_calls") or ()),
        )
        for message in messages
    )


def _fill(value: Any) -> int:
    if value is None:
        return 0
    text = value if isinstance(value, str) else "".join(map(str, value))
    if "think>" in text or "<tool" in text:
        return 3
    return 2 if text.strip() else 1
