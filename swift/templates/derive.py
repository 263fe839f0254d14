"""Reading the format of a model's answers off its chat template.

Short probe conversations with words of their own in every field are rendered as they are served; the text between
the words is the format. What no probe can show (the template drops tool calls, or refuses them) stands in
`table/calls.json`, found by the tags in the template's source.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import regex

from swift.errors import SwiftError
from swift.templates.arguments import (
    HOLE_ID,
    HOLE_NUMBER,
    Arguments,
    JsonArguments,
    PythonArguments,
    TaggedArguments,
    either,
)
from swift.templates.closing import USER
from swift.templates.grammar import (
    CONTENT,
    START,
    THOUGHT,
    Calls,
    Grammar,
    NamedBody,
    ObjectBody,
    shared_head,
    shared_tail,
)
from swift.templates.units import ID, KEYS, NAMES, PLAIN, VALUES, Unit, find_unit, put_holes

REASON, SAID = "zqreason", "zqcontent"
TYPED: dict[str, tuple[str, Any, str]] = {
    "zqnumber": ("integer", 170417, "170417"),
    "zqflag": ("boolean", True, "[Tt]rue"),
    "zqnone": ("null", None, "null|None"),
    "zqlist": ("array", [170417], r"\[.*?\]"),
    "zqmap": ("object", {"a": 1}, r"\{.*?\}"),
}
"""Keys of other types than text: the type, a value, and how that may begin."""


def _probe_tools(types: dict[str, str]) -> list[dict[str, Any]]:
    properties = {key: {"type": kind, "description": "Probe."} for key, kind in types.items()}
    parameters = {"type": "object", "properties": properties, "required": []}
    return [
        {"type": "function", "function": {"name": name, "description": "Probe.", "parameters": parameters}}
        for name in NAMES
    ]


TEXT_TOOLS = _probe_tools(dict.fromkeys(KEYS, "string"))
TOOLS = _probe_tools({**dict.fromkeys(KEYS, "string"), **{key: kind for key, (kind, _, _) in TYPED.items()}})

Served = Callable[[dict[str, Any], Any], tuple[str, str]]
"""From an assistant's message and tools to the prompt that a server sends and the text that the model generates."""


class Probes:
    """The generated texts of probe messages; None where the template refuses one."""

    def __init__(self, served: Served, stops: Sequence[str]) -> None:
        self._served, self._stops = served, sorted(stops, key=len, reverse=True)
        self._known: dict[str, tuple[str, str] | None] = {}
        self._tools = TOOLS
        if self.served(PLAIN) is None:
            self._tools = TEXT_TOOLS

    def _get(self, message: dict[str, Any], tools: Any) -> tuple[str, str] | None:
        key = json.dumps([message, tools])
        if key not in self._known:
            try:
                prompt, text = self._served({"role": "assistant", **message}, tools)
            except SwiftError:
                self._known[key] = None
                return None
            text = next((text[: -len(stop)] for stop in self._stops if text.endswith(stop)), text)
            self._known[key] = prompt, text
        return self._known[key]

    def message(self, content: str = "", reasoning: str = "") -> tuple[str, str] | None:
        """The prompt and the text of a message without calls."""
        turn = {"content": content} | ({"reasoning_content": reasoning} if reasoning else {})
        return self._get(turn, None) or self._get(turn, self._tools)

    def served(self, *arguments: Any, content: str = "", reasoning: str = "") -> tuple[str, str] | None:
        """The prompt and the text of a message with a call for each of the arguments, if it writes all of it."""
        made = [
            {"id": ID[:-1] + str(at), "type": "function", "function": {"name": NAMES[at], "arguments": value}}
            for at, value in enumerate(arguments)
        ]
        turn = {"content": content, "tool_calls": made} | ({"reasoning_content": reasoning} if reasoning else {})
        found = self._get(turn, self._tools)
        words = (content, reasoning, *NAMES[: len(made)])
        return found if found is not None and all(word in found[1] for word in words) else None

    def calls(self, *arguments: Any, content: str = "", reasoning: str = "") -> str | None:
        """The text alone."""
        found = self.served(*arguments, content=content, reasoning=reasoning)
        return None if found is None else found[1]


