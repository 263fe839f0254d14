"""The options of the template: chosen by flags, told in the run's table, recorded, and read back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swift.config import Decisions, TemplateConfig, TrainTemplateConfig
from swift.config.commands import ShowConfig
from swift.errors import SwiftError
from swift.templates import Template, trained_spans
from swift.templates.choose import choose_template, open_template
from tests.templates.cases import CONVERSATIONS, SHARED, say, tokenizer_for, trained_texts
from tests.tiny_tokenizer import CHATML, make_tokenizer

needs_shared = pytest.mark.skipif(SHARED is None, reason="no shared folder with chat templates here")


def collection(name: str) -> Any:
    return tokenizer_for(Path(SHARED or "") / "chat_templates" / f"{name}.jinja")


def choose(tokenizer: Any, recorded: Any = None, **flags: Any) -> tuple[Template, dict[str, Any]]:
    decisions = Decisions()
    template = choose_template(tokenizer, TrainTemplateConfig(**flags), decisions, recorded)
    return template, {each.name: (each.value, each.origin) for each in decisions}


def open_with(tokenizer: Any, names: list[str], recorded: Any = None) -> tuple[Template, dict[str, Any]]:
    """The template with `--new_special_tokens`, of a model whose tokenizer this is."""
    decisions = Decisions()
    source: Any = SimpleNamespace(load_tokenizer=lambda _: tokenizer, recorded_template=recorded)
    template = open_template(ShowConfig.of(model="none", new_special_tokens=names), source, decisions)
    return template, {each.name: (each.value, each.origin) for each in decisions}


def trained(template: Template, messages: Any) -> list[list[str]]:
    return [trained_texts(sample, template.tokenizer) for sample in template.encode({"messages": messages})]


FLAGS: dict[str, Any] = {
    "system": "Be brief.",
    "enable_thinking": False,
    "chat_template_kwargs": {"colour": "red"},
    "response_prefix": "Well,\\n",
    "special_tokens_in_content": "refuse",
    "loss_scale": "last_round+react",
    "add_non_thinking_prefix": True,
}


def test_options_are_told_recorded_and_read_back() -> None:
    template, told = choose(make_tokenizer(), **FLAGS)
    assert template.response_prefix == "Well,\n"
    record = template.to_dict()
    expected = {**FLAGS, "response_prefix": "Well,\n"}
    assert {name: record[name] for name in FLAGS} == expected
    assert {name: told[name] for name in FLAGS} == {name: (value, "flag") for name, value in expected.items()}
    again, told = choose(make_tokenizer(None), record)
    assert again.to_dict() == record
    assert {name: told[name][1] for name in FLAGS} == dict.fromkeys(FLAGS, "checkpoint")
    over, told = choose(make_tokenizer(None), record, loss_scale="all", response_prefix="")
    assert (over.loss_scale, over.response_prefix, told["loss_scale"]) == ("all", "", ("all", "flag"))
    decisions = Decisions()
    served = choose_template(make_tokenizer(None), TemplateConfig(), decisions, record)
    assert served.prompt_text(say("hi")) == template.prompt_text(say("hi"))
    assert "loss_scale" not in {each.name for each in decisions}


def test_new_tokens_are_meant_in_contents_also_behind_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("<yy>")
    tokenizer = make_tokenizer()
    names = ["<zz>", str(tmp_path / "more.txt")]
    template, told = open_with(tokenizer, names)
    ids = tokenizer.convert_tokens_to_ids(["<zz>", "<yy>"])
    assert told["new_special_tokens"] == (ids, "flag")
    asked = say("a <zz> <|im_end|>", "b <yy><zz> c")
    (sample,) = template.encode({"messages": asked})  # type: ignore[typeddict-item]
    spelled = sample.input_ids.tolist()
    assert [spelled.count(each) for each in (*ids, tokenizer.eos_token_id)] == [2, 1, 2]
    assert [sample.labels.tolist().count(each) for each in ids] == [1, 1]
    served = choose_template(tokenizer, TemplateConfig(), Decisions(), template.to_dict())
    assert served.prompt(asked[:1]).count(ids[0]) == 1
    again, _ = open_with(tokenizer, ["<ww>"], template.to_dict())
    assert again.new_special_tokens == ["<zz>", "<yy>", "<ww>"]


def test_no_chat_template() -> None:
    template, told = choose(make_tokenizer(), use_chat_template=False)
    (sample,) = template.encode({"messages": say("2+2=", "4")})  # type: ignore[typeddict-item]
    assert trained_spans(sample, template.tokenizer) == [("2+2=", False), ("4<|im_end|>", True)]
    assert told["template"] == ("none", "flag")
    again, _ = choose(make_tokenizer(), template.to_dict())
    assert again.prompt_text(say("2+2=")) == "2+2="
    back, _ = choose(make_tokenizer(), template.to_dict(), use_chat_template=True)
    assert back.prompt_text(say("hi")) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    for other in ({"chat_template": "a.jinja"}, {"template": "chatml"}):
        with pytest.raises(SwiftError, match="--use_chat_template false with"):
            choose(make_tokenizer(), use_chat_template=False, **other)


def test_a_model_without_a_template(tmp_path: Path) -> None:
    with pytest.raises(SwiftError, match="no chat template"):
        choose(make_tokenizer(None))[0].prompt(say("hi"))
    file = tmp_path / "mine.jinja"
    file.write_text(CHATML)
    for flags in ({"template": str(file)}, {"chat_template": str(file)}, {"template": "chatml"}):
        template, _ = choose(make_tokenizer(None), **flags)
        assert trained(template, say("a", "b")) == [["b<|im_end|>"]]
    with pytest.raises(SwiftError, match=r"--chat_template gone\.jinja is neither"):
        choose(make_tokenizer(None), chat_template="gone.jinja")


def test_answers_follow_the_response_prefix() -> None:
    template, _ = choose(make_tokenizer(), response_prefix="Sure:")
    assert trained(template, say("a", "Sure:b", "c", "Sure:d")) == [["b<|im_end|>", "d<|im_end|>"]]
    assert not template.notes
    (sample,) = template.encode({"messages": say("a", "b")})  # type: ignore[typeddict-item]
    assert [text for text, _ in trained_spans(sample, template.tokenizer)][:2] == [
        template.prompt_text(say("a")),
        "b<|im_end|>",
    ]
    assert template.notes["answers put behind the served prompt, which the template's own render lacks"] == 1


@needs_shared
def test_non_thinking_prefix_is_context() -> None:
    rows = [*CONVERSATIONS["reasoning"][:2], *say("3+3?", "Six.")]
    plain, _ = choose(collection("Qwen-Qwen3-0.6B"))
    thought = ["<think>\nAdding two.\n</think>\n\nFour.<|im_end|>"]
    assert trained(plain, rows) == [thought, ["<think>\n\n</think>\n\nSix.<|im_end|>"]]
    prefixed, _ = choose(collection("Qwen-Qwen3-0.6B"), add_non_thinking_prefix=True)
    assert trained(prefixed, rows) == [thought, ["Six.<|im_end|>"]]
    (_, last) = prefixed.encode({"messages": rows})  # type: ignore[typeddict-item]
    assert last.rendered is not None
    (turn,) = last.rendered.turns
    assert turn.switches["enable_thinking"] is False
    assert last.input_ids[: turn.token].tolist() == Template(
        collection("Qwen-Qwen3-0.6B"), enable_thinking=False
    ).prompt(rows[:3])  # type: ignore[arg-type]
    decisions = Decisions()
    choose_template(make_tokenizer(), TrainTemplateConfig(add_non_thinking_prefix=True), decisions)
    (line,) = [each for each in decisions if each.name == "add_non_thinking_prefix"]
    assert line.reason.startswith("no effect")


@needs_shared
@pytest.mark.parametrize("name", ["NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "poolside-Laguna-S-2.1", "LFM2.5-8B-A1B"])
def test_earlier_reasoning_is_kept_by_the_templates_own_switch(name: str) -> None:
    rows = CONVERSATIONS["reasoning"]
    for keeps in (True, False):
        # Laguna drops earlier reasoning only where the last turn does not think either.
        template, told = choose(collection(name), preserve_thinking=keeps, enable_thinking="Laguna" not in name)
        assert ("Adding two." in template.prompt_text(rows[:3])) is keeps
        assert told["preserve_thinking"] == (keeps, "flag")
        again, _ = choose(collection(name), template.to_dict())
        assert again.prompt_text(rows[:3]) == template.prompt_text(rows[:3])


@needs_shared
def test_a_template_without_a_switch_refuses() -> None:
    with pytest.raises(SwiftError, match="drops the reasoning of earlier turns"):
        choose(collection("Qwen-Qwen3-0.6B"), preserve_thinking=True)
    kept, _ = choose(collection("Qwen-Qwen3-0.6B"), preserve_thinking=False)
    assert kept.preserve_thinking is False


@needs_shared
@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("Qwen-Qwen2.5-7B-Instruct", ["<|im_end|>"]),
        ("meta-llama-Llama-3.3-70B-Instruct", ["<|eot_id|>"]),
        ("GLM-4.6", ["<|user|>", "<|observation|>"]),
        ("google-gemma-4-31B-it-interleaved", ["<turn|>"]),
        ("llama-cpp-rwkv-world", ["\n\n"]),
    ],
)
def test_a_template_whose_control_tokens_are_text(name: str, stops: list[str]) -> None:
    """GPT-2's vocabulary has none of them: the stop is read from the render, and watched for as text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(SHARED or "") / "vocab", gguf_file="ggml-vocab-gpt-2.gguf")
    file = Path(SHARED or "") / "chat_templates" / f"{name}.jinja"
    template, _ = choose(tokenizer, chat_template=str(file))
    assert template.stop_strings == stops
    assert template.stop_token_ids == [tokenizer.eos_token_id]
    samples = template.encode({"messages": say("Hi <|x|>", "Hello!", "More", "Again!")})  # type: ignore[typeddict-item]
    texts = [text for sample in samples for text in trained_texts(sample, tokenizer)]
    assert [text.removesuffix(stops[0])[-6:] for text in texts] == ["Hello!", "Again!"]
    assert all(text.endswith(stops[0]) for text in texts)


@pytest.mark.parametrize(
    ("name", "near"), [("qwn3", "did you mean qwen3"), ("chatm", "did you mean chatml"), ("zzzz", "a .jinja file")]
)
def test_a_template_that_nobody_knows_is_refused(name: str, near: str) -> None:
    with pytest.raises(SwiftError, match=f"--template {name}: there is no such name") as caught:
        choose(make_tokenizer(), template=name)
    assert near in str(caught.value)
    with pytest.raises(SwiftError, match="--template"):
        choose(make_tokenizer(), {"source": "recorded"}, template=name)
