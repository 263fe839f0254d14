"""The endpoints."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from swift import __version__
from swift.errors import SwiftError
from swift.serve.adapters import add_adapters
from swift.serve.chat import chat
from swift.serve.completions import complete
from swift.serve.errors import ApiError, invalid, mistake
from swift.serve.messages import CountRequest, MessagesRequest, answer_messages, count_tokens
from swift.serve.middleware import Door, Watch
from swift.serve.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from swift.serve.responses import ResponsesRequest, respond
from swift.serve.service import Service
from swift.serve.streams import ClientLeft
from swift.serve.texts import TextModel
from swift.serve.tokens import detokenize, tokenize
from swift.serve.vectors import add_vectors

STREAMS: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}, "text/event-stream": {}}}}
"""What endpoints answer with that stream where that is asked for."""

LOG = logging.getLogger("swift.serve")


def make_app(service: Service) -> FastAPI:
    """The application over one engine."""
    app = FastAPI(title="ms-swift", version=__version__, docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_common(app, service)
    if isinstance(service.engine, TextModel):
        add_vectors(app, service)
    else:
        _add_texts(app, service)
    if service.loads_adapters:
        add_adapters(app, service)
    if service.updates is not None:
        from swift.serve.rollout import add_rollout

        add_rollout(app, service, service.updates)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    app.add_middleware(Door, service=service)
    app.add_middleware(Watch, service=service, paths=paths)
    return app


def _add_common(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        if service.draining:
            raise ApiError(503, "the server is going down")
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.card(name) for name in (service.name, *service.adapters)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.adapter_of(name)
        return service.card(name)


def _add_texts(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", responses=STREAMS)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        return await chat(service, body, request)

    @app.post("/v1/completions", responses=STREAMS)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await complete(service, body, request)

    @app.post("/v1/responses", responses=STREAMS)
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        return await respond(service, body, request)

    @app.post("/v1/messages", responses=STREAMS)
    async def messages(body: MessagesRequest, request: Request) -> Response:
        return await answer_messages(service, body, request)

    @app.post("/v1/messages/count_tokens")
    async def count(body: CountRequest) -> dict[str, int]:
        return await count_tokens(service, body)

    @app.post("/tokenize")
    async def tokenise(body: TokenizeRequest) -> dict[str, Any]:
        return await tokenize(service, body)

    @app.post("/detokenize")
    async def detokenise(body: DetokenizeRequest) -> dict[str, Any]:
        return await detokenize(service, body)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def told(request: Request, error: ApiError) -> Response:
        return error.response(request.url.path)

    @app.exception_handler(SwiftError)
    async def refused(request: Request, error: SwiftError) -> Response:
        return mistake(error).response(request.url.path)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        return invalid(error).response(request.url.path)

    @app.exception_handler(ValidationError)
    async def unlike(request: Request, error: ValidationError) -> Response:
        return invalid(error).response(request.url.path)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return ApiError(error.status_code, message).response(request.url.path, error.headers)

    @app.exception_handler(ClientLeft)
    async def left(request: Request, error: ClientLeft) -> Response:
        return Response(status_code=499)

    @app.exception_handler(UnicodeError)
    async def text(request: Request, error: UnicodeError) -> Response:
        return ApiError(400, "a text of the request holds half a character (a lone surrogate)").response(
            request.url.path
        )

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        LOG.error("%s failed", request.url.path, exc_info=error)
        return ApiError(500, "the server failed at this request; its log says more").response(request.url.path)
