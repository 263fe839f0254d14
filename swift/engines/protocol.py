"""The OpenAI protocol from the client's side: requests as bodies, answers and their chunks as ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from swift.engines.base import (
    ChatMessage,
    Choice,
    Delta,
    FinishReason,
    InferRequest,
    Listener,
    Logprob,
    RequestConfig,
    Response,
    Usage,
)
from swift.engines.media import with_media
from swift.errors import SwiftError
from swift.templates.messages import OURS, check, tools_of, with_text_arguments
from swift.templates.parsing import Piece

PLAIN = ("max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "stop", "seed")
"""Parameters of OpenAI's own."""
EXTENDED = ("top_k", "min_p", "repetition_penalty", "stop_token_ids", "min_tokens", "ignore_eos")
"""Parameters that the engines' servers take besides."""
WITH_IDS: dict[str, dict[str, Any]] = {
    "swift": {"return_token_ids": True, "return_tokens_as_token_ids": True},
    "vllm": {"return_token_ids": True, "return_tokens_as_token_ids": True},
}
"""What asks for token ids, by the owner that a server's models name; other servers tell none."""
AS_ID = "token_id:"
"""What stands before a token that is told by its id."""


def body_of(request: InferRequest, config: RequestConfig, *, stream: bool) -> dict[str, Any]:
    """The JSON body of one request, but for the model: for `/chat/completions`, or `/completions` where it is a prompt.

    Raises:
        SwiftError: the protocol cannot carry the request.
    """
    if config.num_beams > 1:
        raise SwiftError(
            f"num_beams {config.num_beams}: the OpenAI protocol has no beam search", fix="leave it out, or use n"
        )
    body = _prompt(request) if request.prompt is not None else _conversation(request)
    plain = RequestConfig()
    for name in (*PLAIN, *EXTENDED):
        value = getattr(config, name)
        if value is not None and value != getattr(plain, name):
            body[name] = value
    if config.n > 1:
        body["n"] = config.n
    if config.logprobs or config.top_logprobs:
        chat = {"logprobs": True, "top_logprobs": config.top_logprobs}
        body |= chat if request.prompt is None else {"logprobs": config.top_logprobs}
    if config.structured_outputs is not None:
        body |= _structure(config.structured_outputs)
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _prompt(request: InferRequest) -> dict[str, Any]:
    if not request.prompt:
        raise SwiftError("the prompt has no tokens", fix="give it some text")
    return {"prompt": request.prompt}


def _conversation(request: InferRequest) -> dict[str, Any]:
    check(request.messages, None)
    messages = []
    for message in with_media(request):
        kept = {key: value for key, value in message.items() if value is not None and key not in OURS}
        messages.append(with_text_arguments(kept))
    body: dict[str, Any] = {"messages": messages}
    if tools := tools_of(request.tools, None):
        body["tools"] = tools
    if request.chat_template_kwargs:
        body["chat_template_kwargs"] = request.chat_template_kwargs
    return body


def _structure(wanted: dict[str, Any]) -> dict[str, Any]:
    """What an answer must be: JSON in OpenAI's form, the rest in vLLM's."""
    if "json" in wanted:
        schema = {"name": "answer", "schema": wanted["json"], "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if "json_object" in wanted:
        return {"response_format": {"type": "json_object"}}
    return {"structured_outputs": wanted}


def message_of(status: int, body: bytes) -> str:
    """What a server says of an error: OpenAI's form, FastAPI's, or its text."""
    text = body.decode("utf-8", errors="replace").strip()
    try:
        told = json.loads(text)
    except ValueError:
        return text[:500] or f"status {status} without a message"
    for key in ("error", "message", "detail"):
        if isinstance(told, dict) and told.get(key):
            told = told[key]
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)[:500]


