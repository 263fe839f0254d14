"""`/v1/completions`: texts that the model goes on with as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from swift.engines.base import Choice, InferRequest, RequestConfig, Usage
from swift.engines.base import Response as Answers
from swift.engines.detokenize import decode
from swift.serve.chat import usage_of
from swift.serve.errors import ApiError
from swift.serve.logprobs import LogprobWriter
from swift.serve.parameters import text_config
from swift.serve.protocol import CompletionRequest
from swift.serve.service import Asked, Service
from swift.serve.streams import EventStream, event, new_id, now, while_there, with_errors


async def complete(service: Service, body: CompletionRequest, http: Request) -> Response:
    """Go on with texts, at once or piece by piece.

    Raises:
        ApiError: it cannot be done.
    """
    config = text_config(service, body)
    adapter = service.adapter_of(body.model)
    if not body.prompts:
        raise ApiError(400, "prompt is an empty list", param="prompt")
    requests = [InferRequest(prompt=prompt, adapter=adapter) for prompt in body.prompts]
    writer = TextWriter(service, body, config)
    if not body.stream:
        return JSONResponse(await while_there(http, _whole(service, requests, config, writer)))
    asked = await service.begin(requests, config, whole=False)
    return EventStream(with_errors(writer.events(asked)), asked.close)


async def _whole(
    service: Service, requests: list[InferRequest], config: RequestConfig, writer: TextWriter
) -> dict[str, Any]:
    asked = await service.begin(requests, config, whole=True)
    try:
        return writer.answer(await asked.responses())
    finally:
        asked.close()


class TextWriter:
    """Writes the answers to one request in OpenAI's form; choices are counted through all prompts."""

    def __init__(self, service: Service, body: CompletionRequest, config: RequestConfig) -> None:
        self._service, self._body, self._config = service, body, config
        self._tokenizer = getattr(service.engine, "tokenizer", None)
        self._logprobs = LogprobWriter(self._tokenizer, bool(body.return_tokens_as_token_ids))
        self._echo = [self._text(prompt) if body.echo else "" for prompt in body.prompts]
        self._head = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": now(),
            "model": body.model or service.name,
        }

    def _text(self, prompt: str | list[int]) -> str:
        if isinstance(prompt, str):
            return prompt
        # An id that is none is refused when the request is taken.
        tokenizer: Any = self._tokenizer
        return decode(tokenizer, prompt) if all(0 <= token < len(tokenizer) for token in prompt) else ""

    def answer(self, responses: list[Answers]) -> dict[str, Any]:
        """The whole answer."""
        choices = [
            self._choice(place, choice) for place, response in enumerate(responses) for choice in response.choices
        ]
        return {**self._head, "choices": choices, "usage": usage_of(_sum(responses))}

    def _choice(self, place: int, choice: Choice) -> dict[str, Any]:
        before = self._echo[place]
        found = choice.logprobs
        written = {
            "index": place * self._config.n + choice.index,
            "text": before + choice.text,
            "logprobs": self._logprobs.text(found, len(before)) if found is not None else None,
            "finish_reason": choice.finish_reason,
        }
        return written | ({"token_ids": choice.token_ids} if self._body.return_token_ids else {})

    async def events(self, asked: Asked) -> AsyncIterator[str]:
        """The pieces as events."""
        wants_usage = self._body.stream_options is not None and self._body.stream_options.include_usage
        more = {"usage": None} if wants_usage else {}
        lengths: dict[int, int] = {}
        responses: list[Answers] = []
        async for place, delta in asked.pieces():
            index = place * self._config.n + delta.index
            text = delta.text if index in lengths else self._echo[place] + delta.text
            start = lengths.get(index, 0)
            lengths[index] = start + len(text)
            if delta.response is not None:
                responses.append(delta.response)
            if not (text or delta.logprobs or delta.finish_reason):
                continue
            choice: dict[str, Any] = {
                "index": index,
                "text": text,
                "logprobs": self._logprobs.text(delta.logprobs, start) if delta.logprobs else None,
                "finish_reason": delta.finish_reason,
            }
            choice |= {"token_ids": delta.token_ids} if self._body.return_token_ids else {}
            yield event({**self._head, "choices": [choice], **more})
        if wants_usage:
            yield event({**self._head, "choices": [], "usage": usage_of(_sum(responses))})


def _sum(responses: list[Answers]) -> Usage:
    return Usage(
        sum(response.usage.prompt_tokens for response in responses),
        sum(response.usage.completion_tokens for response in responses),
    )
