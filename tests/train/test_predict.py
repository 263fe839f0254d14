"""Evaluation by generated answers: the same figures as `swift infer` gives, and nothing else of the run changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift.cli.main import main
from swift.config import SftConfig
from swift.errors import SwiftError
from swift.train.arguments import training_arguments
from swift.train.result import SftResult
from tests.train.conftest import losses

Train = Callable[..., SftResult]
FIGURES = ("rouge-1", "rouge-2", "rouge-l", "bleu-4", "acc")


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("held") / "held.jsonl"
    pairs = [("what is the colour of sky 3?", "Paris Paris 3"), ("what is sky 5?", "Paris 5"), ("sky?", "Paris is 1")]
    lines = [
        {"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": two}]} for one, two in pairs
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def evaluations(result: SftResult) -> list[dict[str, float]]:
    return [
        {name.removeprefix("eval_"): value for name, value in entry.items()}
        for entry in result.log
        if "eval_loss" in entry
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"train_type": "full", "packing": True, "max_length": 256},
        {"train_type": "reft", "reft_args": '{"positions": "f1+l1"}', "learning_rate": 5e-2},
        {"train_type": "full", "gradient_checkpointing": True, "padding_free": True, "eval_metric": "acc"},
    ],
    ids=["lora", "packed", "reft", "checkpointing"],
)
def test_figures_are_those_of_swift_infer_and_training_is_as_without(
    train: Train, held: Path, tmp_path: Path, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"max_steps": 4, "eval_steps": 2, "val_dataset": [str(held)], "lora_dropout": 0.1, **options}
    plain = train(**options)
    result = train(**options, predict_with_generate=True, max_new_tokens=8, per_device_eval_batch_size=2)
    assert losses(result) == losses(plain)
    for found, without in zip(evaluations(result), evaluations(plain), strict=True):
        assert set(found) >= {*without, *FIGURES}
        assert found["loss"] == pytest.approx(without["loss"], abs=1e-5)
    checkpoint = result.checkpoint
    assert checkpoint is not None
    where = ["--model", str(checkpoint)] if options.get("train_type") == "full" else ["--adapters", str(checkpoint)]
    told = evaluations(result)[-1]
    capsys.readouterr()
    for metric, names in (("rouge", FIGURES[:4]), ("acc", FIGURES[4:])):
        file = tmp_path / f"{metric}.jsonl"
        words = ["infer", *where, "--val_dataset", str(held), "--result_path", str(file), "--metric", metric]
        assert main([*words, "--max_new_tokens", "8", "--temperature", "0"]) == 0
        said = capsys.readouterr().err
        assert all(f"{name} {told[name]:.4f}" in said for name in names)
    predicted = [json.loads(line) for line in (checkpoint.parent / "predict.jsonl").read_text().splitlines()]
    assert [line["step"] for line in predicted] == [2] * 3 + [4] * 3
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["response"] for line in predicted[3:]] == [line["response"] for line in answers]


def test_a_resumed_run_is_the_unbroken_one(train: Train, held: Path, tmp_path: Path) -> None:
    options = {"val_dataset": [str(held)], "predict_with_generate": True, "max_new_tokens": 4, "eval_steps": 1}
    options |= {"save_steps": 2, "lora_dropout": 0.2}
    whole = train(max_steps=4, output_dir=str(tmp_path / "whole"), **options)
    train(max_steps=4, output_dir=str(tmp_path / "parts"), **options)
    middle = next((tmp_path / "parts").glob("v0-*/checkpoint-2"))
    again = train(max_steps=4, output_dir=str(tmp_path / "parts"), resume_from_checkpoint=str(middle), **options)
    assert losses(again) == losses(whole)
    assert (middle.parent / "predict.jsonl").read_text() == (whole.run_folder / "predict.jsonl").read_text()  # type: ignore[operator]


def test_the_best_checkpoint_is_chosen_by_an_answers_figure(train: Train, held: Path) -> None:
    config = SftConfig.of(model="x", dataset=["y"], val_dataset=["z"], predict_with_generate=True)
    made = training_arguments(config, Path("run"), {}, {"rouge-l": True})
    assert (made.metric_for_best_model, made.greater_is_better) == ("rouge-l", True)
    result = train(
        val_dataset=[str(held)],
        predict_with_generate=True,
        max_new_tokens=6,
        max_steps=12,
        eval_steps=1,
        save_steps=1,
        metric_for_best_model="bleu-4",
        early_stop_interval=2,
        load_best_model_at_end=True,
    )
    found = [entry["bleu-4"] for entry in evaluations(result)]
    best = found.index(max(found))
    assert len(found) in (best + 3, 12)


@pytest.mark.parametrize("options", [{}, {"padding_free": True}], ids=["padded", "end-to-end"])
def test_right_samples_are_counted(train: Train, rows: Path, options: dict[str, Any]) -> None:
    """The model learns some of these rows by heart."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options |= {"train_type": "full", "learning_rate": 1e-2, "max_steps": 30, "eval_steps": 30}
    options |= {"val_dataset": [str(rows)], "per_device_eval_batch_size": 4}
    result = train(**options, eval_metric="acc", acc_strategy="seq", gradient_accumulation_steps=4)
    model = AutoModelForCausalLM.from_pretrained(result.checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(result.checkpoint)
    right = []
    for line in rows.read_text().splitlines():
        messages = json.loads(line)["messages"]
        start = len(tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False))
        text = tokenizer.apply_chat_template(messages, tokenize=False).removesuffix("\n")
        ids = torch.tensor([tokenizer.encode(text)])
        with torch.no_grad():
            right.append(bool((model(ids).logits[0, start - 1 : -1].argmax(-1) == ids[0, start:]).all()))
    assert 0 < sum(right) < len(right)
    assert evaluations(result)[-1]["seq_acc"] == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"predict_with_generate": True}, "there is no evaluation"),
        ({"eval_metric": "nlg", "val_dataset": ["z"]}, "--predict_with_generate true"),
        ({"predict_with_generate": True, "task_type": "embedding", "val_dataset": ["z"]}, "it gives no text"),
        ({"metric_for_best_model": "rouge-l", "val_dataset": ["HELD"]}, "evaluation does not give it"),
    ],
)
def test_what_does_not_go_together_is_told(train: Train, held: Path, options: dict[str, Any], said: str) -> None:
    options = {name: [str(held)] if value == ["HELD"] else value for name, value in options.items()}
    with pytest.raises(SwiftError) as caught:
        train(**options)
    assert said in str(caught.value)
