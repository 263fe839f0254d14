"""`/v1/load_lora_adapter` and `/v1/unload_lora_adapter`, by the names and bodies that vLLM has for them."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from pydantic import Field

from swift.errors import SwiftError, first_line
from swift.serve.errors import ApiError
from swift.serve.protocol import Body
from swift.serve.service import Service


class LoadRequest(Body):
    """The body of /v1/load_lora_adapter."""

    lora_name: str = Field(min_length=1)
    lora_path: str = Field(min_length=1)


class UnloadRequest(Body):
    """The body of /v1/unload_lora_adapter."""

    lora_name: str = Field(min_length=1)


def folder_of(given: str, name: str, within: Path | None = None) -> Path:
    """A folder of the server that a request names.

    Args:
        name: the request's parameter.
        within: where it must lie; None allows all places.

    Raises:
        ApiError: it lies elsewhere, is not there, or is no path at all.
    """
    try:
        folder = Path(given) if within is None else Path(given).expanduser().resolve()
        if within is not None and not folder.is_relative_to(within):
            raise ApiError(400, f"{name} {given} does not lie in {within}", param=name)
        there = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise ApiError(400, f"{name} is no path: {first_line(error)}", param=name) from None
    if not there:
        raise ApiError(404, f"{name} {given} is no folder of the server", param=name)
    return folder


def add_adapters(app: FastAPI, service: Service) -> None:
    """The two endpoints."""

    @app.post("/v1/load_lora_adapter", response_class=PlainTextResponse)
    async def load(body: LoadRequest) -> PlainTextResponse:
        name = body.lora_name
        if name == service.name or name in service.adapters:
            raise ApiError(400, f"there is a model {name} already", param="lora_name")
        folder = folder_of(body.lora_path, "lora_path")

        def add() -> None:
            service.engine.add_adapter(name, folder)
            if name not in service.adapters:
                service.adapters.append(name)

        await service.change(add)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    @app.post("/v1/unload_lora_adapter", response_class=PlainTextResponse)
    async def unload(body: UnloadRequest) -> PlainTextResponse:
        name = body.lora_name
        if name not in service.adapters:
            raise ApiError(404, f"there is no adapter {name}", param="lora_name")
        service.adapters.remove(name)

        def remove() -> None:
            try:
                service.engine.remove_adapter(name)
            except SwiftError:
                service.adapters.append(name)
                raise

        await service.change(remove)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")
