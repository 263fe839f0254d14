"""`/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from swift.engines.base import Choice, Delta, InferRequest, RequestConfig, Usage
from swift.engines.base import Response as Answers
from swift.rows import Message
from swift.serve.errors import media
from swift.serve.logprobs import LogprobWriter
from swift.serve.parameters import chat_config
from swift.serve.protocol import ChatRequest, Part, Turn
from swift.serve.service import Asked, Service
from swift.serve.streams import EventStream, event, new_id, now, while_there, with_errors
from swift.serve.tools import ToolUse, as_call, new_call, tool_use
from swift.templates.messages import KIND_OF

TEXTS = ("text", "input_text", "output_text", "refusal")


async def chat(service: Service, body: ChatRequest, http: Request) -> Response:
    """Answer a conversation, at once or piece by piece.

    Raises:
        ApiError: it cannot be answered.
    """
    opened = open_chat(service, body)
    if not body.stream:
        answers = await while_there(http, opened.whole())
        return JSONResponse(opened.writer.answer(answers.choices, answers.usage))
    asked = await opened.begin()
    return EventStream(with_errors(opened.writer.events(asked)), asked.close)


@dataclass(frozen=True)
class OpenChat:
    """A conversation that is to be answered, checked as far as it can be without the engine."""

    service: Service
    request: InferRequest
    config: RequestConfig
    writer: ChatWriter

    async def whole(self) -> Answers:
        """All answers.

        Raises:
            ApiError: there are none.
        """
        asked = await self.service.begin([self.request], self.config, whole=True)
        try:
            return (await asked.responses())[0]
        finally:
            asked.close()

    async def begin(self) -> Asked:
        """Begin to answer piece by piece.

        Raises:
            ApiError: it cannot be answered.
        """
        return await self.service.begin([self.request], self.config, whole=False)


def open_chat(service: Service, body: ChatRequest) -> OpenChat:
    """Read a request.

    Raises:
        ApiError: it asks for what cannot be.
    """
    use = tool_use(body)
    config = chat_config(service, body, use.structure)
    return OpenChat(service, chat_request(service, body, use), config, ChatWriter(service, body, use, config))


def chat_request(service: Service, body: ChatRequest, use: ToolUse) -> InferRequest:
    """The request as engines take it.

    Raises:
        ApiError: there is no such model, or the messages hold what is not read.
    """
    switches = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        switches.setdefault("reasoning_effort", body.reasoning_effort)
    return InferRequest(
        messages=messages_of(body.messages, reads_media=service.reads_media),
        tools=use.tools,
        chat_template_kwargs=switches,
        adapter=service.adapter_of(body.model),
    )


def messages_of(turns: list[Turn], *, reads_media: bool) -> list[Message]:
    """The messages as templates take them: the developer is who others call system.

    Args:
        reads_media: contents may hold pictures, films and sounds.

    Raises:
        ApiError: they hold what is not read.
    """
    kinds = [part.type for turn in turns if isinstance(turn.content, list) for part in turn.content]
    if other := [kind for kind in kinds if kind not in TEXTS and not (reads_media and kind in KIND_OF)]:
        raise media(other, reads_media=reads_media)
    messages: list[Message] = []
    for turn in turns:
        message: Any = turn.model_dump(exclude_none=True)
        if isinstance(turn.content, list):
            message["content"] = _content(turn.content)
        if turn.role == "developer":
            message["role"] = "system"
        if turn.role != "assistant":
            message.setdefault("content", "")
        messages.append(message)
    return messages


def _content(parts: list[Part]) -> str | list[dict[str, Any]]:
    """One text, but for the parts that are none."""
    if all(part.type in TEXTS for part in parts):
        return "".join(part.text or "" for part in parts)
    return [
        {"type": "text", "text": part.text or ""} if part.type in TEXTS else part.model_dump(exclude_none=True)
        for part in parts
    ]


@dataclass
class Sent:
    """What of one streamed answer has gone out."""

    called: bool = False
    text: str = ""


class ChatWriter:
    """Writes the answers to one request in OpenAI's form."""

    def __init__(self, service: Service, body: ChatRequest, use: ToolUse, config: RequestConfig) -> None:
        self._service, self._body, self._use, self._config = service, body, use, config
        tokenizer = getattr(service.engine, "tokenizer", None)
        self._logprobs = LogprobWriter(tokenizer, bool(body.return_tokens_as_token_ids))
        self._head = {
            "id": new_id("chatcmpl"),
            "object": "chat.completion",
            "created": now(),
            "model": body.model or service.name,
        }

    def answer(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        """The whole answer."""
        return {**self._head, "choices": [self._choice(choice) for choice in choices], "usage": usage_of(usage)}

    def _choice(self, choice: Choice) -> dict[str, Any]:
        message = self.message(choice)
        written = {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs.chat(choice.logprobs) if choice.logprobs is not None else None,
            "finish_reason": _reason(choice.finish_reason, "tool_calls" in message),
            "stop_reason": choice.stop_text,
        }
        return written | ({"token_ids": choice.token_ids} if self._body.return_token_ids else {})

    def message(self, choice: Choice) -> dict[str, Any]:
        """An answer as a message."""
        message: dict[str, Any] = {"role": "assistant", "content": choice.message.content, "refusal": None}
        calls = [as_call(call) for call in choice.message.tool_calls or ()]
        if self._config.structured_outputs is not None:
            message["content"], calls = choice.text, []
            if self._use.forced is not None and (call := self._use.forced_call(choice.text)) is not None:
                message["content"], calls = None, [call]
        elif choice.message.reasoning_content:
            message["reasoning_content"] = choice.message.reasoning_content
        if calls:
            message["tool_calls"] = calls[:1] if self._use.single else calls
            message["content"] = message["content"] or None
        return message

    async def events(self, asked: Asked) -> AsyncIterator[str]:
        """The pieces as events."""
        self._head["object"] = "chat.completion.chunk"
        wants_usage = self._body.stream_options is not None and self._body.stream_options.include_usage
        more = {"usage": None} if wants_usage else {}
        sent = [Sent() for _ in range(self._config.n)]
        for index in range(self._config.n):
            yield self._chunk(index, {"role": "assistant", "content": ""}, None, **more)
        async for delta, found in self.parts(asked, sent):
            for each in found:
                yield self._chunk(delta.index, each, delta, **more)
            if delta.finish_reason is not None:
                yield self._end(delta, sent[delta.index].called, more)
            if delta.response is not None and wants_usage:
                yield event({**self._head, "choices": [], "usage": usage_of(delta.response.usage)})

    async def parts(self, asked: Asked, sent: list[Sent]) -> AsyncIterator[tuple[Delta, list[dict[str, Any]]]]:
        """The engine's pieces, each with what it adds to the message."""
        async for _, delta in asked.pieces():
            yield delta, self._deltas(delta, sent[delta.index])

    def _chunk(self, index: int, delta: dict[str, Any], source: Delta | None, **more: Any) -> str:
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        if source is not None and source.logprobs:
            choice["logprobs"] = self._logprobs.chat(source.logprobs)
            source.logprobs = []
        if source is not None and self._body.return_token_ids:
            choice["token_ids"], source.token_ids = source.token_ids, []
        return event({**self._head, "choices": [choice], **more})

    def _end(self, delta: Delta, called: bool, more: dict[str, Any]) -> str:
        """The last event of one answer."""
        reason = _reason(delta.finish_reason or "stop", called)
        choice = {"index": delta.index, "delta": {}, "logprobs": None, "finish_reason": reason}
        return event({**self._head, "choices": [{**choice, "stop_reason": delta.stop_text}], **more})

    def _deltas(self, delta: Delta, sent: Sent) -> list[dict[str, Any]]:
        """What a piece adds to the message; log-probabilities go out with the first of them."""
        if self._use.forced is not None:
            found = self._forced(delta, sent)
        elif self._config.structured_outputs is not None:
            found = [{"content": delta.text}] if delta.text else []
        else:
            found = [each for piece in delta.pieces if (each := self._piece(piece, sent)) is not None]
        return found or ([{}] if delta.logprobs or (self._body.return_token_ids and delta.token_ids) else [])

    def _piece(self, piece: Any, sent: Sent) -> dict[str, Any] | None:
        if piece.kind == "content":
            return {"content": piece.text}
        if piece.kind == "reasoning":
            return {"reasoning_content": piece.text}
        if self._use.single and piece.index:
            return None
        if piece.kind == "arguments":
            return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}
        sent.called = True
        call = new_call(piece.text, "", piece.id)
        return {"tool_calls": [{"index": piece.index, **call}]}

    def _forced(self, delta: Delta, sent: Sent) -> list[dict[str, Any]]:
        """The arguments of the one function as they come; where there is a choice, the call once it is whole."""
        if self._use.forced:
            found: list[dict[str, Any]] = []
            if not sent.called:
                found.append({"index": 0, **new_call(self._use.forced, "")})
                sent.called = True
            found += [{"index": 0, "function": {"arguments": delta.text}}] if delta.text else []
            return [{"tool_calls": [call]} for call in found]
        sent.text += delta.text
        if delta.finish_reason is None:
            return []
        call = self._use.forced_call(sent.text)
        sent.called = call is not None
        return [{"content": sent.text} if call is None else {"tool_calls": [{"index": 0, **call}]}]


def _reason(reason: str, called: bool) -> str:
    return "tool_calls" if called and reason == "stop" else reason


def usage_of(usage: Usage) -> dict[str, int]:
    """Tokens as OpenAI counts them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
