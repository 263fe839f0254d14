"""Exact answers where the served prompt and the training render differ, and on other kinds of vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swift.rows import IGNORE
from swift.templates import Template, load_template
from tests.templates.cases import CONVERSATIONS, SHARED, TOOLS, gguf_tokenizer, say, tokenizer_for, trained_texts

pytestmark = pytest.mark.skipif(SHARED is None, reason="no shared folder with chat templates here")


def load(name: str, **options: Any) -> Template:
    return Template(tokenizer_for(Path(SHARED or "") / "chat_templates" / f"{name}.jinja"), **options)


EXPECTED: list[tuple[str, str, list[list[str]]]] = [
    ("Qwen-Qwen3-0.6B", "reasoning", [
        ["<think>\nAdding two.\n</think>\n\nFour.<|im_end|>"], ["<think>\nAdding three.\n</think>\n\nSix.<|im_end|>"]]),
    ("Qwen-Qwen2.5-7B-Instruct", "tools", [[
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris \\"x\\" ü"}}\n</tool_call><|im_end|>',
        "It is 20 degrees.<|im_end|>"]]),
    ("GLM-4.6", "tools", [[
        '\n<think></think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris "x" ü</arg_value>\n'
        "</tool_call><|observation|>", "\n<think></think>\nIt is 20 degrees.<|user|>"]]),
    ("openai-gpt-oss-120b", "multi", [
        [f"<|channel|>final<|message|>{text}<|return|>"] for text in ("Hello!", "Fine.", "Good.")]),
    ("openai-gpt-oss-120b", "tools", [[
        ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Paris \\"x\\" ü"}<|call|>',
        "<|channel|>final<|message|>It is 20 degrees.<|return|>"]]),
    ("llama-cpp-deepseek-r1", "single", [["\n</think>\n\nIt is 4.<｜end▁of▁sentence｜>"]]),
    ("Qwen-QwQ-32B", "reasoning", [
        ["Adding two.\n</think>\n\nFour.<|im_end|>"], ["Adding three.\n</think>\n\nSix.<|im_end|>"]]),
    ("Apriel-1.6-15b-Thinker-fixed", "single", [["\n[BEGIN FINAL RESPONSE]\nIt is 4.\n<|end|>"]]),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "tools", [
        ['<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris \\"x\\" ü"}}\n</tool_call><|im_end|>',
         "It is 20 degrees.<|im_end|>"]]),
    ("Spark2.5", "single", [["It is 4.<｜end▁of▁sentence｜>"]]),
    ("mistralai-Mistral-Nemo-Instruct-2407", "system", [["Hello!</s>"], ["Again!</s>"]]),
    ("ByteDance-Seed-OSS", "empty", [["<seed:eos>"], ["Hello!<seed:eos>"]]),
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "empty", [
        [f"<|START_RESPONSE|>{text}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"] for text in ("", "Hello!")]),
    ("CohereForAI-c4ai-command-r-plus-tool_use", "tools", [
        ['\nAction:\n```json\n[\n    {\n        "tool_name": "get_weather",\n        "parameters": {\n            '
         '"city": "Paris \\"x\\" ü"\n        }\n    }\n]```\n<|START_OF_TURN_TOKEN|>'],
        ["It is 20 degrees.<|END_OF_TURN_TOKEN|>"]]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "case", "expected"), EXPECTED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_trained_text(name: str, case: str, expected: list[list[str]]) -> None:
    template = load(name)
    row: Any = {"messages": CONVERSATIONS[case], "tools": TOOLS if case == "tools" else None}
    assert [trained_texts(sample, template.tokenizer) for sample in template.encode(row)] == expected


def test_reasoning_tags_become_fields() -> None:
    """Text with a think block is served as reasoning; a template that never shows reasoning keeps the text."""
    messages = say("2+2?", "<think>\nAdding.\n</think>\n\nFour.", "ok", "Yes.")
    first, _ = load("Qwen-Qwen3-0.6B").encode({"messages": messages})  # type: ignore[typeddict-item]
    tokenizer = gguf_tokenizer("gpt-2")
    assert trained_texts(first, tokenizer) == ["<think>\nAdding.\n</think>\n\nFour.<|im_end|>"]
    (whole,) = load("Qwen-Qwen2.5-7B-Instruct").encode({"messages": messages})  # type: ignore[typeddict-item]
    assert trained_texts(whole, tokenizer)[0] == "<think>\nAdding.\n</think>\n\nFour.<|im_end|>"


@pytest.mark.parametrize("opening", ["<think>\n", ""])
def test_reasoning_in_the_text_of_a_template_that_cuts_it(opening: str) -> None:
    """R1's template cuts everything before `</think>`, and its prompt opens the block: the reasoning is trained."""
    template = load("llama-cpp-deepseek-r1")
    (sample,) = template.encode({"messages": say("2+2?", f"{opening}Adding.\n</think>\n\nFour.")})  # type: ignore[typeddict-item]
    assert trained_texts(sample, template.tokenizer) == ["Adding.\n</think>\n\nFour.<｜end▁of▁sentence｜>"]
    assert template.prompt_text(say("2+2?")).endswith("<think>\n")


