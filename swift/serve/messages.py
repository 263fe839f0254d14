"""`/v1/messages`: Anthropic's protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from swift.engines.base import Choice as Answered
from swift.engines.base import InferRequest
from swift.serve.blocks import Block, Step, blocks_of, stream_blocks
from swift.serve.chat import messages_of, open_chat
from swift.serve.errors import ApiError
from swift.serve.protocol import Body, ChatRequest, Unit
from swift.serve.service import Service
from swift.serve.streams import EventStream, named_event, new_id, while_there
from swift.serve.tools import plain_tools


class Said(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class Usable(BaseModel):
    """A tool."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str = Field(min_length=1)
    description: str | None = None
    input_schema: dict[str, Any]


class Choice(BaseModel):
    """Which tool is called."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(BaseModel):
    """Whether the model thinks first."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal["enabled", "disabled", "adaptive"]


class CountRequest(Body):
    """The body of /v1/messages/count_tokens."""

    model: str | None = None
    messages: list[Said] = Field(min_length=1)
    system: str | list[dict[str, Any]] | None = None
    tools: list[Usable] | None = None
    tool_choice: Choice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest):
    """The body of /v1/messages."""

    max_tokens: int = Field(ge=1)
    temperature: Unit | None = Field(None, ge=0)
    top_p: Unit | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    stop_sequences: list[str] | None = None
    stream: bool | None = None


async def answer_messages(service: Service, body: MessagesRequest, http: Request) -> Response:
    """Answer.

    Raises:
        ApiError: it cannot be answered.
    """
    more = {name: getattr(body, name) for name in ("max_tokens", "temperature", "top_p", "top_k")}
    opened = open_chat(service, chat_of(body, stop=body.stop_sequences, **more))
    head = {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": body.model or service.name,
    }
    if not body.stream:
        answers = await while_there(http, opened.whole())
        choice = answers.choices[0]
        blocks = blocks_of(opened.writer.message(choice))
        usage = {"input_tokens": answers.usage.prompt_tokens, "output_tokens": answers.usage.completion_tokens}
        end = _end(body, choice, any(block.kind == "call" for block in blocks))
        return JSONResponse({**head, "content": [_content(block) for block in blocks], **end, "usage": usage})
    asked = await opened.begin()
    return EventStream(_events(head, body, stream_blocks(opened.writer, asked)), asked.close)


async def count_tokens(service: Service, body: CountRequest) -> dict[str, int]:
    """The length of the prompt that a request makes.

    Raises:
        ApiError: it makes none.
    """
    chat = chat_of(body)
    request = InferRequest(
        messages_of(chat.messages, reads_media=service.reads_media),
        plain_tools(chat.tools),
        chat_template_kwargs=chat.chat_template_kwargs or {},
        adapter=service.adapter_of(body.model),
    )
    return {"input_tokens": len(await service.prompt_of(request))}


def chat_of(body: CountRequest, **more: Any) -> ChatRequest:
    """The same request as a chat.

    Raises:
        ApiError: it holds media.
        ValidationError: a block is not as it should be.
    """
    chat: dict[str, Any] = {"model": body.model, "messages": [], **more}
    if body.system:
        chat["messages"].append({"role": "system", "content": _text(body.system)})
    for said in body.messages:
        chat["messages"] += _turns(said)
    if body.tools:
        chat["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool in body.tools
        ]
        choice = body.tool_choice or Choice(type="auto")
        named = {"type": "function", "function": {"name": choice.name}}
        chat["tool_choice"] = named if choice.type == "tool" else {"any": "required"}.get(choice.type, choice.type)
        chat["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    if body.thinking is not None:
        thinks = body.thinking.type != "disabled"
        chat["chat_template_kwargs"] = {"enable_thinking": thinks, "thinking": thinks}
    return ChatRequest.model_validate(chat)


def _turns(said: Said) -> list[dict[str, Any]]:
    """One turn as messages: results of tools are turns of their own."""
    if isinstance(said.content, str):
        return [{"role": said.role, "content": said.content}]
    turn: dict[str, Any] = {"role": said.role, "content": ""}
    parts: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for block in said.content:
        kind = block.get("type")
        if kind == "text":
            parts.append({"type": "text", "text": _text([block])})
        elif kind == "image":
            parts.append({"type": "image", "image": _source(block.get("source"))})
        elif kind == "thinking":
            turn["reasoning_content"] = turn.get("reasoning_content", "") + str(block.get("thinking") or "")
        elif kind == "tool_use":
            function = {
                "name": block.get("name"),
                "arguments": json.dumps(block.get("input") or {}, ensure_ascii=False),
            }
            turn.setdefault("tool_calls", []).append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            content = _text(block.get("content") or "")
            results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content})
        elif kind != "redacted_thinking":
            raise ApiError(400, f"a block of the type {kind!r} is none that this server reads", param="messages")
    pictures = any(part["type"] != "text" for part in parts)
    turn["content"] = parts if pictures else "".join(part["text"] for part in parts)
    return [*results, *([turn] if turn["content"] or len(turn) > 2 or not results else [])]


