"""Every template of the collection, every conversation: the model's own render, and a mask that is exact."""

from __future__ import annotations

import re
from typing import Any

import pytest

from swift.compat import transformers_major
from swift.engines.parity import check_parity
from swift.errors import SwiftError
from swift.rows import IGNORE, Source
from swift.templates import Template
from swift.templates.messages import with_text_arguments
from tests.templates.cases import (
    CALLING,
    CONVERSATIONS,
    OWN,
    TEMPLATES,
    TOOLS,
    clock_of,
    tokenizer_for,
    trained_texts,
)


@pytest.fixture(scope="module", params=TEMPLATES, ids=lambda path: path.stem)
def template(request: pytest.FixtureRequest) -> Template:
    return Template(tokenizer_for(request.param))


def reference(template: Template, messages: Any, tools: Any, **options: Any) -> str | None:
    if transformers_major() < 5:
        # transformers 5 gives reasoning to templates under both of its names, and so do we under either version.
        messages = [{"thinking": m["reasoning_content"], **m} if "reasoning_content" in m else m for m in messages]
    # Templates that take no objects as arguments are asked with text, as OpenAI's servers give them.
    for asked in (messages, [with_text_arguments(message) for message in messages]):
        try:
            with clock_of(template):
                return template.tokenizer.apply_chat_template(asked, tools=tools, tokenize=False, **options)
        except Exception:
            continue
    return None


def prompts(template: Template, messages: Any, tools: Any) -> list[list[int]]:
    """What a server may send, with the reasoning switch left alone, off and on."""
    texts = [
        reference(template, messages, tools, add_generation_prompt=True, **switch)
        for switch in ({}, dict.fromkeys(("enable_thinking", "thinking"), False),
                       dict.fromkeys(("enable_thinking", "thinking"), True))
    ]  # fmt: skip
    return [template.tokenizer(text, add_special_tokens=False).input_ids for text in texts if text is not None]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_render_and_mask(template: Template, name: str) -> None:
    messages, tools = CONVERSATIONS[name], TOOLS if name in CALLING else None
    expected = reference(template, messages, tools)
    row: Any = {"messages": messages, "tools": tools} if tools else {"messages": messages}
    if expected is None:
        with pytest.raises(SwiftError):
            template.encode(row)
        return
    assert template.render(messages, tools) == expected
    template.notes.clear()
    try:
        samples = template.encode(row)
    except SwiftError as error:
        known = "drops the tool calls|refuses|what stops generation is uncertain"
        assert name in (*CALLING, "empty") and re.search(known, error.what), error
        return
    assert not template.notes["renders whose provenance was found by search"]
    turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    seen = [text for sample in samples for text in trained_texts(sample, template.tokenizer)]
    assert len(seen) == len(turns)
    stops = (template._turns.text_ending.stop, template._turns.tool_ending.stop)
    for at, text in zip(turns, seen, strict=True):
        assert text.endswith(stops)
        header = reference(template, messages[:at], tools, add_generation_prompt=True)
        assert name in ("reasoning", "parallel") or header is None or header[-20:] not in text
        assert messages[at]["content"].strip() in text
        for call in messages[at].get("tool_calls", ()):
            assert call["function"]["arguments"]["city"][:4] in text
        others = [m["content"].strip() for k, m in enumerate(messages) if k != at and m["content"].strip()]
        assert not [other for other in others if other in text and other not in messages[at]["content"]]
    for sample in samples:
        ids, labels = sample.input_ids.tolist(), sample.labels.tolist()
        starts = [k for k, label in enumerate(labels) if label != IGNORE and (k == 0 or labels[k - 1] == IGNORE)]
        last = [at for at in turns if ids[: starts[-1]] in prompts(template, messages[:at], tools)]
        assert last, "what stands before the trained tokens is what the server sends"
    if len(samples) == 1 and not any("served prompt" in note for note in template.notes):
        text = template.tokenizer.decode(samples[0].input_ids)
        assert text == expected or text.startswith(expected.rstrip()) or switched(template, messages, tools, text)


def switched(template: Template, messages: Any, tools: Any, text: str) -> bool:
    """A turn that is served with the reasoning switch on or off is rendered with it too."""
    values = (dict.fromkeys(("enable_thinking", "thinking"), value) for value in (False, True))
    return text in [reference(template, messages, tools, **value) for value in values]


def test_ids_are_the_tokenizers_own(template: Template) -> None:
    """The ids of the render in one piece; where a token would span prompt and answer, the prompt's ids come first."""
    messages = CONVERSATIONS["single"]
    text = reference(template, messages, None)
    if text is None:
        pytest.skip("the template refuses a plain question")
    (sample,) = template.encode({"messages": messages})  # type: ignore[typeddict-item]
    if template.tokenizer.decode(sample.input_ids) == text:
        ids = template.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        prompt = template.prompt(messages[:1])
        assert (
            sample.input_ids.tolist() == ids or sample.input_ids[: len(prompt)].tolist() == prompt != ids[: len(prompt)]
        )


OWN_SAMPLES = {
    "im_start": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "headers": [1, 1, 1, 1, 1, 1, 1, 1, 0, 1],
    "brackets": [1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
    "reasoning": [1, 1, 1, 1, 1, 1, 2, 1, 0, 0],
}
"""Samples that each conversation takes under our own small templates; 0: refused, as no call would be trained."""


@pytest.mark.parametrize("name", OWN_SAMPLES)
def test_own_templates_take_what_they_can_write(name: str) -> None:
    template, taken = Template(tokenizer_for(OWN / f"{name}.jinja")), []
    for case, messages in CONVERSATIONS.items():
        row: Any = {"messages": messages, "tools": TOOLS if case in CALLING else None}
        try:
            taken.append(len(template.encode(row)))
        except SwiftError:
            taken.append(0)
    assert taken == OWN_SAMPLES[name]


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("name", ["multi", "reasoning"])
def test_thinking_switched(template: Template, name: str, value: bool) -> None:
    """With the switch on or off for a whole run, turns are served and trained with it."""
    switched, messages = Template(template.tokenizer, enable_thinking=value), CONVERSATIONS[name]
    expected = reference(switched, messages, None, enable_thinking=value)
    if expected is None:
        pytest.skip("the template refuses this conversation")
    assert switched.render(messages) == expected
    row: Any = {"messages": messages}
    assert check_parity(switched, [(row, Source(name, 1))]).turns == len(messages) // 2
    answers = [text for sample in switched.encode(row) for text in trained_texts(sample, template.tokenizer)]
    assert len(answers) == len(messages) // 2
    for message, text in zip(messages[1::2], answers, strict=True):
        assert message["content"] in text
