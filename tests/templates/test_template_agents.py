"""Agent formats: tools, calls and results as text for templates that know none, and the way back."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from survey import byte_tokenizer

from swift.config import Decisions
from swift.config.template import TemplateConfig
from swift.engines import InferRequest
from swift.engines.prompts import encode_prompt
from swift.errors import SwiftError
from swift.templates import Template, trained_spans
from swift.templates.agent_formats import own_formats, text_formats
from swift.templates.choose import choose_template
from swift.templates.loading import read_table
from swift.templates.parsing import collect

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks things up.",
            "parameters": {"type": "object", "properties": {"q": {"type": "string"}, "n": {"type": "integer"}}},
        },
    }
    for name in ("search", "get_weather")
]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATION: list[Any] = [
    {"role": "user", "content": "Weather in Paris?"},
    {"role": "assistant", "content": "Thought: two look-ups.", "tool_calls": [call("get_weather", q="Paris"),
                                                                              call("search", q="rain", n=2)]},
    {"role": "tool", "content": "20 degrees"},
    {"role": "tool", "content": "no rain"},
    {"role": "assistant", "content": "Final Answer: warm and dry."},
]  # fmt: skip
CALLS = {
    "one": [call("search", q="a")],
    "two": [call("search", q="a"), call("get_weather", q="b", n=3)],
    "nested": [call("search", q={"a": [1, {"b": None}]}, n=1.5)],
    "hard text": [call("search", q='a "b" {c} it\'s\n\nAction: x\nüber 你好')],
    "empty": [call("search")],
}


def template_with(agent: str | None) -> Template:
    return Template(byte_tokenizer(read_table("chatml")), agent_template=agent)


@pytest.mark.parametrize("agent", text_formats())
def test_results_are_not_trained_and_calls_are(agent: str) -> None:
    template = template_with(agent)
    (sample,) = template.encode({"messages": CONVERSATION, "tools": TOOLS})
    spans = trained_spans(sample, template.tokenizer)
    trained = [text for text, is_trained in spans if is_trained]
    whole = "".join(text for text, _ in spans)
    assert len(trained) == 2 and trained[1].startswith("Final Answer: warm and dry.")
    assert trained[0].startswith("Thought: two look-ups.\n") and '{"q": "rain", "n": 2}' in trained[0]
    assert not any("20 degrees" in text or "no rain" in text for text in trained)
    assert "20 degrees" in whole and "no rain" in whole
    assert "Looks things up." in whole and '{"q": {"type": "string"}' in whole


@pytest.mark.parametrize("content", ["", "Thought: first this.\n\nThen that."])
@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("agent", text_formats())
def test_round_trip_whole_and_in_pieces(agent: str, calls: str, content: str) -> None:
    template = template_with(agent)
    message = {"role": "assistant", "content": content, "tool_calls": CALLS[calls]}
    messages, tools = template.prepared([CONVERSATION[0], message], TOOLS)
    prompt, text = template.served_turn(messages, tools)
    parsed = template.parse(text, tools=TOOLS, prompt=prompt)
    assert parsed["content"] == content
    assert [each["function"] for each in parsed["tool_calls"]] == [each["function"] for each in CALLS[calls]]
    parser, rng, at, pieces = template.parser(tools=TOOLS, prompt=prompt), random.Random(1), 0, []
    while at < len(text):
        step = rng.randint(1, 5)
        pieces += parser.feed(text[at : at + step])
        at += step
    assert collect([*pieces, *parser.finish()]) == parsed


@pytest.mark.parametrize("agent", text_formats())
def test_what_is_trained_is_what_is_served(agent: str) -> None:
    template = template_with(agent)
    (sample,) = template.encode({"messages": CONVERSATION, "tools": TOOLS})
    for turns in (1, 4):
        prompt = template.prompt(CONVERSATION[:turns], TOOLS)
        assert sample.input_ids[: len(prompt)].tolist() == prompt
    again = Template.from_dict(template.tokenizer, template.to_dict())
    assert again.prompt(CONVERSATION[:4], TOOLS) == template.prompt(CONVERSATION[:4], TOOLS)


def test_generation_stops_where_a_result_would_follow() -> None:
    assert "Observation:" in template_with("react_en").stop_strings
    assert "✿RESULT✿" in template_with("qwen_zh").stop_strings
    assert "Observation:" not in template_with(None).stop_strings


def test_names_of_formats_that_templates_write_themselves() -> None:
    qwen = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<call>" \
        "{{ c.function.name }}{{ c.function.arguments | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}" \
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"  # fmt: skip
    decisions = Decisions()
    for name in (*own_formats(), "hermes"):
        assert choose_template(byte_tokenizer(qwen), TemplateConfig(agent_template=name), decisions).agent is None
    assert "not needed" in "\n".join(decisions.table())
    chosen = choose_template(byte_tokenizer(qwen), TemplateConfig(agent_template="react_en"), decisions)
    assert chosen.agent is not None
    bare = byte_tokenizer(read_table("chatml"))
    with pytest.raises(SwiftError, match="this one does not"):
        choose_template(bare, TemplateConfig(agent_template="llama3"), decisions)
    with pytest.raises(SwiftError, match="no known format"):
        choose_template(bare, TemplateConfig(agent_template="nonsense"), decisions)


@pytest.mark.parametrize("form", [json.dumps(TOOLS), [json.dumps(tool) for tool in TOOLS],
                                  [tool["function"] for tool in TOOLS]], ids=["text", "texts", "bare"])  # fmt: skip
def test_tools_in_any_form_are_the_same(form: Any) -> None:
    template = template_with("hermes")
    assert template.prompt(CONVERSATION[:1], form) == template.prompt(CONVERSATION[:1], TOOLS)


def test_tools_that_are_none_are_an_error() -> None:
    with pytest.raises(SwiftError, match="names no function"):
        template_with(None).encode({"messages": CONVERSATION[:1], "tools": [{"x": 1}]})
    with pytest.raises(SwiftError, match="no JSON"):
        template_with(None).encode({"messages": CONVERSATION[:1], "tools": "search"})  # type: ignore[typeddict-item]


def test_tools_that_a_template_drops_are_noted_and_refused_by_engines() -> None:
    bare = template_with(None)
    bare.encode({"messages": [CONVERSATION[0], CONVERSATION[4]], "tools": TOOLS})
    assert bare.notes["conversations whose tools the template drops"] == 1
    with pytest.raises(SwiftError, match="drops the tools of the request"):
        encode_prompt(bare, InferRequest(CONVERSATION[:1], TOOLS), None)
    assert encode_prompt(template_with("hermes"), InferRequest(CONVERSATION[:1], TOOLS), None)