@dataclass
class _Part:
    """One answer as far as it has come."""

    index: int
    texts: list[str] = field(default_factory=list)
    reasoning: str = ""
    content: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Logprob] | None = None
    reason: FinishReason | None = None
    stop_text: str | None = None

    def take(self, told: dict[str, Any]) -> Delta:
        """A choice of a chunk, or of a whole answer."""
        delta = told.get("delta") or told.get("message") or {"content": told.get("text")}
        pieces = list(self._pieces(delta))
        text = "".join(map(self._keep, pieces))
        self.texts.append(text)
        ids, logprobs = list(told.get("token_ids") or ()), list(_logprobs(told.get("logprobs") or {}))
        self.token_ids += ids
        if told.get("logprobs"):
            self.logprobs = [*(self.logprobs or ()), *logprobs]
        if told.get("finish_reason"):
            self.reason = "length" if told["finish_reason"] == "length" else "stop"
            # Some servers tell the token here.
            self.stop_text = told["stop_reason"] if isinstance(told.get("stop_reason"), str) else None
        return Delta(text, self.reason, None, pieces, self.index, ids, logprobs, stop_text=self.stop_text)

    def _pieces(self, delta: dict[str, Any]) -> Iterator[Piece]:
        if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
            yield Piece("reasoning", reasoning)
        if content := delta.get("content"):
            yield Piece("content", content)
        for place, call in enumerate(delta.get("tool_calls") or ()):
            index, function = call.get("index", place), call.get("function") or {}
            if function.get("name"):
                yield Piece("name", function["name"], index, call.get("id") or f"call{index:05d}")
            if function.get("arguments"):
                yield Piece("arguments", function["arguments"], index)

    def _keep(self, piece: Piece) -> str:
        """Add a piece to the message; gives what it adds to the text."""
        if piece.kind == "reasoning":
            self.reasoning += piece.text
            return piece.text
        if piece.kind == "content":
            between = "\n\n" if self.reasoning and not self.content else ""
            self.content += piece.text
            return between + piece.text
        if piece.kind == "name":
            self.calls.append({"id": piece.id, "type": "function", "function": {"name": piece.text, "arguments": ""}})
        else:
            self.calls[piece.index]["function"]["arguments"] += piece.text
        return ""

    def choice(self) -> Choice:
        """The whole answer."""
        for call in self.calls:
            call["function"]["arguments"] = _arguments(call["function"]["arguments"])
        message = ChatMessage("assistant", self.content, self.reasoning or None, self.calls or None)
        text, reason = "".join(self.texts), self.reason or "stop"
        return Choice(self.index, message, reason, self.token_ids, text, self.logprobs, self.stop_text)


class Reading:
    """The answers to one request as the server tells them; the listener hears of each piece, or of the response alone.

    The text of an answer is what the server tells of it: its reasoning and content, without their tags.
    """

    def __init__(self, config: RequestConfig, listener: Listener, *, whole: bool) -> None:
        self._count, self._listener, self._whole = config.n, listener, whole
        self._parts: dict[int, _Part] = {}
        self._usage = Usage(0, 0)
        self._held: Delta | None = None

    def take(self, told: dict[str, Any]) -> None:
        """A chunk of a stream, or a whole answer.

        Raises:
            SwiftError: it tells an error.
        """
        if told.get("error"):
            raise SwiftError(
                f"the server broke off: {message_of(500, json.dumps(told).encode())}", fix="see the server's log"
            )
        if usage := told.get("usage"):
            self._usage = Usage(usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
        for choice in told.get("choices") or ():
            index = choice.get("index", 0)
            part = self._parts.setdefault(index, _Part(index))
            self._tell(part.take(choice))

    def _tell(self, delta: Delta) -> None:
        """Hand a piece on; the last one waits for the usage, which comes behind it."""
        if self._over:
            self._held = delta
        elif not self._whole and (delta.text or delta.pieces or delta.token_ids or delta.finish_reason):
            self._listener(delta)

    @property
    def _over(self) -> bool:
        return len(self._parts) == self._count and all(part.reason for part in self._parts.values())

    def finish(self) -> None:
        """The server has told all.

        Raises:
            SwiftError: an answer is not whole.
        """
        if self._held is None:
            raise SwiftError("the server ended in the middle of an answer", fix="see the server's log")
        choices = [self._parts[index].choice() for index in sorted(self._parts)]
        self._held.response = Response(choices, self._usage)
        self._listener(self._held)


def _arguments(text: str) -> Any:
    """The arguments of a call as an object; a text that is no JSON stays one."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


def _logprobs(told: dict[str, Any]) -> Iterator[Logprob]:
    """Log-probabilities in the form of `/chat/completions`, or of `/completions`."""
    for entry in told.get("content") or ():
        top = [(token_of(other["token"]), float(other["logprob"])) for other in entry.get("top_logprobs") or ()]
        yield Logprob(token_of(entry["token"]), float(entry["logprob"]), top)
    tokens = told.get("tokens") or ()
    tops = told.get("top_logprobs") or [None] * len(tokens)
    for token, logprob, others in zip(tokens, told.get("token_logprobs") or (), tops, strict=False):
        top = sorted(
            ((token_of(name), float(value)) for name, value in (others or {}).items()), key=lambda pair: -pair[1]
        )
        yield Logprob(token_of(token), float(logprob), top)


def token_of(told: str) -> int | str:
    """A token by its id where the server tells that, else its text."""
    number = told.removeprefix(AS_ID)
    return int(number) if number != told and number.isdigit() else told
