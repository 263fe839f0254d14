"""Tools for models whose chat template knows none: tools, calls and results as text in ordinary messages.

Each format is a file under `agents/`: the Jinja text of the system message, the literal text around calls and around
results, and the words at which generation stops because a result would follow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from swift.errors import SwiftError
from swift.templates.arguments import JsonArguments
from swift.templates.grammar import CONTENT, START, Calls, NamedBody, ObjectBody
from swift.templates.messages import text_of

FOLDER = Path(__file__).parent / "agents"


@cache
def text_formats() -> tuple[str, ...]:
    """The names of the formats that are text."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.json")))


@cache
def own_formats() -> tuple[str, ...]:
    """Names of formats that a model's own chat template writes."""
    return tuple(json.loads((FOLDER.parent / "table" / "own_tool_formats.json").read_text(encoding="utf-8")))


def resolve_agent(name: str, takes_calls: bool) -> str | None:
    """The text format to use; None where the model's own template writes tools.

    Args:
        name: what `--agent_template` says.
        takes_calls: whether the model's template writes tool calls.

    Raises:
        SwiftError: the name is unknown, or means a template's own format where the template has none.
    """
    if name not in (*text_formats(), *own_formats()):
        raise SwiftError(
            f"--agent_template {name} is no known format",
            fix=f"use one of: {', '.join(text_formats())}; leave it out where the model's template knows tools",
        )
    if takes_calls and (name in own_formats() or name == "hermes"):
        return None
    if name in own_formats():
        raise SwiftError(
            f"--agent_template {name} is what chat templates write that know tools, and this one does not",
            fix=f"give such a template with --chat_template FILE.jinja, or use one of: {', '.join(text_formats())}",
        )
    return name


@dataclass(frozen=True)
class AgentFormat:
    """One format.

    Attributes:
        name: its name.
        system: Jinja text of the system message; it takes `system`, `tools` (function objects) and `names`.
        call: literal text around calls.
        result: literal text around results.
        stop: texts at which generation stops.
        glue: what stands between content and the first call.
    """

    name: str
    system: str
    call: dict[str, Any]
    result: dict[str, str]
    stop: tuple[str, ...]
    glue: str

    @classmethod
    def load(cls, name: str) -> AgentFormat:
        """The format of a name out of `text_formats()`."""
        values = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        return cls(name, **{**values, "stop": tuple(values["stop"])})

    @cached_property
    def calls(self) -> Calls:
        """The format of calls, for the parser."""
        call = self.call
        whole = "object" in call
        body = ObjectBody(**call["object"]) if whole else NamedBody(call["middle"], JsonArguments())
        first = {START: call["open"], CONTENT: self.glue + call["open"]}
        return Calls(first, self._between, call["close"], body)

    @property
    def _between(self) -> str:
        return self.call["between"] + ("" if "object" in self.call else self.call["open"])

    def rewrite(self, messages: Sequence[Any], tools: Sequence[Any] | None) -> list[Any]:
        """Messages without tools, calls and results: all of it is text.

        Results become the user's, so that no loss falls on them; several in a row become one turn.
        """
        out: list[Any] = []
        results: list[str] = []
        for message in [*messages, None]:
            if message is not None and message.get("role") in ("tool", "function", "ipython"):
                results.append(text_of(message))
                continue
            if results:
                between = self.result["between"]
                text = self.result["open"] + between.join(results) + self.result["close"]
                out.append({"role": "user", "content": text})
                results = []
            if message is not None:
                out.append(self._with_calls(message) if message.get("tool_calls") else message)
        return self._with_system(out, tools) if tools else out

    def _with_system(self, messages: list[Any], tools: Sequence[Any]) -> list[Any]:
        has_system = bool(messages) and messages[0].get("role") in ("system", "developer")
        system = text_of(messages[0]) if has_system else ""
        functions = [tool.get("function", tool) for tool in tools]
        names = ",".join(function["name"] for function in functions)
        text = self._render(system=system, tools=functions, names=names)
        head = {**messages[0], "content": text} if has_system else {"role": "system", "content": text}
        return [head, *messages[has_system:]]

    @cached_property
    def _render(self) -> Any:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        return environment.from_string(self.system).render

    def _with_calls(self, message: Any) -> Any:
        call, texts = self.call, []
        for each in message["tool_calls"]:
            function = each.get("function", each)
            arguments = function.get("arguments") or {}
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments, ensure_ascii=False)
            if "object" in call:
                keys = call["object"]
                name = json.dumps(function["name"], ensure_ascii=False)
                texts.append(f'{{"{keys["name"]}": {name}, "{keys["arguments"]}": {arguments}}}')
            else:
                texts.append(function["name"] + call["middle"] + arguments)
        written = call["open"] + self._between.join(texts) + call["close"]
        content = text_of(message)
        kept = {key: value for key, value in message.items() if key != "tool_calls"}
        return {**kept, "content": content + self.glue + written if content else written}
