"""What is trained and how much it weighs: strategies, tables of patterns, files, plug-ins, and a turn's own fields."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.errors import SwiftError
from swift.registry import Registry
from swift.rows import IGNORE
from swift.templates import Template, loss_scale, loss_scales
from swift.templates.patterns import PatternTable, builtin_tables
from swift.templates.provenance import LITERAL, Traced
from swift.templates.scales import LossScale, Part, Weighed, label, scale_of
from swift.templates.tokens import Tokens
from swift.templates.turns import Sample
from tests.templates.cases import CONVERSATIONS, SHARED, TOOLS, say, tokenizer_for
from tests.tiny_tokenizer import make_tokenizer

REACT = "Thought: x\nAction: find\nAction Input: {}\nObservation: made up\nFinal Answer: z"
needs_shared = pytest.mark.skipif(SHARED is None, reason="no shared folder with chat templates here")


def of_collection(name: str, **options: Any) -> Template:
    return Template(tokenizer_for(Path(SHARED or "") / "chat_templates" / f"{name}.jinja"), **options)


def weighed(template: Template, messages: Any, tools: Any = None) -> list[list[tuple[float, str]]]:
    """Each sample as runs of one weight, without those of weight 0."""
    samples = []
    for sample in template.encode({"messages": messages, "tools": tools}):
        weights = (sample.labels != IGNORE).astype(np.float32) if sample.weights is None else sample.weights
        assert ((weights == 0) == (sample.labels == IGNORE)).all()
        runs = groupby(zip(weights.tolist(), sample.input_ids.tolist(), strict=True), key=lambda pair: pair[0])
        texts = [(weight, template.tokenizer.decode([token for _, token in run])) for weight, run in runs]
        samples.append([(weight, text) for weight, text in texts if weight])
    return samples


def tiny(spec: str) -> Template:
    return Template(make_tokenizer(), loss_scale=spec)


SCALES: dict[str, tuple[str, list[tuple[float, str]]]] = {
    "react": (REACT, [
        (1, "Thought: x\n"), (2, "Action: find\nAction Input: {}\nObservation:"), (1, "Final Answer: z<|im_end|>")]),
    "alpha_umi": ("Next: caller\nThought: x", [(2, "Next: caller\n"), (1, "Thought: x<|im_end|>")]),
    "qwen": ("so ✿FUNCTION✿: f\n✿RESULT✿: r\n✿RETURN✿: t", [
        (1, "so "), (2, "✿FUNCTION✿: f\n✿RESULT✿:"), (1, "✿RETURN✿: t<|im_end|>")]),
    "agentflan": (REACT, [
        (1, "Thought: x\nAction:"), (3, " find\n"), (1, "Action Input:"), (3, " {}\n"), (2, "Observation:"),
        (1, "Final Answer: z<|im_end|>")]),
    "hermes": ("a<tool_call>\nf\n</tool_call>b", [
        (1, "a"), (2, "<tool_call>\nf\n</tool_call>"), (1, "b<|im_end|>")]),
    "ignore_think_prefix": ("<think>\nx</think>y", [(1, "x</think>y<|im_end|>")]),
    "ignore_empty_think": ("<think>\n\n</think>\n\ny <think></think>", [(1, "y <think></think><|im_end|>")]),
    "hermes+ignore_think_prefix": ("<think>\n<tool_call>f</tool_call>", [
        (2, "<tool_call>f</tool_call>"), (1, "<|im_end|>")]),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "answer", "expected"), [(name, *case) for name, case in SCALES.items()])
def test_named_scales(spec: str, answer: str, expected: list[tuple[float, str]]) -> None:
    assert weighed(tiny(spec), say("q", answer)) == [expected]
    assert weighed(tiny(f"default+{spec}"), say("q", answer)) == [expected]


def test_a_question_of_agentflan_weighs_the_whole_answer() -> None:
    rows = weighed(tiny("agentflan"), say("What is the value of x?", "Thought: 1"))
    assert rows == [[(3, "Thought: 1"), (1, "<|im_end|>")]]


def test_every_scale_of_the_library_is_a_table() -> None:
    for name, table in builtin_tables().items():
        assert PatternTable(table, name)("nothing in it", "hi") == []


def test_last_round_takes_what_stands_behind_the_last_question() -> None:
    messages = say("a", "b", "c", "d")
    assert weighed(tiny("last_round"), messages) == [[(1, "d<|im_end|>")]]
    assert weighed(tiny("last_round"), [*messages, *say("e")]) == [[(1, "d<|im_end|>")]]
    assert weighed(tiny("last_round"), [*messages, {"role": "assistant", "content": "e"}]) == [
        [(1, "d<|im_end|>"), (1, "e<|im_end|>")]
    ]


def test_a_turns_own_fields_come_before_the_option() -> None:
    messages = say("a", REACT, "c", REACT, "e", "f")
    messages[1]["weight"] = 0.5
    messages[3]["loss"] = False
    assert weighed(tiny("react"), messages) == [[(0.5, REACT + "<|im_end|>"), (1, "f<|im_end|>")]]
    messages[1]["loss"] = True
    assert weighed(tiny("last_round+react"), messages) == [[(0.5, REACT + "<|im_end|>"), (1, "f<|im_end|>")]]
    messages[5]["loss"] = False
    with pytest.raises(SwiftError, match="the last assistant turn of the row has loss: false"):
        tiny("last_round").encode({"messages": say("a", "b") + [{**m, "loss": False} for m in say("c", "d")]})  # type: ignore[typeddict-item]


def test_all_takes_every_token_but_what_is_out() -> None:
    messages = [{"role": "system", "content": "s"}, *say("a", "b", "c", "d")]
    (whole,) = tiny("all").encode({"messages": messages})  # type: ignore[typeddict-item]
    assert (whole.labels == whole.input_ids).all()
    assert whole.weights is None
    messages[1]["loss"], messages[2]["loss"], messages[3]["weight"] = False, False, 3.0
    texts = weighed(tiny("all"), messages)
    assert texts == [[
        (1, "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n"), (1, "<|im_end|>\n<|im_start|>assistant\n"),
        (1, "\n<|im_start|>user\n"), (3, "c"), (1, "<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n"),
    ]]  # fmt: skip
    assert weighed(tiny("all"), say("only a question"))[0][0][1].startswith("<|im_start|>user\nonly")


@needs_shared
def test_a_template_that_rewrites_turns_trains_each_token_once() -> None:
    """A sample for each turn; `last_round` keeps the last; `all` trains no text of an earlier sample again."""
    row = CONVERSATIONS["reasoning"]
    first = "<think>\nAdding two.\n</think>\n\nFour.<|im_end|>"
    second = "<think>\nAdding three.\n</think>\n\nSix.<|im_end|>"
    head = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert weighed(of_collection("Qwen-Qwen3-0.6B"), row) == [[(1, first)], [(1, second)]]
    assert weighed(of_collection("Qwen-Qwen3-0.6B", loss_scale="last_round"), row) == [[(1, second)]]
    then = "\n<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n"
    assert weighed(of_collection("Qwen-Qwen3-0.6B", loss_scale="all"), row) == [
        [(1, head + first)],
        [(1, then + second + "\n")],
    ]
    assert weighed(of_collection("Qwen-Qwen3-0.6B", loss_scale="all"), [*row, *say("bye")]) == [
        [(1, head + first)], [(1, then + second)], [(1, "\n<|im_start|>user\nbye<|im_end|>\n")],
    ]  # fmt: skip


@needs_shared
def test_scales_read_what_the_template_writes() -> None:
    calls = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris \\"x\\" ü"}}\n</tool_call>'
    rows = weighed(of_collection("Qwen-Qwen2.5-7B-Instruct", loss_scale="hermes"), CONVERSATIONS["tools"], TOOLS)
    assert rows == [[(2, calls), (1, "<|im_end|>"), (1, "It is 20 degrees.<|im_end|>")]]
    for name, answer in (
        ("Qwen-Qwen3-0.6B", "It is 4.<|im_end|>"),
        ("GLM-4.6", "It is 4.<|user|>"),
        ("llama-cpp-deepseek-r1", "It is 4.<｜end▁of▁sentence｜>"),
        ("Apriel-1.6-15b-Thinker-fixed", "It is 4.\n<|end|>"),
    ):
        assert weighed(of_collection(name, loss_scale="ignore_empty_think"), CONVERSATIONS["single"]) == [[(1, answer)]]


def test_a_file_of_patterns(tmp_path: Path) -> None:
    file = tmp_path / "weights.json"
    file.write_text(json.dumps({r"\d+": 3, "no": [0]}))
    template = tiny(f"last_round+{file}")
    expected = [[(1, "so "), (3, "12"), (1, " "), (1, " "), (3, "7"), (1, "<|im_end|>")]]
    assert weighed(template, say("q", "so 12 no 7")) == expected
    record = template.to_dict()
    file.unlink()
    assert weighed(Template.from_dict(template.tokenizer, record), say("q", "so 12 no 7")) == expected


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[1]", "no table"),
        ("{", "not JSON"),
        ('{"a": -1}', "the weight -1"),
        ('{"a": [1, 2, 3]}', r"the weight \[1, 2, 3\]"),
        ('{"a": NaN}', "the weight NaN"),
        ('{"a": 1, "b": [1, 2]}', "keys with one weight and keys with two"),
        ('{"(": 1}', "not a regular expression"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, table: str, said: str) -> None:
    file = tmp_path / "weights.json"
    file.write_text(table)
    with pytest.raises(SwiftError, match=said):
        LossScale(str(file))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("hermess", "there is no 'hermess'"),
        ("all+default", "several strategies"),
        ("react+react", "a name twice"),
        ("gone.json", "cannot be read"),
        ("", "there is no ''"),
        ("default+", "there is no ''"),
    ],
)
def test_a_wrong_name_is_refused(spec: str, said: str) -> None:
    with pytest.raises(SwiftError, match=said):
        LossScale(spec)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    monkeypatch.setattr(loss_scales, "_parts", {})
    return loss_scales


def test_a_plug_in(plugins: Registry[Any]) -> None:
    @loss_scale("shout")
    def shout(answer: str, before: str) -> list[tuple[int, int, float]]:
        return [(at, at + 1, float(len(before))) for at, char in enumerate(answer) if char.isupper()]

    assert weighed(tiny("shout"), say("four", "aBc")) == [[(1, "a"), (4, "B"), (1, "c<|im_end|>")]]

    @loss_scale("beyond")
    def beyond(answer: str, before: str) -> list[tuple[int, int, float]]:
        return [(0, 99, 1.0)]

    with pytest.raises(SwiftError, match=r"beyond gives \[0, 99\)"):
        tiny("beyond").encode({"messages": say("a", "b")})  # type: ignore[typeddict-item]


def test_a_token_has_the_weight_of_its_first_character() -> None:
    tokens = Tokens([5, 6, 7], np.array([0, 2, 4]), np.array([2, 4, 6]))
    sample = Sample(Traced("abcdef", LITERAL))
    weighed_sample = Weighed(sample, [Part(0, 6)], np.array([0, 1, 1, 0, 3, 3], dtype=np.float32))
    encoded = label("abcdef", tokens, weighed_sample, weighed_sample.parts, None)
    assert encoded.weights is not None
    assert encoded.weights.tolist() == [0, 1, 3]
    assert encoded.labels.tolist() == [IGNORE, 6, 7]
    with pytest.raises(SwiftError, match="does not tell where"):
        label("abcdef", tokens, weighed_sample, weighed_sample.parts, None, offsets=False)


PIECES = st.lists(
    st.sampled_from(["Action:", "Action Input:", "Observation:", "Thought:", "<think>\n", " x", "\n", "é"])
)


@settings(max_examples=60, deadline=None)
@given(PIECES, PIECES)
def test_weights_are_those_of_the_patterns_alone(one: list[str], two: list[str]) -> None:
    """On a vocabulary of bytes, each token's weight is the product of the scales at its character."""
    answers = ["a" + "".join(one), "b" + "".join(two)]
    template = tiny("react+ignore_think_prefix")
    (sample,) = template.encode({"messages": say("q", answers[0], "r", answers[1])})  # type: ignore[typeddict-item]
    expected: list[float] = []
    for answer in answers:
        weights = np.ones(len(answer))
        for name in ("react", "ignore_think_prefix"):
            for start, stop, weight in scale_of(name, {})(answer, "q"):
                weights[start:stop] *= weight
        ids = template.tokenizer(answer, return_offsets_mapping=True, add_special_tokens=False).offset_mapping
        expected += [*(float(weights[start]) for start, _ in ids), 1.0]
    weights = (sample.labels != IGNORE).astype(float) if sample.weights is None else sample.weights
    assert [weight for weight in weights.tolist() if weight] == [weight for weight in expected if weight]
