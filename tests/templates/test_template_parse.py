"""The way back over the whole collection: what a server would have generated for a message is parsed as the message."""

from __future__ import annotations

import random
from typing import Any

import pytest

from swift.errors import SwiftError
from swift.templates import Template
from swift.templates import messages as checks
from swift.templates.parsing import Piece, collect
from swift.templates.provenance import origin_of
from swift.templates.survey import byte_tokenizer
from tests.templates.cases import TEMPLATES


def tool(name: str, **properties: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {key: {"type": kind, "description": "d"} for key, kind in
                                                   properties.items()}, "required": []}  # fmt: skip
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}


TOOLS = [tool("get_weather", city="string", days="integer", exact="boolean", ratio="number", where="object",
              names="array"), tool("find", text="string")]  # fmt: skip
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
WRITTEN_OTHERWISE = {
    ("openai-gpt-oss-120b", "content and call"): "content before a call is written as reasoning",
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "content and call"): "content goes behind the end of the turn",
}
CASES = ["content", "reasoning", "call", "two calls", "content and call", "reasoning and call", *ARGUMENTS]


def call(index: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"abcdef12{index}", "type": "function", "function": {"name": name, "arguments": arguments}}


def message_for(case: str) -> dict[str, Any]:
    one = call(0, "get_weather", ARGUMENTS.get(case, ARGUMENTS["text"]))
    return {
        "role": "assistant",
        "content": "Let me see:\n\nit is fine." if "content" in case or case == "reasoning" else "",
        **({"reasoning_content": "First this.\n\nThen that."} if "reasoning" in case else {}),
        **({"tool_calls": [one]} if case not in ("content", "reasoning") else {}),
        **({"tool_calls": [one, call(1, "find", {"text": "b"})]} if case == "two calls" else {}),
    }


@pytest.fixture(scope="module", params=TEMPLATES, ids=lambda path: path.stem)
def template(request: pytest.FixtureRequest) -> Template:
    source = request.param.read_text(encoding="utf-8")
    return Template(byte_tokenizer(source), source=request.param.stem)


