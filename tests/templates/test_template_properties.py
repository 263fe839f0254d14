"""Random conversations under every template of the collection: what is trained is what is served, whatever they say."""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st
from survey import VARIABLES

from swift.engines.parity import check_parity
from swift.errors import SwiftError
from swift.rows import IGNORE, THINKING, EncodedRow, Source
from swift.templates import Template, trained_spans
from tests.templates.cases import TEMPLATES, TOOLS, say, tokenizer_for
from tests.templates.test_template_collection import reference

ALL = bool(os.environ.get("SWIFT_TEST_ALL"))
EXAMPLES = int(os.environ.get("SWIFT_EXAMPLES", "100")) if ALL else 3
VOCABULARIES = ("gpt-2", "llama-spm", "qwen2") if ALL else ("gpt-2",)
PIECES = [
    "Hello", "same", "same", " ", "  ", "\n", "\n\n", "\t", "\r\n", "a", "I am", "😀", "👩‍👩‍👧", "你好", "é", "e\u0301",
    "\u200b", "\ufffd", "\xa0", "<|im_end|>", "<|im_start|>", "</s>", "<s>", "<|eot_id|>", "[INST]", "<|end|>",
    "<think>", "</think>", "<tool_call>", "{{ x }}", "{% if y %}", "\\n", '"', "'", "{}", "<br>", "&lt;", "assistant",
]  # fmt: skip
LEAST = 0.25
"""Share of the conversations that a template must take, and of their turns that must be held against renders."""

TAGS = re.compile(r"</?think>|<tool_call>")
KNOWN = "drops the tool calls|refuses|what stops generation is uncertain|what the model has to generate is uncertain"
EMPTY_BLOCK = re.compile(r"\s*<([^<>/]+)>\s*</\1>\s*")

text = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=5).map("".join)
values = st.dictionaries(st.sampled_from(["city", "x"]), text | st.integers(-5, 5) | st.booleans(), min_size=1)


@st.composite
def conversations(draw: Any, tools_too: bool = False) -> tuple[list[dict[str, Any]], Any]:
    """A conversation, and its tools where it calls any; `tools_too`: there are always tools."""
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(text)})
    tools = draw(st.sampled_from([False, False, True])) or tools_too
    for turn in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(text)})
        if tools and draw(st.booleans()):
            calls = [
                {"id": f"abcdef{turn}{k}0", "type": "function",
                 "function": {"name": "get_weather", "arguments": draw(values)}}
                for k in range(draw(st.integers(1, 2)))
            ]  # fmt: skip
            messages.append({"role": "assistant", "content": draw(st.just("") | text), "tool_calls": calls})
            for call in calls:
                result = {"role": "tool", "name": "get_weather", "tool_call_id": call["id"], "content": draw(text)}
                messages.append(result)
        answer = {"role": "assistant", "content": draw(text)}
        if draw(st.booleans()) and draw(st.booleans()):
            answer["reasoning_content"] = draw(text)
        messages.append(answer)
    return messages, TOOLS if tools else None


def render(template: Template, messages: Any, tools: Any, **options: Any) -> str | None:
    """What transformers renders, with the switches that the template is set to."""
    return reference(template, messages, tools, **(template.chat_template_kwargs | options))


def as_said(message: dict[str, Any]) -> str:
    """The content of an answer, without what templates may do to its edges."""
    return message["content"].strip()


def check_turn(template: Template, messages: Any, tools: Any, sample: EncodedRow, number: int, trained: str) -> bool:
    """One trained turn against renders that transformers makes; whether there were any to hold it against."""
    assert sample.rendered is not None
    turn = sample.rendered.turns[number]
    assert sample.labels[turn.token] != IGNORE and sample.labels[turn.token - 1] == IGNORE
    history, message = messages[: turn.message], messages[turn.message]
    if any(TAGS.search(m["content"]) for m in messages if m["role"] == "assistant"):
        return False
    prompt = render(template, history, tools, add_generation_prompt=True, **turn.switches)
    if prompt is None:
        return False
    cut = int(sample.rendered.stops[turn.token - 1]) if turn.token else 0
    assert sample.rendered.text[:cut] == prompt
    assert as_said(message) in trained or message.get("tool_calls")
    both = render(template, [*history, message], tools, **turn.switches)
    seam = next((token for token in template._encoder.control if prompt.endswith(token)), None)
    # What opens the turn stands in the prompt already.
    assert seam is None or not trained.startswith(seam) or seam + seam in (both or "")
    if both is None or not both.startswith(prompt):
        return True
    rest = both[len(prompt) :]
    block = EMPTY_BLOCK.match(rest)
    short = rest[block.end() :] if block else rest
    assert any(whole.startswith(trained) or trained.startswith(whole.rstrip()) for whole in (rest, short))
    return True


