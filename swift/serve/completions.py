"""`/v1/completions`: texts that the model goes on with as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from swift.engines.base import ChatMessage, Choice, InferRequest, Logprob, RequestConfig, Scored, Usage
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
    if body.scores:
        top = max(body.logprobs or 0, body.prompt_logprobs or 0)
        writer.scored = await while_there(http, service.score(requests, top))
    if body.max_tokens == 0:
        lengths = [len(each.token_ids) for each in writer.scored]
        return _nothing_new(
            writer, body, lengths or [await service.in_turn(_length, service, each) for each in requests]
        )
    if not body.stream:
        return JSONResponse(await while_there(http, _whole(service, requests, config, writer)))
    asked = await service.begin(requests, config, whole=False)
    return EventStream(with_errors(writer.events(asked)), asked.close)


def _length(service: Service, request: InferRequest) -> int:
    """Tokens of a prompt.

    Raises:
        SwiftError: it is none, or too long.
    """
    return len(service.engine.encode(request))


def _nothing_new(writer: TextWriter, body: CompletionRequest, lengths: list[int]) -> Response:
    """The prompts alone, as an answer.

    Args:
        lengths: of the prompts, in tokens.

    Raises:
        ApiError: they should come piece by piece.
    """
    if body.stream:
        raise ApiError(400, "max_tokens 0 with stream: there is nothing to stream", param="stream")
    return JSONResponse(writer.answer([writer.empty(length) for length in lengths]))


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
        self.scored: list[Scored] = []
        self._echo = [self._text(prompt) if body.echo else "" for prompt in body.prompts]
        self._head = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": now(),
            "model": body.model or service.name,
        }

    def empty(self, length: int) -> Answers:
        """An answer without tokens, to a prompt of so many."""
        logprobs: list[Logprob] | None = [] if self._config.logprobs else None
        return Answers([Choice(0, ChatMessage("assistant", ""), "length", [], "", logprobs)], Usage(length, 0))

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
        written = {
            "index": place * self._config.n + choice.index,
            "text": before + choice.text,
            "logprobs": self._told(place, choice.logprobs, len(before), first=True),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_text,
            **self._of_prompt(place),
        }
        return written | ({"token_ids": choice.token_ids} if self._body.return_token_ids else {})

    def _told(self, place: int, found: list[Logprob] | None, start: int, *, first: bool) -> dict[str, Any] | None:
        """Log-probabilities of new tokens; with echo those of the prompt are the first."""
        if found is None:
            return None
        if not (first and self._body.echo and self.scored):
            return self._logprobs.text(found, start)
        scored, top = self.scored[place], self._body.logprobs or 0
        before = self._logprobs.prompt_text(scored, top)
        behind = self._logprobs.text(found, start)
        return {name: [*before[name], *behind[name]] for name in behind}

    def _of_prompt(self, place: int) -> dict[str, Any]:
        """vLLM's prompt_logprobs, where they are asked for."""
        top = self._body.prompt_logprobs
        return {} if top is None else {"prompt_logprobs": self._logprobs.prompt(self.scored[place], top)}

    async def events(self, asked: Asked) -> AsyncIterator[str]:
        """The pieces as events."""
        wants_usage = self._body.stream_options is not None and self._body.stream_options.include_usage
        more = {"usage": None} if wants_usage else {}
        lengths: dict[int, int] = {}
        responses: list[Answers] = []
        async for place, delta in asked.pieces():
            index = place * self._config.n + delta.index
            first = index not in lengths
            text = delta.text if index in lengths else self._echo[place] + delta.text
            start = lengths.get(index, len(self._echo[place]))
            if delta.response is not None:
                responses.append(delta.response)
            if not (text or delta.logprobs or delta.finish_reason):
                continue
            lengths[index] = start + len(delta.text)
            # The prompt's own go out with the first piece, whether or not that has a token.
            logprobs = delta.logprobs or ([] if first and self._body.echo and self.scored else None)
            choice: dict[str, Any] = {
                "index": index,
                "text": text,
                "logprobs": self._told(place, logprobs, start, first=first),
                "finish_reason": delta.finish_reason,
                "stop_reason": delta.stop_text,
                **(self._of_prompt(place) if first else {}),
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
