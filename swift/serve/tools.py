"""Tools of a chat: which the model sees, what it has to call, and the calls as a client gets them."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from swift.serve.protocol import ChatRequest, NamedTool, Tool

COUNTED = re.compile(r"call\d{5}")
"""Ids that the parser gives where the model gave none: the same in each turn."""
ANYTHING = {"type": "object"}


@dataclass(frozen=True)
class ToolUse:
    """How tools take part in a chat.

    Attributes:
        tools: what the template is given.
        forced: the function that has to be called; an empty name means any of them.
        single: one call at most.
    """

    tools: list[dict[str, Any]] | None = None
    forced: str | None = None
    single: bool = False

    @property
    def structure(self) -> dict[str, Any] | None:
        """What the answer must be so that it is a call: its arguments, or name and arguments where it may choose."""
        if self.forced is None:
            return None
        schemas = {
            tool["function"]["name"]: tool["function"].get("parameters") or ANYTHING for tool in self.tools or ()
        }
        if self.forced:
            return {"json": schemas[self.forced]}
        return {"json": {"anyOf": [_named(name, schema) for name, schema in schemas.items()]}}

    def forced_call(self, text: str) -> dict[str, Any] | None:
        """The call that a text is; None where the answer was cut off before it was whole."""
        if self.forced:
            return new_call(self.forced, text)
        try:
            call = json.loads(text)
        except ValueError:
            return None
        return new_call(call["name"], json.dumps(call["arguments"], ensure_ascii=False))


def _named(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": schema},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def tool_use(body: ChatRequest) -> ToolUse:
    """What a request says about tools."""
    if not body.tools or body.tool_choice == "none":
        return ToolUse()
    forced = None
    if isinstance(body.tool_choice, NamedTool):
        forced = body.tool_choice.function.name
    elif body.tool_choice == "required":
        forced = ""
    return ToolUse(plain_tools(body.tools), forced, body.parallel_tool_calls is False)


def plain_tools(tools: list[Tool] | None) -> list[dict[str, Any]] | None:
    """The tools as templates take them."""
    return [tool.model_dump(exclude_none=True) for tool in tools] if tools else None


def call_id(own: str = "") -> str:
    """The model's own id of a call, or one that no other call has; of nine letters, as some templates want it."""
    return own if own and not COUNTED.fullmatch(own) else secrets.token_hex(5)[:9]


def new_call(name: str, arguments: str, own: str = "") -> dict[str, Any]:
    """A call as clients get it: the arguments are JSON text."""
    return {"id": call_id(own), "type": "function", "function": {"name": name, "arguments": arguments}}


def as_call(call: dict[str, Any]) -> dict[str, Any]:
    """A parsed call as clients get it."""
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return new_call(name, text, call.get("id") or "")
