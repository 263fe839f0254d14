"""Embeddings, scores and classes from Python are what transformers gives for each text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from swift import TextEngine
from swift.errors import SwiftError
from tests.tiny import make_tokenizer, save_bert, save_tiny

TEXTS = ["the sky", "the capital of France is Paris", "你好"]


def pooled(folder: Path, text: str) -> np.ndarray:
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        mean = model(**make_tokenizer(None)(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
    return mean / np.linalg.norm(mean)


def logits(folder: Path, *text: str) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = make_tokenizer(None)(*text, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        return model(**inputs).logits[0]


def test_embeddings(tmp_path: Path) -> None:
    folder = save_bert(tmp_path)
    engine = TextEngine(str(folder), task_type="embedding", torch_dtype="float32", max_batch_size=2, max_length=64)
    found, wanted = engine.embed(TEXTS), np.stack([pooled(folder, text) for text in TEXTS])
    assert found.dtype == np.float32 and found.shape == wanted.shape
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    assert np.allclose(found, wanted, atol=1e-5)
    assert engine.embed([]).shape == (0,)
    assert engine.embed([make_tokenizer(None).encode(TEXTS[0])], 8).shape == (1, 8)
    turns = [{"role": "user", "content": TEXTS[0]}]
    assert np.allclose(engine.embed([turns]), engine.embed([TEXTS[0]]))
    assert engine.score(TEXTS[0], TEXTS) == pytest.approx((wanted @ wanted[0]).tolist(), abs=1e-5)
    assert engine.rerank(TEXTS[0], TEXTS, top_n=1)[0][0] == 0
    for call, said in (
        (lambda: engine.embed(["sky " * 100]), "the model takes 64"),
        (lambda: engine.embed(["sky"], 99), "there are 32"),
        (lambda: engine.embed([[999999]]), "999999 is no token id"),
        (lambda: engine.classify(TEXTS), "this model's task is embedding"),
    ):
        with pytest.raises(SwiftError, match=said):
            call()


def test_scores_of_passages(tmp_path: Path) -> None:
    folder = save_bert(tmp_path, num_labels=1)
    engine = TextEngine(str(folder), task_type="reranker", torch_dtype="float32")
    wanted = torch.stack([logits(folder, "what is the sky?", text)[0] for text in TEXTS])
    found = engine.score("what is the sky?", TEXTS)
    assert found == pytest.approx(wanted.sigmoid().tolist(), abs=1e-5)
    assert engine.score("what is the sky?", TEXTS, activation=False) == pytest.approx(wanted.tolist(), abs=1e-4)
    order = wanted.argsort(descending=True).tolist()
    assert engine.rerank("what is the sky?", TEXTS) == [(at, found[at]) for at in order]
    ids = make_tokenizer(None).encode(TEXTS[0])
    for question, passage in ((ids, TEXTS[0]), (TEXTS[0], ids)):
        with pytest.raises(SwiftError, match="token ids"):
            engine.score(question, [passage])
    assert engine.score("what is the sky?", []) == []


def test_classes(tmp_path: Path) -> None:
    folder = save_bert(tmp_path, id2label={0: "no", 1: "yes"}, problem_type="single_label_classification")
    for text, told in zip(TEXTS, TextEngine(str(folder), torch_dtype="float32").classify(TEXTS), strict=True):
        probs = logits(folder, text).softmax(-1)
        assert told["probs"] == pytest.approx(probs.tolist(), abs=1e-5)
        assert told["response"] == ["no", "yes"][int(probs.argmax())]


def test_a_model_that_writes_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SwiftError, match="writes text") as error:
        TextEngine(str(save_tiny(tmp_path)))
    assert "task_type='embedding'" in str(error.value)
    with pytest.raises(SwiftError, match="the model and the template and the task"):
        TextEngine(str(tmp_path), temperature=1.0)