def generated(template: Template, message: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """The prompt, what is generated behind it, and the message as far as the template writes it."""
    conversation = checks.served([{"role": "user", "content": "Weather?"}, message])
    try:
        turn = template._turns.turn(conversation, TOOLS, 1)
    except SwiftError as error:
        pytest.skip(f"the template takes no such message: {error.what}")
    span = turn.span
    written = turn.text.origins[span.start : span.stop]
    expected = {key: message[key] for key in ("role", "content", "tool_calls", "reasoning_content") if key in message}
    for field, bare in (("content", ""), ("reasoning_content", None)):
        if message.get(field) and origin_of(1, field) not in written:
            expected[field] = bare
    text = str.__getitem__(turn.text, slice(None))
    calls = [c for c in message.get("tool_calls") or () if c["function"]["name"] in text[span.start : span.stop]]
    expected["tool_calls"] = calls or None
    return text[: span.start], text[span.start : span.stop], {k: v for k, v in expected.items() if v is not None}


def plain(message: Any) -> Any:
    """Without ids, which most formats do not have."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return {**message, "tool_calls": calls}


@pytest.mark.parametrize("case", CASES)
def test_what_is_generated_for_a_message_is_parsed_as_the_message(template: Template, case: str) -> None:
    if why := WRITTEN_OTHERWISE.get((template.source, case)):
        pytest.skip(why)
    prompt, text, expected = generated(template, message_for(case))
    assert plain(template.parse(text, tools=TOOLS, prompt=prompt)) == plain(expected), repr(text)


@pytest.mark.parametrize("case", CASES)
def test_pieces_of_any_size_give_the_same(template: Template, case: str) -> None:
    prompt, text, _ = generated(template, message_for(case))
    whole = template.parse(text, tools=TOOLS, prompt=prompt)
    rng = random.Random(case)
    for size in (1, 2, 7, 40):
        parser = template.parser(tools=TOOLS, prompt=prompt)
        pieces, at = [], 0
        while at < len(text):
            step = rng.randint(1, size)
            pieces += parser.feed(text[at : at + step])
            at += step
        assert collect([*pieces, *parser.finish()]) == whole


BY_HAND = {
    "ibm-granite-granite-3.3-2B-Instruct": '<|tool_call|>[{"name": "find", "arguments": {"text": "b"}}]',
    "LFM2-8B-A1B": "<|tool_call_start|>[find(text='b')]<|tool_call_end|>",
    "HuggingFaceTB-SmolLM3-3B": '<tool_call>\n{"name": "find", "arguments": {"text": "b"}}\n</tool_call>',
    "Kimi-K2-Thinking": "<|tool_calls_section_begin|><|tool_call_begin|>functions.find:0<|tool_call_argument_begin|>"
    '{"text": "b"}<|tool_call_end|><|tool_calls_section_end|>',
    "llama-cpp-deepseek-r1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>find\n```json\n"
    '{"text": "b"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "fireworks-ai-llama-3-firefunction-v2": ' functools[{"name": "find", "arguments": {"text": "b"}}]',
    "CohereForAI-c4ai-command-r-plus-tool_use": 'Action: ```json\n[\n    {\n        "tool_name": "find",\n'
    '        "parameters": {\n            "text": "b"\n        }\n    }\n]```',
    "meetkai-functionary-medium-v3.2": 'find\n{"text": "b"}',
    "openai-gpt-oss-120b": '<|channel|>commentary to=functions.find <|constrain|>json<|message|>{"text": "b"}<|call|>',
}
"""What models write whose template drops or refuses calls, or writes them in another way than the model."""


def template_named(name: str) -> Template:
    path = next(path for path in TEMPLATES if path.stem == name)
    return Template(byte_tokenizer(path.read_text(encoding="utf-8")), source=name)


@pytest.mark.parametrize("name", BY_HAND)
def test_formats_that_no_probe_shows(name: str) -> None:
    message = template_named(name).parse(BY_HAND[name], tools=TOOLS)
    assert plain(message)["tool_calls"] == [{"name": "find", "arguments": {"text": "b"}}]
    assert message["content"] == ""


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "Qwen3-Coder", "mistralai-Mistral-Nemo-Instruct-2407", "GLM-4.6",
                                  "google-gemma-4-31B-it", "meta-llama-Llama-3.1-8B-Instruct"])  # fmt: skip
def test_malformed_calls_stay_in_the_content(name: str) -> None:
    template = template_named(name)
    prompt, text, _ = generated(template, message_for("text"))
    text = next(text.removesuffix(stop) for stop in template.stop_texts if text.endswith(stop))
    for broken in (text[: len(text) // 2], text.replace("get_weather", "", 1), text.replace("city", "", 1)[:-30]):
        message = template.parse(f"So.{broken}", tools=TOOLS, prompt=prompt)
        assert "tool_calls" not in message and "".join(message["content"].split()) == "".join(f"So.{broken}".split())


def test_without_a_schema_untyped_formats_go_by_the_look() -> None:
    template = template_named("Qwen3-Coder")
    prompt, text, _ = generated(template, message_for("text that looks like a number"))
    (call,) = template.parse(text, prompt=prompt)["tool_calls"]
    assert call["function"]["arguments"] == {"city": 12}
    (call,) = template.parse(text, prompt=prompt, tools=TOOLS)["tool_calls"]
    assert call["function"]["arguments"] == {"city": "12"}


def test_what_is_certain_is_given_at_once() -> None:
    parser = template_named("Qwen-Qwen3-0.6B").parser()
    assert parser.feed("<think>\nSo") == [Piece("reasoning", "So")]
    assert parser.feed("\n</thi") == []
    assert parser.feed("nk>\n\nHello <tool") == [Piece("content", "Hello ")]
    assert parser.feed("s>") == [Piece("content", "<tools>")]