def _source(source: Any) -> str:
    """Where a picture is, as a URL.

    Raises:
        ApiError: it is nowhere.
    """
    given = source if isinstance(source, dict) else {}
    if given.get("type") == "base64" and given.get("data"):
        return f"data:{given.get('media_type', 'image/png')};base64,{given['data']}"
    if given.get("type") == "url" and isinstance(given.get("url"), str):
        return given["url"]
    raise ApiError(400, "an image needs a source of the type base64 or url", param="messages")


def _text(content: Any) -> str:
    """The text of blocks.

    Raises:
        ApiError: they hold something else.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise ApiError(400, "a content is a text or a list of blocks", param="messages")
    if other := [str(block.get("type")) for block in content if block.get("type") != "text"]:
        raise ApiError(400, f"{', '.join(dict.fromkeys(other))} cannot stand here; send text", param="messages")
    return "".join(str(block.get("text") or "") for block in content)


def _end(body: MessagesRequest, choice: Answered, called: bool) -> dict[str, str | None]:
    """Why the answer ended."""
    if choice.finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if choice.stop_text is not None and choice.stop_text in (body.stop_sequences or ()):
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop_text}
    return {"stop_reason": "tool_use" if called else "end_turn", "stop_sequence": None}


def _content(block: Block) -> dict[str, Any]:
    if block.kind == "call":
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": block.arguments}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": block.text, "signature": ""}
    return {"type": "text", "text": block.text}


async def _events(head: dict[str, Any], body: MessagesRequest, steps: AsyncIterator[Step]) -> AsyncIterator[str]:
    usage = {"input_tokens": 0, "output_tokens": 0}
    begun = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    yield named_event({"type": "message_start", "message": begun})
    called = False
    try:
        async for step in steps:
            if step.block is not None:
                called = called or step.block.kind == "call"
                yield named_event(_of_step(step, step.block))
            elif step.response is not None:
                delta = _end(body, step.response.choices[0], called)
                spent = step.response.usage
                usage = {"input_tokens": spent.prompt_tokens, "output_tokens": spent.completion_tokens}
                yield named_event({"type": "message_delta", "delta": delta, "usage": usage})
                yield named_event({"type": "message_stop"})
    except ApiError as error:
        yield named_event(error.anthropic)


def _of_step(step: Step, block: Block) -> dict[str, Any]:
    if step.kind == "begin":
        content = _content(Block(block.kind, block.place, block.name, block.id))
        return {"type": "content_block_start", "index": block.place, "content_block": content}
    if step.kind == "end":
        return {"type": "content_block_stop", "index": block.place}
    names = {"call": ("input_json_delta", "partial_json"), "reasoning": ("thinking_delta", "thinking")}
    kind, field = names.get(block.kind, ("text_delta", "text"))
    return {"type": "content_block_delta", "index": block.place, "delta": {"type": kind, field: step.text}}
