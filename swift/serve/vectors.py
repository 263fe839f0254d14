"""`/v1/embeddings`, `/v1/rerank`, `/v1/score` and `/v1/classify`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI, Request
from pydantic import Field

from swift.engines.texts import RERANKERS, cosine
from swift.rows import EncodedRow
from swift.serve.errors import ApiError, failure
from swift.serve.protocol import Body
from swift.serve.service import Service
from swift.serve.streams import new_id, now, while_there
from swift.serve.texts import TextModel, text_model


class Texts(Body):
    """A request about texts."""

    model: str | None = None
    input: str | list[int] | list[str] | list[list[int]]

    @property
    def texts(self) -> list[Any]:
        """The texts one by one."""
        single = isinstance(self.input, str) or (bool(self.input) and isinstance(self.input[0], int))
        return [self.input] if single else list(self.input)


class EmbeddingRequest(Texts):
    """The body of /v1/embeddings."""

    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)


class RerankRequest(Body):
    """The body of /v1/rerank."""

    model: str | None = None
    query: str
    documents: list[str] = Field(min_length=1)
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = True


class ScoreRequest(Body):
    """The body of /v1/score: one text with each of others, or pairs."""

    model: str | None = None
    text_1: str | list[str]
    text_2: str | list[str]


def add_vectors(app: FastAPI, service: Service) -> None:
    """The endpoints of models that give one thing for a whole text."""

    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingRequest, request: Request) -> dict[str, Any]:
        return await while_there(request, _embed(service, body))

    @app.post("/v1/rerank")
    async def rerank(body: RerankRequest, request: Request) -> dict[str, Any]:
        return await while_there(request, _rerank(service, body))

    @app.post("/v1/score")
    async def score(body: ScoreRequest, request: Request) -> dict[str, Any]:
        return await while_there(request, _score(service, body))

    @app.post("/v1/classify")
    async def classify(body: Texts, request: Request) -> dict[str, Any]:
        return await while_there(request, _classify(service, body))


async def _embed(service: Service, body: EmbeddingRequest) -> dict[str, Any]:
    model = text_model(service, "embedding")
    samples, outputs = await _outputs(service, body.model, [(text, None) for text in body.texts])
    if body.dimensions is not None and body.dimensions > len(outputs[0]):
        raise ApiError(400, f"dimensions is {body.dimensions}; there are {len(outputs[0])}", param="dimensions")
    vectors = [model.engine.embedding(output, body.dimensions) for output in outputs]
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": body.model or service.name, "usage": _usage(samples)}


def _written(vector: np.ndarray, form: str | None) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()


async def _rerank(service: Service, body: RerankRequest) -> dict[str, Any]:
    model = text_model(service, *RERANKERS)
    samples, outputs = await _outputs(service, body.model, [(body.query, passage) for passage in body.documents])
    scores = model.engine.scores(outputs, model.activation)
    order = sorted(range(len(scores)), key=lambda at: -scores[at])[: body.top_n]
    results = [
        {"index": at, "relevance_score": scores[at]}
        | ({"document": {"text": body.documents[at]}} if body.return_documents else {})
        for at in order
    ]
    return {
        "id": new_id("rerank"),
        "model": body.model or service.name,
        "results": results,
        "usage": _usage(samples),
    }


async def _score(service: Service, body: ScoreRequest) -> dict[str, Any]:
    """By the reranker's score, or the cosine of embeddings."""
    model = text_model(service, *RERANKERS, "embedding")
    pairs = _pairs(body)
    if model.kind == "embedding":
        samples, outputs = await _outputs(service, body.model, [(text, None) for pair in pairs for text in pair])
        scores = [cosine(outputs[at], outputs[at + 1]) for at in range(0, len(outputs), 2)]
    else:
        samples, outputs = await _outputs(service, body.model, pairs)
        scores = model.engine.scores(outputs, model.activation)
    data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)]
    head = {"id": new_id("score"), "object": "list", "created": now(), "model": body.model or service.name}
    return {**head, "data": data, "usage": _usage(samples)}


def _pairs(body: ScoreRequest) -> list[tuple[str, str]]:
    ones = [body.text_1] if isinstance(body.text_1, str) else body.text_1
    others = [body.text_2] if isinstance(body.text_2, str) else body.text_2
    ones = ones * len(others) if len(ones) == 1 else ones
    if not ones or len(ones) != len(others):
        raise ApiError(400, f"text_1 has {len(ones)} texts and text_2 {len(others)}; give as many, or one text_1")
    return list(zip(ones, others, strict=True))


async def _classify(service: Service, body: Texts) -> dict[str, Any]:
    model = text_model(service, "seq_cls")
    samples, outputs = await _outputs(service, body.model, [(text, None) for text in body.texts])
    data = []
    for index, output in enumerate(outputs):
        told = model.engine.task.told(output[None])
        data.append({"index": index, "label": told["response"], "probs": told.get("probs"), "num_classes": len(output)})
    head = {"id": new_id("classify"), "object": "list", "created": now(), "model": body.model or service.name}
    return {**head, "data": data, "usage": _usage(samples)}


async def _outputs(
    service: Service, name: str | None, texts: Sequence[tuple[Any, str | None]]
) -> tuple[list[EncodedRow], list[np.ndarray]]:
    """The samples of texts, and what the model gives for them.

    Raises:
        ApiError: one of them cannot be asked about, or the server has no room.
    """
    service.adapter_of(name)
    if not texts:
        raise ApiError(400, "there is no text", param="input")
    model: TextModel = service.engine
    with service.room(len(texts)):
        samples = [await service.in_turn(model.engine.sample, *text) for text in texts]
        try:
            return samples, await service.in_time(model.outputs(samples))
        except Exception as error:
            service.metrics.note_failure(error)
            raise failure(error) from error


def _usage(samples: list[EncodedRow]) -> dict[str, int]:
    tokens = sum(sample.length for sample in samples)
    return {"prompt_tokens": tokens, "total_tokens": tokens}
