"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`, and the status that goes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from swift.engines.base import RequestConfig
from swift.errors import SwiftError

TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""The type of an error by its status; 400 and its neighbours are invalid_request_error, 500 is server_error."""
PARAMETERS = {field.name for field in fields(RequestConfig)}


class ApiError(Exception):
    """What a client is told instead of an answer.

    Args:
        status: of HTTP.
        message: what is wrong and what to do about it.
        param: the field of the request that is wrong.
        code: a word that programs look at.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        self.status, self.message, self.param, self.code = status, message, param, code
        super().__init__(message)

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI writes it."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        code = self.code or (None if self.status == 400 else HTTPStatus(self.status).phrase.lower().replace(" ", "_"))
        return {"error": {"message": printable(self.message), "type": kind, "param": self.param, "code": code}}

    @property
    def anthropic(self) -> dict[str, Any]:
        """The error as Anthropic writes it."""
        others = {413: "request_too_large", 500: "api_error"}
        kind = others.get(self.status, self.body["error"]["type"])
        return {"type": "error", "error": {"type": kind, "message": printable(self.message)}}

    def response(self, path: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """The same as an answer of HTTP, in the form that who asks at this path knows."""
        body = self.anthropic if path.startswith("/v1/messages") else self.body
        return JSONResponse(body, self.status, headers=dict(headers or {}))


def printable(text: str) -> str:
    """A text without halves of characters, which no answer can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


def mistake(error: SwiftError, param: str | None = None) -> ApiError:
    """What an engine refuses is the request's mistake."""
    first = error.what.partition(" ")[0].partition(".")[0]
    told = error.what + (f"; {error.fix}" if error.fix else "")
    return ApiError(400, told, param=param or (first if first in PARAMETERS else None))


def failure(error: BaseException) -> ApiError:
    """What went wrong while an answer was generated."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, SwiftError):
        return ApiError(503, error.what + (f"; {error.fix}" if error.fix else ""))
    return ApiError(500, "the server failed at this request; its log says more")


def invalid(error: RequestValidationError | ValidationError) -> ApiError:
    """The first thing that is wrong with a request's body."""
    first: Any = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first.get('ctx', {}).get('error', 'broken')}")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{place}: this server knows no such parameter", param=place, code="unknown_parameter")
    return ApiError(400, f"{place or 'the body'}: {_plain(first)}", param=place or None)


def _plain(error: Mapping[str, Any]) -> str:
    message: str = error["msg"]
    return message.removeprefix("Value error, ")


def media(parts: Sequence[str], *, reads_media: bool) -> ApiError:
    """Parts of a content that are not read."""
    told = ", ".join(dict.fromkeys(parts))
    what = f"there is no type of part {told}" if reads_media else f"this model reads text alone, and there are {told}"
    return ApiError(400, f"{what}; send text", param="messages")