def test_tool_tags_become_calls() -> None:
    """Where `<tool_call>` is a control token, the template has to write it: text cannot."""
    import copy

    tokenizer = copy.deepcopy(tokenizer_for(Path(SHARED or "") / "chat_templates" / "Qwen-Qwen2.5-7B-Instruct.jinja"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool_call>", "</tool_call>"]})
    call = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    (sample,) = Template(tokenizer).encode({"messages": say("q", f"Look:\n{call}")})  # type: ignore[typeddict-item]
    assert trained_texts(sample, tokenizer) == [f"Look:\n{call}<|im_end|>"]
    assert tokenizer.convert_tokens_to_ids("<tool_call>") in sample.labels


def test_a_row_without_reasoning_stays_one_sample() -> None:
    """Qwen3 writes an empty reasoning block into the last turn only; prompts and histories are the same without it."""
    template = load("Qwen-Qwen3-0.6B")
    messages = CONVERSATIONS["multi"]
    (sample,) = template.encode({"messages": messages})  # type: ignore[typeddict-item]
    empty = "<think>\n\n</think>\n\n"
    assert trained_texts(sample, template.tokenizer) == [
        "Hello!<|im_end|>",
        "Fine.<|im_end|>",
        f"{empty}Good.<|im_end|>",
    ]
    for turn in sample.rendered.turns:  # type: ignore[union-attr]
        assert template.prompt(messages[: turn.message]) == sample.input_ids[: turn.token].tolist()
    thought = [*messages[:3], {**messages[3], "reasoning_content": "Well."}, *messages[4:]]
    first, second = template.encode({"messages": thought})  # type: ignore[typeddict-item]
    assert trained_texts(first, template.tokenizer) == ["<think>\nWell.\n</think>\n\nFine.<|im_end|>"]
    assert trained_texts(second, template.tokenizer) == ["Hello!<|im_end|>", f"{empty}Good.<|im_end|>"]


def test_thinking_switched_off() -> None:
    template = load("Qwen-Qwen3-0.6B", enable_thinking=False)
    (sample,) = template.encode({"messages": say("2+2?", "Four.")})  # type: ignore[typeddict-item]
    assert trained_texts(sample, template.tokenizer) == ["Four.<|im_end|>"]
    (sample,) = template.encode({"messages": CONVERSATIONS["reasoning"][:2]})  # type: ignore[typeddict-item]
    assert trained_texts(sample, template.tokenizer) == ["Four.<|im_end|>"]
    assert template.notes["reasoning left out: the prompt says not to think"] == 1


def test_known_shapes_give_what_unknown_ones_give() -> None:
    """The memory of shapes changes nothing: a fresh template gives the same ids and labels."""
    texts = ["a", "  b \n", "", "<think>", "</think>x", "c\n\nd", "😀"]
    warm = load("Qwen-Qwen2.5-7B-Instruct")
    for first in texts:
        for second in texts:
            row: Any = {"messages": say("q" + first, "x" + second, "q" + second, "x" + first)}
            for _ in range(2):
                ours = warm.encode(row)
            fresh = load("Qwen-Qwen2.5-7B-Instruct").encode(row) if first != second else ours
            assert [s.input_ids.tolist() for s in ours] == [s.input_ids.tolist() for s in fresh]
            assert [s.labels.tolist() for s in ours] == [s.labels.tolist() for s in fresh]


@pytest.mark.parametrize("text", ["Hello", " Hello", "\nHello", "x<|im_end|>y", "  ", "你好😀"])
def test_sentencepiece(text: str) -> None:
    """A SentencePiece vocabulary puts a space before a text's start, and only there."""
    template = load_template(gguf_tokenizer("llama-spm"), template="chatml")
    tokenizer = template.tokenizer
    messages = say("Hi " + text, text + "!", "Hi", "ok")
    samples = template.encode({"messages": messages})  # type: ignore[typeddict-item]
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for sample in samples:
        ids = sample.input_ids.tolist()
        starts = [k for k in range(len(ids)) if sample.labels[k] != IGNORE and sample.labels[k - 1] == IGNORE]
        assert ids[: starts[-1]] in [template.prompt(messages[:at]) for at in (1, 3)]
        assert sample.labels.tolist().count(stop) == len(starts)
    trained = [stretch for sample in samples for stretch in trained_texts(sample, tokenizer)]
    assert [piece.strip() for piece in trained] == [(text + "!<|im_end|>").strip(), "ok<|im_end|>"]