def derive(served: Served, source: str, stops: Sequence[str], default_prompt: str) -> Grammar:
    """The format that a template gives.

    Args:
        served: renders a turn.
        source: the template's source, for what stands in the table.
        stops: what ends an answer.
        default_prompt: a prompt as a server sends it when nothing is said about reasoning.
    """
    probes = Probes(served, stops)
    grammar = _with_reasoning(probes, Grammar(stops=tuple(stops)))
    grammar = _with_content(probes, grammar)
    calls = derive_calls(probes, grammar)
    origin = "template"
    if calls is None:
        named = next(((name, entry) for name, entry in table("calls").items() if entry["sign"] in source), None)
        if named:
            origin, calls = named[0], _from_table(named[1])
    grammar = replace(grammar, calls=calls, origin=origin, opened=grammar.opens(default_prompt))
    for spelling in table("spellings"):
        if spelling["sign"] in source:
            grammar = _respelled(grammar, spelling["written"], spelling["also"])
    return grammar


# Reasoning and content


def _with_reasoning(probes: Probes, grammar: Grammar) -> Grammar:
    served = probes.message(SAID, REASON)
    standard = replace(grammar, think_open="<think>\n", think_lead="\n", think_close="\n</think>\n\n")
    called = probes.calls(PLAIN, reasoning=REASON)
    between = []
    if served is not None and REASON in served[1] and SAID in served[1].partition(REASON)[2]:
        between.append(served[1].partition(REASON)[2].partition(SAID)[0])
    if called is not None and (unit := find_unit(called)) and REASON in called[: unit.start]:
        between.append(called[called.index(REASON) + len(REASON) : unit.start])
        if len(between) == 1:
            # Only turns with calls show reasoning: what opens the call where nothing stands before it is not its end.
            served = probes.served(PLAIN, reasoning=REASON)
            bare = probes.calls(PLAIN)
            alone = find_unit(bare)
            between[0] = between[0].removesuffix(bare[: alone.start] if bare and alone else "")
    if not between or served is None:
        return standard
    prompt, text = served
    start = text.index(REASON)
    close = shared_head(between)
    if not close.strip():
        close = between[0]
    before = text[:start]
    if before.strip():
        return replace(grammar, think_open=before, think_lead=before[len(before.rstrip()) :], think_close=close)
    header = prompt[len(prompt.rstrip()) :]
    plain = probes.message(SAID)
    return replace(
        grammar,
        prompt_open=_prompt_tail(prompt.rstrip(), plain[0].rstrip() if plain else ""),
        think_lead=before if before or not header else "",
        think_close=close,
    )


def _prompt_tail(opened: str, closed: str) -> str:
    """The end of a prompt that opens reasoning: its last tag, and as much before it as tells it from other ends."""
    behind = opened.rpartition(USER)[2]
    size = len((regex.findall(r"<[^<>]*>|\[[^\[\]]*\]|[^<>\[\]]+", behind) or [""])[-1])
    while size < len(behind) and (
        behind.count(behind[-size:]) > 1 or closed.endswith(behind[-size:]) != (closed == opened)
    ):
        size += 1
    return behind[-size:]


def _behind_reasoning(text: str, grammar: Grammar) -> str:
    """The literal without a reasoning block that it closes by itself."""
    close = grammar.think_close.strip()
    return text[text.rindex(close) + len(close) :].lstrip() if close and close in text else text


def _with_content(probes: Probes, grammar: Grammar) -> Grammar:
    opening: dict[str, str] = {}
    close = ""
    for state, served in ((THOUGHT, probes.message(SAID, REASON)), (START, probes.message(SAID))):
        if served is None or SAID not in served[1]:
            continue
        text = served[1]
        start = text.index(SAID)
        close = text[start + len(SAID) :]
        literal = text[:start]
        if state == THOUGHT and REASON in literal:
            at = literal.index(REASON) + len(REASON)
            opening[state] = literal[at + len(grammar.think_close) :]
        elif state == START:
            opening[state] = _behind_reasoning(literal, grammar)
    return replace(grammar, content_open=opening, content_close=close)


# Calls


