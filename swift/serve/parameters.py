"""From a request's parameters to the engine's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from swift.engines.base import RequestConfig
from swift.errors import SwiftError
from swift.serve.errors import ApiError, mistake
from swift.serve.protocol import ChatRequest, CompletionRequest, Sampling
from swift.serve.service import Service

if TYPE_CHECKING:
    from swift.serve.rollout import RolloutSampling

SAME = (
    "n", "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "stop_token_ids", "min_tokens", "ignore_eos", "max_tokens",
)  # fmt: skip
"""Parameters that are called alike."""


def chat_config(service: Service, body: ChatRequest, structure: dict[str, Any] | None) -> RequestConfig:
    """The parameters of a chat.

    Args:
        structure: what the answer must be for the sake of a tool.

    Raises:
        ApiError: one of them is wrong.
    """
    limit = body.max_completion_tokens or body.max_tokens
    top = body.top_logprobs or 0
    return _config(service, body, structure, max_tokens=limit, logprobs=bool(body.logprobs), top_logprobs=top)


def text_config(service: Service, body: CompletionRequest) -> RequestConfig:
    """The parameters of a completion.

    Raises:
        ApiError: one of them is wrong.
    """
    asked, top = body.logprobs is not None, max(body.logprobs or 0, body.prompt_logprobs or 0)
    config = _config(service, body, None, max_tokens=body.max_tokens or None, logprobs=asked, top_logprobs=top)
    return config.with_values(top_logprobs=body.logprobs or 0)


def rollout_config(service: Service, body: RolloutSampling) -> RequestConfig:
    """The parameters of a training run's answers.

    Raises:
        ApiError: one of them is wrong.
    """
    top = body.top_logprobs or 0
    return _config(service, body, None, max_tokens=body.max_tokens, logprobs=body.logprobs, top_logprobs=top)


def _config(
    service: Service, body: Sampling, structure: dict[str, Any] | None, *, top_logprobs: int, **more: Any
) -> RequestConfig:
    if top_logprobs > service.limits.max_logprobs:
        raise ApiError(
            400, f"top_logprobs is {top_logprobs}; {service.limits.max_logprobs} are the most", param="top_logprobs"
        )
    values = {name: getattr(body, name, None) for name in SAME} | more
    values |= {"top_k": None if body.top_k is None else max(body.top_k, 0), "top_logprobs": top_logprobs}
    values["stop"] = body.stop
    if body.logit_bias:
        values["logit_bias"] = {int(token): bias for token, bias in body.logit_bias.items()}
    wanted = _structure(body)
    if structure is not None and wanted is not None:
        raise ApiError(
            400,
            "tool_choice asks for a call, whose arguments follow the tool's own schema, and the request says what the "
            "answer must be besides; give one of them",
            param="tool_choice",
        )
    values["structured_outputs"] = structure or wanted
    try:
        return service.defaults.with_values(**{name: value for name, value in values.items() if value is not None})
    except SwiftError as error:
        raise mistake(error) from error


def _structure(body: Sampling) -> dict[str, Any] | None:
    """What the answer must be.

    Raises:
        ApiError: it is said in two ways, or a schema is broken.
    """
    found: dict[str, Any] = {}
    for name in ("json", "regex", "choice", "grammar"):
        if (value := getattr(body, f"guided_{name}")) is not None:
            found[f"guided_{name}"] = {name: value}
    if body.structured_outputs is not None:
        found["structured_outputs"] = {k: v for k, v in body.structured_outputs.items() if v is not None}
    form = body.response_format
    if form is not None and form.type == "json_object":
        found["response_format"] = {"json_object": True}
    elif form is not None and form.json_schema is not None:
        found["response_format"] = {"json": form.json_schema.schema_}
    if len(found) > 1:
        raise ApiError(400, f"{' and '.join(found)} both say what the answer must be; give one", param=list(found)[1])
    wanted = next(iter(found.values()), None)
    if wanted is not None and isinstance(wanted.get("json"), str):
        try:
            wanted["json"] = json.loads(wanted["json"])
        except ValueError as error:
            raise ApiError(400, f"{next(iter(found))} is no JSON: {error}", param=next(iter(found))) from None
    return wanted
