"""The way back over the whole collection: what a server would have generated for a message is parsed as the message."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from round_trip import CASES, TOOLS, functions_of, generated, in_pieces, message_for
from survey import byte_tokenizer

from swift.errors import SwiftError
from swift.templates import Template
from swift.templates.parsing import Piece
from tests.templates.cases import TEMPLATES

WRITTEN_OTHERWISE = {
    ("openai-gpt-oss-120b", "content and call"): "content before a call is written as reasoning",
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "content and call"): "content goes behind the end of the turn",
}


@pytest.fixture(scope="module", params=TEMPLATES, ids=lambda path: path.stem)
def template(request: pytest.FixtureRequest) -> Template:
    source = request.param.read_text(encoding="utf-8")
    return Template(byte_tokenizer(source), source=request.param.stem)


def case_of(template: Template, case: str) -> tuple[str, str, dict[str, Any]]:
    try:
        return generated(template, message_for(case))
    except SwiftError as error:
        pytest.skip(f"the template takes no such message: {error.what}")


@pytest.mark.parametrize("case", CASES)
def test_what_is_generated_for_a_message_is_parsed_as_the_message(template: Template, case: str) -> None:
    if why := WRITTEN_OTHERWISE.get((template.source, case)):
        pytest.skip(why)
    prompt, text, expected = case_of(template, case)
    assert functions_of(template.parse(text, tools=TOOLS, prompt=prompt)) == functions_of(expected), repr(text)


@pytest.mark.parametrize("case", CASES)
def test_pieces_of_any_size_give_the_same(template: Template, case: str) -> None:
    prompt, text, _ = case_of(template, case)
    whole = template.parse(text, tools=TOOLS, prompt=prompt)
    for size in (1, 2, 7, 40):
        assert in_pieces(template, text, prompt, size, case) == whole


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
    path = next((path for path in TEMPLATES if path.stem == name), None)
    if path is None:
        pytest.skip("no shared folder with this chat template here")
    return Template(byte_tokenizer(path.read_text(encoding="utf-8")), source=name)


@pytest.mark.parametrize("name", BY_HAND)
def test_formats_that_no_probe_shows(name: str) -> None:
    message = template_named(name).parse(BY_HAND[name], tools=TOOLS)
    assert functions_of(message) == {"role": "assistant", "tool_calls": [{"name": "find", "arguments": {"text": "b"}}]}


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "Qwen3-Coder", "mistralai-Mistral-Nemo-Instruct-2407", "GLM-4.6",
                                  "google-gemma-4-31B-it", "meta-llama-Llama-3.1-8B-Instruct"])  # fmt: skip
def test_malformed_calls_stay_in_the_content(name: str) -> None:
    template = template_named(name)
    prompt, text, _ = case_of(template, "text")
    text = next(text.removesuffix(stop) for stop in template.stop_texts if text.endswith(stop))
    for broken in (text[: len(text) // 2], text.replace("get_weather", "", 1), text.replace("city", "", 1)[:-30]):
        message = template.parse(f"So.{broken}", tools=TOOLS, prompt=prompt)
        assert "tool_calls" not in message and "".join(message["content"].split()) == "".join(f"So.{broken}".split())


def test_without_a_schema_untyped_formats_go_by_the_look() -> None:
    template = template_named("Qwen3-Coder")
    prompt, text, _ = case_of(template, "text that looks like a number")
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


FRAGMENTS = ["<think>", "</think>", "\n", "\n\n", " ", "Hi", "<tool_call>", "</tool_call>", "<tool", '{"name": "find"',
             ', "arguments": ', '{"text": "b"}', "}", "<function=find>", "</function>", "<parameter=text>",
             "</parameter>", "<|im_end|>", "[TOOL_CALLS]", "[", "]", "find", "(", ")", "{", "<arg_key>"]  # fmt: skip


@cache
def fuzzed(name: str) -> Template:
    return template_named(name)


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "Qwen3-Coder", "mistralai-Mistral-Nemo-Instruct-2407", "GLM-4.6",
                                  "Qwen-QwQ-32B", "LFM2.5-8B-A1B", "meta-llama-Llama-3.1-8B-Instruct"])  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(st.sampled_from(FRAGMENTS), max_size=14), seed=st.text("ab", max_size=4), opened=st.booleans())
def test_any_text_in_any_pieces_is_the_same_and_nothing_is_lost(name, parts, seed, opened) -> None:
    template, text = fuzzed(name), "".join(parts)
    prompt = template.grammar.prompt_open if opened else "no"
    whole = template.parse(text, tools=TOOLS, prompt=prompt)
    for size in (1, 3, 9):
        assert in_pieces(template, text, prompt, size, seed) == whole
    if "tool_calls" not in whole:
        kept = "".join(f"{whole.get('reasoning_content', '')}{whole['content']}".split())
        dropped = "".join(text.split()).replace("<think>", "").replace("</think>", "").replace("<|im_end|>", "")
        assert kept.replace("<think>", "").replace("</think>", "").replace("<|im_end|>", "") == dropped


@pytest.mark.parametrize("name", ["Qwen3-Coder", "GLM-4.6", "Mistral-Small-3.2-24B-Instruct-2506", "Kimi-K3",
                                  "meta-llama-Llama-3.1-8B-Instruct", "MiniMax-M3", "LFM2.5-8B-A1B"])  # fmt: skip
def test_calls_in_the_text_of_a_row_are_calls(name: str) -> None:
    """A row whose text holds what the model generates trains the same tokens as a row with fields."""
    template = template_named(name)
    question = {"role": "user", "content": "Weather?"}
    message = message_for("call")
    _, text, _ = case_of(template, "call")
    stop = next(stop for stop in template.stop_texts if text.endswith(stop))
    text = text.removesuffix(stop).replace("<think></think>", "").replace("</mm:think>", "").strip()
    text = text.removeprefix("<|close|>think<|sep|><|open|>response<|sep|>")
    (fields,) = template.encode({"messages": [question, message], "tools": TOOLS})  # type: ignore[typeddict-item]
    written = {"role": "assistant", "content": text}
    (inline,) = template.encode({"messages": [question, written], "tools": TOOLS})  # type: ignore[typeddict-item]
    assert template.notes["tool calls or reasoning in an assistant's text read as fields"] == 1
    if "CALL_ID" not in text:
        assert inline.input_ids.tolist() == fields.input_ids.tolist()
        assert inline.labels.tolist() == fields.labels.tolist()


def test_a_call_with_text_behind_it_stays_text() -> None:
    template = template_named("Qwen-Qwen2.5-7B-Instruct")
    text = 'Write\n<tool_call>\n{"name": "find", "arguments": {}}\n</tool_call>\nand nothing else.'
    row: Any = {"messages": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": text}]}
    (sample,) = template.encode(row)
    assert text in template.tokenizer.decode(sample.input_ids)
    note = "tool calls or reasoning in an assistant's text left as text: the template would write them otherwise"
    assert template.notes[note] == 1