def without_control(template: Template, value: Any) -> Any:
    """The same row with letters where contents spell out a control token."""
    if isinstance(value, str):
        return template._encoder.pattern.sub("x", value)
    if isinstance(value, dict):
        return {key: without_control(template, item) for key, item in value.items()}
    return [without_control(template, item) for item in value] if isinstance(value, list) else value


def control_ids(template: Template, row: Any) -> list[int]:
    """The control tokens of all samples of a row, in order."""
    control = set(template.tokenizer.convert_tokens_to_ids(list(template._encoder.control)))
    return [token for sample in template.encode(row) for token in sample.input_ids.tolist() if token in control]


def check_control_text(template: Template, row: Any) -> None:
    """Only the template writes control tokens: contents that spell them out give none."""
    harmless = without_control(template, row)
    if harmless == row or TAGS.search(repr(row)):
        return
    try:
        expected = control_ids(template, harmless)
    except SwiftError:
        return
    # Rows that split elsewhere, as where a token would merge with a prompt, repeat other parts.
    if len(template.encode(row)) == len(template.encode(harmless)):
        assert control_ids(template, row) == expected


def check_row(template: Template, messages: Any, tools: Any, seen: Counter[str]) -> None:
    """All that holds for every conversation that a template takes; what was held against something is counted."""
    seen["rows"] += 1
    expected = render(template, messages, tools)
    row: Any = {"messages": messages, "tools": tools} if tools else {"messages": messages}
    try:
        samples = template.encode(row)
    except SwiftError as error:
        # Of a text that is no more than a stray tag, some templates leave nothing.
        stray = any(TAGS.search(m["content"]) for m in messages) and "is not found in the render" in error.what
        assert expected is None or stray or re.search(KNOWN, error.what), error
        return
    seen["taken"] += 1
    assert expected is None or template.render(messages, tools) == expected
    turns: list[int] = []
    for sample in samples:
        assert sample.rendered is not None
        spans = trained_spans(sample, template.tokenizer)
        assert "".join(piece for piece, _ in spans) == sample.rendered.text
        marked = sample.labels != IGNORE
        assert (sample.labels[marked] == sample.input_ids[marked]).all()
        trained = [piece for piece, mark in spans if mark]
        assert len(trained) == len(sample.rendered.turns)
        turns += [turn.message for turn in sample.rendered.turns]
        seen["turns"] += len(trained)
        for number, piece in enumerate(trained):
            seen["compared"] += check_turn(template, messages, tools, sample, number, piece)
    assert sorted(turns) == [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    assert check_parity(template, [(row, Source("drawn", 1))]).turns == len(turns)
    check_control_text(template, row)


def takes_questions(template: Template) -> bool:
    """Whether the template renders a conversation without tools."""
    return render(template, [{"role": "user", "content": "a"}], None) is not None


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_what_is_trained_is_what_is_served(path: Path, vocabulary: str) -> None:
    variables, tokenizer = VARIABLES.get(path.stem, {}), tokenizer_for(path, vocabulary)
    template = Template(tokenizer, chat_template_kwargs=variables)
    on, off = (
        Template(tokenizer, chat_template_kwargs=variables | dict.fromkeys(THINKING, value)) for value in (True, False)
    )
    needs_tools, seen = not takes_questions(template), Counter[str]()
    plain = say("Hello", "I am"), TOOLS if needs_tools else None

    # Each template meets conversations of its own, the same ones in every run.
    @seed(zlib.crc32(f"{path.stem} {vocabulary}".encode()))
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @example(plain)
    @given(conversations(needs_tools))
    def holds(drawn: tuple[list[dict[str, Any]], Any]) -> None:
        for each in (template, on, off) if ALL else (template, off):
            check_row(each, *drawn, seen)

    holds()
    # What is refused or has nothing to be held against proves nothing: a good part must not be of that kind.
    assert seen["taken"] >= LEAST * seen["rows"], seen
    assert seen["compared"] >= LEAST * seen["turns"], seen
