"""Rerankers: from passages of rows to scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig, BertModel

from swift.cli.main import main
from swift.errors import SwiftError
from swift.train.result import SftResult
from tests.tasks.test_embedding import pairs
from tests.tiny import make_tokenizer
from tests.train.conftest import losses

Train = Callable[..., SftResult]


def ranked(at: int) -> dict[str, Any]:
    return pairs(at) | {"negative": [f"no sky {at}", "the colour"][: 1 + at % 2]}


@pytest.fixture
def rank(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """`rank(max_steps=2, …)`: a run over rows with passages."""
    monkeypatch.setenv("GENERATIVE_RERANKER_POSITIVE_TOKEN", "y")
    monkeypatch.setenv("GENERATIVE_RERANKER_NEGATIVE_TOKEN", "n")

    def run(row: Callable[[int], dict[str, Any]] = ranked, **options: Any) -> SftResult:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row(at)) + "\n" for at in range(16)))
        return train(
            **{"task_type": "reranker", "dataset": [str(path)], "max_steps": 2, "lora_dropout": 0.0, **options}
        )

    return run


def answers(folder: Any, rows: Path, option: str) -> list[dict[str, Any]]:
    out = rows.with_suffix(".answers")
    words = [
        f"--{option}",
        str(folder),
        "--torch_dtype",
        "float32",
        "--val_dataset",
        str(rows),
        "--result_path",
        str(out),
    ]
    assert main(["infer", *words]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize(
    ("task", "loss"),
    [
        ("reranker", "pointwise_reranker"),
        ("reranker", "listwise_reranker"),
        ("generative_reranker", "generative_reranker"),
        ("generative_reranker", "listwise_generative_reranker"),
    ],
)
def test_the_loss_of_a_step_does_not_hang_on_how_it_was_split(rank: Train, task: str, loss: str) -> None:
    given = {"task_type": task, "loss_type": loss, "max_steps": 3}
    runs = [rank(per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, **given) for size in (8, 2)]
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=1e-4)


@pytest.mark.parametrize("task", ["reranker", "generative_reranker"])
def test_a_trained_reranker_scores_passages(
    rank: Train, tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"split_dataset_ratio": 0.3, "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "mrr"}
    result = rank(task_type=task, **given)
    assert any("eval_ndcg" in entry for entry in result.log)
    rows = tmp_path / "ask.jsonl"
    rows.write_text("".join(json.dumps(ranked(at)) + "\n" for at in range(5)))
    found = answers(result.checkpoint, rows, "adapters")
    assert [len(each["response"]) for each in found] == [2, 3, 2, 3, 2]
    assert "mrr " in capsys.readouterr().err


@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="not installed")
def test_a_cross_encoder_of_sentence_transformers(rank: Train, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder
    from tokenizers.processors import TemplateProcessing
    from torch import nn

    base, tokenizer = tmp_path / "bert", make_tokenizer(chat_template=None)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        pair="<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1",
        special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)],
    )
    tokenizer.sep_token = "<|im_end|>"
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.save_pretrained(base)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(base)
    result = rank(model=str(base), train_type="full")
    rows = tmp_path / "ask.jsonl"
    rows.write_text("".join(json.dumps(ranked(at)) + "\n" for at in range(3)))
    found = answers(result.checkpoint, rows, "model")
    theirs = CrossEncoder(str(result.checkpoint), device="cpu")
    asked = [(row["query"], text) for row in map(ranked, range(3)) for text in [row["positive"], *row["negative"]]]
    expected = theirs.predict(asked, activation_fn=nn.Identity())
    given = [score for each in found for score in each["logits"]]
    np.testing.assert_allclose(given, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        (lambda at: {"messages": [{"role": "user", "content": "x"}], "label": 1}, {}, "the row has no passage"),
        (lambda at: ranked(at) | {"negative": []}, {"loss_type": "listwise_reranker"}, "1 passages"),
        (ranked, {"loss_type": "infonce"}, "--loss_type infonce with --task_type reranker"),
        (ranked, {"streaming": True}, "--streaming true with --task_type reranker"),
    ],
)
def test_bad_rows_and_options(rank: Train, row: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SwiftError, match=said):
        rank(row, **options)


def test_words_of_several_tokens(rank: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENERATIVE_RERANKER_POSITIVE_TOKEN", "certainly")
    with pytest.raises(SwiftError, match="'certainly' is"):
        rank(task_type="generative_reranker")
