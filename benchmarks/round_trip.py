"""Whether answers come back: `python benchmarks/round_trip.py FOLDER [PAGE.md]`.

For each template of a folder, messages of several kinds are rendered as a server would have the model generate them,
and parsed; what comes back is compared with the message, as far as the template writes it.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

from survey import VARIABLES, byte_tokenizer, put_section

from swift.errors import SwiftError
from swift.rows import Message
from swift.templates import messages as checks
from swift.templates.parsing import collect
from swift.templates.provenance import origin_of
from swift.templates.template import Template


def _tool(name: str, **properties: str) -> dict[str, Any]:
    values = {key: {"type": kind, "description": "A value."} for key, kind in properties.items()}
    parameters = {"type": "object", "properties": values, "required": []}
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}}


TOOLS = [
    _tool("get_weather", city="string", days="integer", exact="boolean", ratio="number", where="object", names="array"),
    _tool("find", text="string"),
]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "text": {"city": "Paris"},
    "text that looks like a number": {"city": "12"},
    "numbers": {"city": "x", "days": 5, "exact": True, "ratio": 0.5},
    "nested": {"where": {"lat": 1, "name": "a b"}, "names": ["a", "b"]},
    "unicode": {"city": "Zürich 你好 🌍"},
    "quotes": {"city": 'the "big" one, it\'s'},
    "braces": {"city": "a } b { c ] d [ <e> & </f>"},
    "lines": {"city": "first\n\n  second\nthird"},
    "empty": {},
}
MESSAGES = ("content", "reasoning", "call", "two calls", "content and call", "reasoning and call")
CASES = (*MESSAGES, *ARGUMENTS)


def message_for(case: str) -> dict[str, Any]:
    """The assistant's turn of a case."""

    def call(index: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"id": f"abcdef12{index}", "type": "function", "function": {"name": name, "arguments": arguments}}

    calls = [call(0, "get_weather", ARGUMENTS.get(case, ARGUMENTS["text"])), call(1, "find", {"text": "b"})]
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    if "content" in case or case == "reasoning":
        message["content"] = "Let me see:\n\nit is fine."
    if "reasoning" in case:
        message["reasoning_content"] = "First this.\n\nThen that."
    if case not in ("content", "reasoning"):
        message["tool_calls"] = calls if case == "two calls" else calls[:1]
    return message


def generated(template: Template, message: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """The prompt, what is generated behind it, and the message as far as the template writes it.

    Raises:
        SwiftError: the template takes no such message.
    """
    conversation = [{"role": "user", "content": "Weather?"}, message]
    prompt, text = template.served_turn(conversation, TOOLS)
    written = template.traced(checks.served(conversation), TOOLS).origins
    expected = {key: value for key, value in message.items() if value}
    thinking = template.traced(checks.served(conversation), TOOLS, enable_thinking=True, thinking=True).origins
    for field in ("content", "reasoning_content"):
        if origin_of(1, field) not in written + thinking and message.get(field, "") not in text:
            expected.pop(field, None)
    return prompt, text, expected


def functions_of(message: Any) -> dict[str, Any]:
    """A message to compare: without ids, which most formats do not have, and without empty fields."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return {key: value for key, value in {**message, "tool_calls": calls}.items() if value}


def in_pieces(template: Template, text: str, prompt: str, size: int, seed: str) -> Message:
    """The message from a text fed in pieces of up to `size` characters."""
    parser, rng, at = template.parser(tools=TOOLS, prompt=prompt), random.Random(seed), 0
    pieces = []
    while at < len(text):
        step = rng.randint(1, size)
        pieces += parser.feed(text[at : at + step])
        at += step
    return collect([*pieces, *parser.finish()])


def outcome(template: Template, case: str) -> str:
    """What becomes of one case: yes, no, or what the template does to it."""
    message = message_for(case)
    try:
        prompt, text, expected = generated(template, message)
    except SwiftError as error:
        return "calls dropped" if "drops" in error.what else "refused"
    parsed = template.parse(text, tools=TOOLS, prompt=prompt)
    if functions_of(parsed) != functions_of(expected):
        return "written otherwise"
    if in_pieces(template, text, prompt, 1, case) != parsed:
        return "not in pieces"
    lost = [name for name in ("content", "reasoning_content") if message.get(name) and name not in expected]
    return f"yes, {lost[0].partition('_')[0]} dropped" if lost else "yes"


def page(folder: Path) -> str:
    """The table of templates and cases."""
    heads = ["one call", "two calls", "content, call", "reasoning", "reasoning, call", "values"]
    lines = [f"| template | calls | {' | '.join(heads)} |", "| --- " * (len(heads) + 2) + "|"]
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        variables = VARIABLES.get(path.stem, {})
        template = Template(byte_tokenizer(source), source=path.stem, chat_template_kwargs=variables)
        cells = [
            outcome(template, case)
            for case in ("call", "two calls", "content and call", "reasoning", "reasoning and call")
        ]
        values = [outcome(template, case) for case in ARGUMENTS]
        known = sum(value.startswith("yes") for value in values)
        cells.append(f"{known} of {len(values)}" if known else values[0])
        lines.append(f"| {path.stem} | {_kind(template)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _kind(template: Template) -> str:
    grammar = template.grammar
    if grammar.calls is None:
        return "none"
    body = grammar.calls.body
    encoding = type(getattr(body, "arguments", "")).__name__.removesuffix("Arguments").lower()
    return ("object" if encoding == "str" else encoding) + ("" if grammar.origin == "template" else ", from the table")


def main(words: list[str]) -> None:
    """Print the table, or put it into a page."""
    if not 1 <= len(words) <= 2 or not Path(words[0]).is_dir():
        sys.exit("usage: python benchmarks/round_trip.py FOLDER [PAGE.md]")
    table = page(Path(words[0]))
    if len(words) == 1:
        print(table)
    else:
        put_section(Path(words[1]), "round trips", table)


if __name__ == "__main__":
    main(sys.argv[1:])
