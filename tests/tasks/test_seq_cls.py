"""Classifiers: from labels of rows to a model that transformers loads by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from swift.cli.main import main
from swift.errors import SwiftError
from swift.export.merge import merge_lora
from swift.tasks.seq_cls import MULTI, SCORES, SINGLE, facts_of
from swift.train.result import SftResult
from tests.tiny import make_tokenizer
from tests.train.conftest import losses

Train = Callable[..., SftResult]
WORDS = ["capital", "colour", "sky", "Paris", "France"]


def rows_of(path: Path, label: Callable[[int], Any], count: int = 20) -> Path:
    texts = [f"the {WORDS[at % 5]} is {WORDS[at % 3]}" + " user" * (at % 4) for at in range(count)]
    rows = [{"text": text, "label": label(at)} for at, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


LABELS: dict[str, tuple[Callable[[int], Any], str, int]] = {
    "class": (lambda at: at % 3, SINGLE, 3),
    "name": (lambda at: ["no", "yes"][at % 2], SINGLE, 2),
    "true or false": (lambda at: at % 2 == 0, SINGLE, 2),
    "classes": (lambda at: [[0, 3], [1], []][at % 3], MULTI, 4),
    "names": (lambda at: [["good", "short"], ["bad"]][at % 2], MULTI, 3),
    "score": (lambda at: at % 5 / 2, SCORES, 1),
    "scores": (lambda at: [at % 5 / 2, 1.0], SCORES, 2),
}


@pytest.fixture
def classify(train: Train, tmp_path: Path) -> Train:
    """`classify(label, max_steps=2, …)`: a run over rows with these labels."""

    def run(label: Callable[[int], Any], **options: Any) -> SftResult:
        given = {"task_type": "seq_cls", "dataset": [str(rows_of(tmp_path / "rows.jsonl", label))], "max_steps": 2}
        return train(**{**given, **options})

    return run


@pytest.mark.parametrize(("kind", "train_type"), [*((kind, "lora") for kind in LABELS), ("class", "full")])
def test_problem_and_classes_are_what_the_labels_are(classify: Train, kind: str, train_type: str) -> None:
    label, problem, count = LABELS[kind]
    result = classify(label, train_type=train_type, split_dataset_ratio=0.3, eval_strategy="steps", eval_steps=1)
    told = json.loads((result.checkpoint / "task.json").read_text())  # type: ignore[operator]
    assert (told["task_type"], told["problem_type"], told["num_labels"]) == ("seq_cls", problem, count)
    figures = {name for entry in result.log for name in entry if name.startswith("eval_")}
    wanted = {SINGLE: {"acc", "f1"}, MULTI: {"acc", "f1_macro"}, SCORES: {"mse", "pearson"}}[problem]
    assert {f"eval_{name}" for name in wanted} <= figures


def logits(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    return model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits.detach()


TEXTS = ["the sky is Paris", "the capital", "the colour of the sky is France user user"]


def answered(rows: Path, **options: Any) -> list[dict[str, Any]]:
    out = rows.with_suffix(".answers")
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += ["--torch_dtype", "float32", "--val_dataset", str(rows), "--result_path", str(out)]
    assert main(["infer", *words]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_whole_classifier_loads_with_transformers_alone(classify: Train, tmp_path: Path) -> None:
    result = classify(LABELS["name"][0], train_type="full", use_chat_template=False)
    model = AutoModelForSequenceClassification.from_pretrained(result.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(result.checkpoint)
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert model.config.id2label == {0: "no", 1: "yes"} and model.config.problem_type == SINGLE
    rows = tmp_path / "ask.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    answers = answered(rows, model=result.checkpoint)
    expected = logits(model, tokenizer, TEXTS)
    assert [answer["response"] for answer in answers] == [["no", "yes"][at] for at in expected.argmax(1)]
    given = torch.tensor([answer["probs"] for answer in answers])
    torch.testing.assert_close(given, expected.softmax(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["class", "classes", "score"])
def test_an_adapter_of_a_classifier_answers_and_merges(
    classify: Train, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = classify(LABELS[kind][0], max_steps=4)
    settings = json.loads((result.checkpoint / "adapter_config.json").read_text())  # type: ignore[operator]
    assert settings["task_type"] == "SEQ_CLS" and "score" in settings["modules_to_save"]
    rows = rows_of(tmp_path / "ask.jsonl", LABELS[kind][0], count=7)
    by_adapter = answered(rows, adapters=result.checkpoint)
    figure = {"class": "acc", "classes": "f1_macro", "score": "spearman"}[kind]
    assert f"{figure} " in capsys.readouterr().err
    merged = merge_lora(str(result.checkpoint), tmp_path / "merged")
    (tmp_path / "ask.answers").unlink()
    by_merged = answered(rows, model=merged)
    for one, other in zip(by_adapter, by_merged, strict=True):
        assert one["labels"] == other["labels"]
        if kind == "score":
            assert one["response"] == pytest.approx(other["response"], abs=1e-4)
        else:
            assert one["probs"] == pytest.approx(other["probs"], abs=1e-4)
    assert type(AutoModelForSequenceClassification.from_pretrained(merged)).__name__ == "LlamaForSequenceClassification"


@pytest.mark.parametrize("kind", ["class", "classes", "score"])
def test_the_loss_of_a_step_does_not_hang_on_how_it_was_split(classify: Train, kind: str) -> None:
    runs = [
        classify(
            LABELS[kind][0],
            per_device_train_batch_size=size,
            gradient_accumulation_steps=times,
            lora_dropout=0.0,
            max_steps=3,
        )
        for size, times in ((8, 1), (2, 4), (1, 8))
    ]
    first = losses(runs[0])
    for other in runs[1:]:
        assert losses(other) == pytest.approx(first, rel=1e-5)


def test_a_run_goes_on_where_it_stopped(classify: Train) -> None:
    label = LABELS["class"][0]
    whole = classify(label, max_steps=4, save_steps=2)
    folder = whole.run_folder / "checkpoint-2"  # type: ignore[operator]
    again = classify(label, max_steps=4, resume_from_checkpoint=str(folder))
    assert losses(again) == losses(whole)


def test_training_goes_on_from_a_classifier(classify: Train) -> None:
    label = LABELS["class"][0]
    given = {"train_type": "full", "split_dataset_ratio": 0.3, "eval_strategy": "steps", "eval_steps": 1}
    first = classify(label, max_steps=2, **given)
    again = classify(label, model=str(first.checkpoint), task_type=None, max_steps=1, learning_rate=0.0, **given)
    last, after = ([entry["eval_loss"] for entry in run.log if "eval_loss" in entry][-1] for run in (first, again))
    assert last == after
    with pytest.raises(SwiftError, match="--num_labels 5: the checkpoint has 3"):
        classify(label, model=str(first.checkpoint), num_labels=5)


def test_an_encoder_gets_what_its_tokenizer_puts_around_a_text(train: Train, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    base, tokenizer = tmp_path / "bert", make_tokenizer(chat_template=None)
    marks = [("<|im_start|>", 1), ("<|im_end|>", 2)]
    single = "<|im_start|> $A <|im_end|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=marks)
    tokenizer.save_pretrained(base)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes), add_pooling_layer=False).save_pretrained(base)
    rows = rows_of(tmp_path / "rows.jsonl", LABELS["class"][0])
    given = {"task_type": "seq_cls", "max_steps": 2, "max_length": 5, "truncation_strategy": "right"}
    result = train(model=str(base), dataset=[str(rows)], train_type="full", **given)
    model = AutoModelForSequenceClassification.from_pretrained(result.checkpoint)
    ask = tmp_path / "ask.jsonl"
    ask.write_text(json.dumps({"text": TEXTS[0]}) + "\n")
    (answer,) = answered(ask, model=result.checkpoint)
    expected = logits(model, AutoTokenizer.from_pretrained(result.checkpoint), [TEXTS[0]])
    torch.testing.assert_close(torch.tensor([answer["probs"]]), expected.softmax(1), atol=1e-5, rtol=1e-5)


def test_the_best_by_a_figure_and_an_early_stop(classify: Train) -> None:
    options = {"split_dataset_ratio": 0.3, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    options |= {"metric_for_best_model": "mse", "early_stop_interval": 2, "learning_rate": 0.3}
    result = classify(LABELS["score"][0], max_steps=30, **options)
    mse = {entry["step"]: entry["eval_mse"] for entry in result.log if "eval_mse" in entry}
    best = min(mse, key=lambda step: mse[step])
    assert result.steps == best + 2 < 30
    state = json.loads((result.checkpoint / "trainer_state.json").read_text())  # type: ignore[operator]
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{best}")


@pytest.mark.parametrize(
    ("label", "options", "said"),
    [
        (lambda at: at % 3, {"num_labels": 2, "problem_type": SINGLE}, r"label 2 is outside --num_labels 2"),
        (lambda at: at % 3 - 1, {}, "label -1 is outside"),
        (lambda at: None, {}, "no label"),
        (lambda at: at / 7, {"problem_type": SINGLE, "num_labels": 3}, "classes are whole numbers"),
        (lambda at: [1, 0, 1], {}, "a class twice"),
        (lambda at: [0.5] * (1 + at % 2), {"problem_type": SCORES, "num_labels": 2}, "1 scores, and --num_labels is 2"),
        (lambda at: "yes" if at else 1, {}, "none of the classes"),
        (lambda at: at % 2, {"packing": True}, "--packing true with --task_type seq_cls"),
        (lambda at: at % 2, {"loss_type": "dft"}, "--loss_type dft with --task_type seq_cls"),
        (lambda at: at % 2, {"metric_for_best_model": "rouge"}, "--metric_for_best_model rouge"),
        (lambda at: at % 2, {"early_stop_interval": 2}, "no rows to evaluate on"),
        (lambda at: at % 2, {"streaming": True, "max_steps": 1}, "--streaming needs --num_labels"),
    ],
)
def test_bad_labels_and_options(
    classify: Train, monkeypatch: pytest.MonkeyPatch, label: Any, options: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr("swift.models.load.load_as", lambda *_, **__: pytest.fail("the weights were loaded"))
    with pytest.raises(SwiftError, match=said):
        classify(label, **options)


def test_a_stream_of_labelled_rows(classify: Train) -> None:
    assert classify(LABELS["class"][0], streaming=True, num_labels=3).steps == 2


def test_rows_with_labels_are_not_for_models_of_text(train: Train, tmp_path: Path) -> None:
    with pytest.raises(SwiftError, match=r"has a label and no answer[\s\S]*--task_type seq_cls"):
        train(dataset=[str(rows_of(tmp_path / "rows.jsonl", LABELS["class"][0]))])


def test_what_labels_are() -> None:
    assert facts_of([0, 2, 1]) == {"kind": "class", "names": [], "classes": 3, "scores": 1}
    assert facts_of(["b", "a"])["names"] == ["a", "b"]
    assert facts_of([[1.5], [1, 2]]) == {"kind": "scores", "names": [], "classes": 3, "scores": 2}
