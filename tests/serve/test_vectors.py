"""Embedders, rerankers and classifiers behind the server."""

from __future__ import annotations

import concurrent.futures

import httpx
import numpy as np
import openai
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from swift.config import Decisions
from swift.config.commands import DeployConfig
from swift.serve.run import find_model, load_texts
from swift.serve.server import Server
from swift.serve.service import Limits, Service
from swift.tasks.choose import open_task
from tests.tiny import make_tokenizer, save_bert

TEXTS = ["the sky", "the capital of France is Paris", "你好"]


def serve(folder, task_type, **limits):
    config = DeployConfig.of(model=str(folder), task_type=task_type, torch_dtype="float32", max_length=64)
    decisions = Decisions()
    source, _ = find_model(config, decisions)
    engine = load_texts(config, source, open_task(config, source, decisions), decisions)
    return Server(Service(engine, "tiny", limits=Limits(**limits)))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    folder = save_bert(tmp_path_factory.mktemp("embedder"))
    with serve(folder, "embedding") as server:
        yield server, folder


def vectors_of(folder):
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), make_tokenizer(None)
    with torch.inference_mode():
        states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]
    return states


def test_embeddings_of_the_official_client(embedder):
    server, folder = embedder
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    # The client asks for base64 by itself and decodes it.
    found = client.embeddings.create(model="tiny", input=TEXTS)
    plain = client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    ours = np.array([each.embedding for each in found.data])
    assert np.allclose(ours, [each.embedding for each in plain.data])
    pooled = [states.mean(0).numpy() for states in vectors_of(folder)]
    for row, wanted in zip(ours, pooled, strict=True):
        assert row @ wanted / np.linalg.norm(row) / np.linalg.norm(wanted) == pytest.approx(1, abs=1e-5)
    tokens = make_tokenizer(None)
    assert found.usage.prompt_tokens == sum(len(tokens.encode(text)) for text in TEXTS)
    by_ids = client.embeddings.create(model="tiny", input=tokens.encode(TEXTS[0]))
    assert np.allclose(by_ids.data[0].embedding, ours[0], atol=1e-5)
    assert len(client.embeddings.create(model="tiny", input="a", dimensions=8).data[0].embedding) == 8
    for wrong, said in (({"input": []}, "no text"), ({"input": "a", "dimensions": 99}, "there are 32")):
        with pytest.raises(openai.BadRequestError, match=said):
            client.embeddings.create(model="tiny", **wrong)
    with pytest.raises(openai.BadRequestError, match="the model takes 64"):
        client.embeddings.create(model="tiny", input="sky " * 100)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="other", input="a")


def test_texts_of_many_clients_share_batches_and_are_not_mixed(embedder):
    server, _ = embedder
    texts = [f"{'sky ' * (at % 7)}{at}" for at in range(40)]

    def ask(text):
        return httpx.post(f"{server.url}/v1/embeddings", json={"input": text}, timeout=60).json()["data"][0][
            "embedding"
        ]

    alone = [ask(text) for text in texts]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, texts))
    assert np.allclose(alone, together, atol=1e-5)
    assert server.service.open == 0


def test_scores_of_embeddings_are_cosines(embedder):
    server, folder = embedder
    body = {"text_1": TEXTS[0], "text_2": TEXTS}
    data = httpx.post(f"{server.url}/v1/score", json=body).json()["data"]
    pooled = np.stack([states.mean(0).numpy() for states in vectors_of(folder)])
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    assert [each["score"] for each in data] == pytest.approx((pooled @ pooled[0]).tolist(), abs=1e-4)
    assert httpx.post(f"{server.url}/v1/score", json={"text_1": ["a", "b"], "text_2": TEXTS}).status_code == 400
    refused = httpx.post(f"{server.url}/v1/rerank", json={"query": "a", "documents": TEXTS})
    assert refused.status_code == 400 and "task is embedding" in refused.json()["error"]["message"]


def test_reranking(tmp_path):
    folder = save_bert(tmp_path / "reranker", num_labels=1)
    with serve(folder, "reranker", max_queue=8) as server:
        body = {"query": "what is the sky?", "documents": TEXTS, "top_n": 2}
        found = httpx.post(f"{server.url}/v1/rerank", json=body).json()
        scored = httpx.post(f"{server.url}/v1/score", json={"text_1": body["query"], "text_2": TEXTS}).json()
        scores = [each["score"] for each in scored["data"]]
        order = sorted(range(3), key=lambda at: -scores[at])[:2]
        assert [each["index"] for each in found["results"]] == order
        assert [each["relevance_score"] for each in found["results"]] == [scores[at] for at in order]
        assert found["results"][0]["document"] == {"text": TEXTS[order[0]]}
        model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), make_tokenizer(None)
        with torch.inference_mode():
            inputs = tokenizer(body["query"], TEXTS[0], return_tensors="pt")
            inputs.pop("token_type_ids", None)
            wanted = torch.sigmoid(model(**inputs).logits[0, 0])
        assert scores[0] == pytest.approx(float(wanted), abs=1e-4)
        many = httpx.post(f"{server.url}/v1/rerank", json={**body, "documents": ["a"] * 20})
        assert many.status_code == 400 and server.service.open == 0


def test_classes(tmp_path):
    folder = save_bert(tmp_path / "classes", id2label={0: "no", 1: "yes"}, problem_type="single_label_classification")
    with serve(folder, None) as server:
        data = httpx.post(f"{server.url}/v1/classify", json={"input": TEXTS}).json()["data"]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), make_tokenizer(None)
    for text, told in zip(TEXTS, data, strict=True):
        with torch.inference_mode():
            probs = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        assert told["probs"] == pytest.approx(probs.tolist(), abs=1e-4)
        assert told["label"] in (["no", "yes"][int(probs.argmax())], int(probs.argmax()))
