"""What a training run asks of `swift rollout`: answers as token ids, and new weights."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, model_validator

from swift.engines.base import Choice, InferRequest
from swift.errors import SwiftError, first_line
from swift.serve.adapters import folder_of
from swift.serve.chat import messages_of, usage_of
from swift.serve.errors import ApiError, mistake
from swift.serve.parameters import rollout_config
from swift.serve.protocol import Body, Sampling, Tool, Turn
from swift.serve.service import Service
from swift.serve.streams import while_there
from swift.serve.tools import plain_tools

TENSORS = ("application/octet-stream", "application/x-safetensors", "application/vnd.safetensors")
"""Types of a body that is a safetensors file."""
CONFIG = "adapter_config"
"""The metadata of a safetensors body that hold an adapter's settings as JSON."""


class RolloutSampling(Sampling):
    """How answers are sampled; log-probabilities come along unless they are declined."""

    max_tokens: int | None = Field(None, ge=1)
    logprobs: bool = True
    top_logprobs: int | None = Field(None, ge=0)


class RolloutRequest(Body):
    """A conversation, or a prompt as it is."""

    messages: list[Turn] | None = None
    prompt: str | list[int] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _one(self) -> RolloutRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give messages or prompt")
        return self


class InferBody(Body):
    """The body of /infer."""

    infer_requests: list[RolloutRequest] = Field(min_length=1)
    request_config: RolloutSampling | None = None


class WeightsFolder(Body):
    """Where a saved model lies."""

    path: str = Field(min_length=1)


class AdapterFolder(WeightsFolder):
    """Where an adapter lies, and what requests call it."""

    name: str = Field(min_length=1)


@dataclass
class Updates:
    """New weights that a server takes.

    Attributes:
        allowed: the folder in which saved weights may lie; None takes none from folders.
        version: how often the weights have changed.
    """

    allowed: Path | None = None
    version: int = 0

    def folder(self, given: str) -> Path:
        """A folder that may be read.

        Raises:
            ApiError: it may not, or is not there.
        """
        if self.allowed is None:
            raise ApiError(400, "path: this server reads no folders; --allowed_update_path names one", param="path")
        return folder_of(given, "path", within=self.allowed.expanduser().resolve())


def add_rollout(app: FastAPI, service: Service, updates: Updates) -> None:
    """The endpoints, by the names that trainers know."""

    @app.post("/infer")
    async def infer(body: InferBody, request: Request) -> Response:
        return JSONResponse(await while_there(request, _infer(service, body, updates)))

    @app.get("/get_world_size")
    async def world_size() -> dict[str, int]:
        return {"world_size": 1}

    @app.post("/reset_prefix_cache")
    async def reset() -> dict[str, Any]:
        await service.change(service.engine.forget)
        return {"version": updates.version}

    @app.post("/update_weights")
    async def weights(request: Request) -> dict[str, Any]:
        if _is_file(request):
            data = await request.body()
            tensors = await service.change(lambda: _tensors(data))
        else:
            folder = updates.folder(WeightsFolder.model_validate(await _json(request)).path)
            tensors = await service.change(lambda: service.engine.read_weights(folder))
        return await _change(service, updates, lambda: service.engine.update_weights(tensors))

    @app.post("/update_adapter")
    async def adapter(request: Request) -> dict[str, Any]:
        if _is_file(request):
            name, data = request.query_params.get("name", ""), await request.body()
            with tempfile.TemporaryDirectory(prefix="swift-adapter-") as place:
                await service.change(lambda: _write_adapter(Path(place), data))
                return await _change(service, updates, _replacing(service, name, Path(place)))
        body = AdapterFolder.model_validate(await _json(request))
        return await _change(service, updates, _replacing(service, body.name, updates.folder(body.path)))


async def _infer(service: Service, body: InferBody, updates: Updates) -> dict[str, Any]:
    config = rollout_config(service, body.request_config or RolloutSampling.model_validate({}))
    requests = [_request(service, each) for each in body.infer_requests]
    asked = await service.begin(requests, config, whole=True)
    try:
        version = updates.version
        responses = await asked.responses()
    finally:
        asked.close()
    told = [
        {
            "prompt_token_ids": prompt,
            "choices": [_choice(choice) for choice in response.choices],
            "usage": usage_of(response.usage),
        }
        for prompt, response in zip(asked.prompts, responses, strict=True)
    ]
    return {"responses": told, "version": version}


def _request(service: Service, given: RolloutRequest) -> InferRequest:
    adapter = service.adapter_of(given.model)
    if given.prompt is not None:
        return InferRequest(prompt=given.prompt, adapter=adapter)
    return InferRequest(
        messages_of(given.messages or [], reads_media=service.reads_media),
        plain_tools(given.tools),
        chat_template_kwargs=given.chat_template_kwargs or {},
        adapter=adapter,
    )


def _choice(choice: Choice) -> dict[str, Any]:
    logprobs = choice.logprobs
    told: dict[str, Any] = {
        "index": choice.index,
        "message": choice.message.to_message(),
        "finish_reason": choice.finish_reason,
        "token_ids": choice.token_ids,
        "logprobs": None if logprobs is None else [each.logprob for each in logprobs],
    }
    if logprobs and logprobs[0].top:
        told["top_logprobs"] = [each.top for each in logprobs]
    return told


async def _change(service: Service, updates: Updates, function: Callable[[], Any]) -> dict[str, Any]:
    """Change the weights once the answers under way are whole; those that come meanwhile are answered with the new.

    Raises:
        ApiError: the weights do not fit, or the answers take longer than is allowed; nothing has changed then.
    """
    await service.in_time(service.gate.close())
    try:
        await asyncio.get_running_loop().run_in_executor(service.loading, function)
        updates.version += 1
    except SwiftError as error:
        raise mistake(error) from error
    finally:
        service.gate.open()
    return {"version": updates.version}


def _replacing(service: Service, name: str, folder: Path) -> Callable[[], None]:
    """What puts an adapter in place of the one of its name, or beside the others.

    Raises:
        ApiError: it has no name, or the model's.
    """
    if not name or name == service.name:
        raise ApiError(400, f"name is {name!r}; give the adapter one of its own", param="name")

    def replace() -> None:
        service.engine.replace_adapter(name, folder)
        if name not in service.adapters:
            service.adapters.append(name)

    return replace


def _is_file(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() in TENSORS


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise ApiError(
            400, f"the body is neither JSON ({first_line(error)}) nor, by its content type, {TENSORS[0]}"
        ) from None


def _tensors(data: bytes) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ApiError(400, f"the body is no safetensors file: {first_line(error)}") from None
    if not found:
        raise ApiError(400, "the body holds no tensors")
    return found


def _write_adapter(folder: Path, data: bytes) -> None:
    """The files of an adapter that came as one body.

    Raises:
        ApiError: the body lacks the adapter's settings, or is no safetensors file.
    """
    _tensors(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    settings = (header.get("__metadata__") or {}).get(CONFIG)
    if settings is None:
        raise ApiError(400, f"the body's metadata lack {CONFIG}: the adapter's adapter_config.json as a text")
    (folder / "adapter_config.json").write_text(settings, encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(data)