def derive_calls(probes: Probes, grammar: Grammar) -> Calls | None:
    """How calls are written; None where no probe shows it."""
    texts = {
        START: probes.calls(PLAIN),
        THOUGHT: probes.calls(PLAIN, reasoning=REASON),
        CONTENT: probes.calls(PLAIN, content=SAID),
    }
    first: dict[str, str] = {}
    for state, text in texts.items():
        unit = find_unit(text)
        if text is None or unit is None:
            continue
        literal = text[: unit.start]
        if state == START:
            first[state] = _behind_reasoning(literal, grammar)
        elif state == THOUGHT:
            at = literal.index(REASON) + len(REASON) if REASON in literal else -1
            if at >= 0:
                first[state] = literal[at + len(grammar.think_close) :]
        elif SAID in literal:
            first[state] = literal[literal.index(SAID) + len(SAID) :]
    base = texts[START] or texts[CONTENT]
    unit = find_unit(base)
    if base is None or unit is None or not first:
        return None
    body = _refined(probes, base, unit)
    close, between = base[unit.stop :], None
    pair = probes.calls(PLAIN, PLAIN) or probes.calls(PLAIN, PLAIN, content=SAID)
    if pair is not None and (left := find_unit(pair)) and (right := find_unit(pair, NAMES[1], left.stop)):
        between, close = pair[left.stop : right.start], pair[right.stop :]
    close = close.replace(SAID, "")
    if isinstance(body, ObjectBody):
        body = replace(body, named=bool(first.get(START, "x").strip()))
    holes = put_holes
    if not shared_tail(list(first.values())) and between and CONTENT not in first:
        # Nothing opens a call behind a prompt; behind content it is what opens the next one.
        first[CONTENT] = between[len(shared_head([between, close])) :]
    return Calls(
        {state: holes(text) for state, text in first.items()},
        None if between is None else holes(between),
        holes(close),
        body,
    )


def _refined(probes: Probes, text: str, unit: Unit) -> ObjectBody | NamedBody:
    """The body with what only other values show: types, quotes and escapes."""
    body = unit.body
    if not isinstance(body, NamedBody):
        return body
    arguments: Arguments = body.arguments
    if isinstance(arguments, PythonArguments):
        quoted = probes.calls({KEYS[0]: "it's " + VALUES[0]})
        arguments = PythonArguments(quoted is not None and "'it's " + VALUES[0] in quoted)
    elif isinstance(arguments, TaggedArguments):
        arguments = _typed(probes, arguments)
    return replace(body, arguments=arguments)


def _typed(probes: Probes, arguments: TaggedArguments) -> TaggedArguments:
    """Where literals tell text from other values, types are not lost."""
    string = arguments.values[0][0]
    others: dict[str, None] = {}
    for key, (_, value, look) in TYPED.items():
        text = probes.calls({key: value})
        close = regex.escape(arguments.close.strip())
        found = text and regex.search(rf"{key}(.{{1,60}}?)(?:{look})\s*{close}", text, regex.DOTALL)
        if found:
            others[found[1]] = None
    markup = probes.calls({KEYS[0]: "zq<b>&zq"}) or ""
    apart = bool(others) and string not in others
    values = ((string, "text" if apart else "either"), *((value, "json") for value in others if value != string))
    return replace(
        arguments, values=values, cdata="<![CDATA[zq<b>&zq" in markup, escaped="zq&lt;b&gt;&amp;zq" in markup
    )


# What no probe shows


@cache
def table(name: str) -> Any:
    """`calls`: formats by name, each with the sign in a template's source that tells it. `spellings`: literal text
    that models write in another way than their template does.
    """
    return json.loads((Path(__file__).parent / "table" / f"{name}.json").read_text(encoding="utf-8"))


def _respelled(grammar: Grammar, written: str, also: str) -> Grammar:
    """The format, where a literal may be written in another way too."""

    def put(literal: str) -> str:
        return literal.replace(written, either(written, also))

    calls = grammar.calls
    if calls is not None:
        body = calls.body
        if isinstance(body, NamedBody):
            body = replace(body, between=put(body.between))
        calls = replace(calls, first={state: put(text) for state, text in calls.first.items()}, body=body)
    opening = {state: put(text) for state, text in grammar.content_open.items()}
    return replace(grammar, calls=calls, content_open=opening)


def _from_table(entry: dict[str, Any]) -> Calls:
    """The calls of an entry: literal text with {id} and {number} for what varies."""

    def literal(text: str) -> str:
        return text.replace("{id}", HOLE_ID).replace("{number}", HOLE_NUMBER)

    body: ObjectBody | NamedBody
    if "name" in entry:
        body = ObjectBody(entry["name"], entry["arguments"])
    elif entry["arguments"] == "python":
        body = NamedBody("(", PythonArguments(False))
    else:
        body = NamedBody(literal(entry["middle"]), JsonArguments())
    between = entry.get("between")
    given = entry["open"] if isinstance(entry["open"], dict) else {START: entry["open"]}
    opening = {state: literal(text) for state, text in given.items()}
    return Calls(opening, None if between is None else literal(between), literal(entry["close"]), body)
