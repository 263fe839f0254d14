"""`/v1/responses`: OpenAI's newer protocol, without storage."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from swift.engines.base import Response as Answers
from swift.serve.blocks import Block, Step, blocks_of, stream_blocks
from swift.serve.chat import open_chat
from swift.serve.errors import ApiError
from swift.serve.protocol import Body, ChatRequest, Unit
from swift.serve.service import Asked, Service
from swift.serve.streams import EventStream, named_event, new_id, now, while_there
from swift.templates.messages import KIND_OF

SAME = (
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "parallel_tool_calls",
    "chat_template_kwargs",
)
"""Parameters that a chat has by the same names."""


class TextFormat(BaseModel):
    """What the answer has to be."""

    model_config = ConfigDict(extra="allow", strict=True)
    format: dict[str, Any] | None = None


class Reasoning(BaseModel):
    """How much is thought."""

    model_config = ConfigDict(extra="allow", strict=True)
    effort: str | None = None


class ResponsesRequest(Body):
    """The body of /v1/responses."""

    model: str | None = None
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: Unit | None = Field(None, ge=0)
    top_p: Unit | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: Unit | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextFormat | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    include: list[str] | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    stream_options: dict[str, Any] | None = None
    previous_response_id: str | None = None

    @model_validator(mode="after")
    def _keeps_nothing(self) -> ResponsesRequest:
        if self.previous_response_id is not None:
            raise ValueError("previous_response_id: this server keeps no answers; send the conversation as input")
        return self


async def respond(service: Service, body: ResponsesRequest, http: Request) -> Response:
    """Answer.

    Raises:
        ApiError: it cannot be answered.
    """
    opened = open_chat(service, chat_of(body))
    head = {
        "id": new_id("resp"),
        "object": "response",
        "created_at": now(),
        "model": body.model or service.name,
        "instructions": body.instructions,
        "tools": body.tools or [],
        "tool_choice": body.tool_choice or "auto",
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "max_output_tokens": body.max_output_tokens,
        "metadata": {},
        "store": False,
        "error": None,
    }
    if not body.stream:
        answers = await while_there(http, opened.whole())
        blocks = blocks_of(opened.writer.message(answers.choices[0]))
        return JSONResponse(_finished(head, [_item(block) for block in blocks], answers))
    asked = await opened.begin()
    return EventStream(_events(head, stream_blocks(opened.writer, asked), asked), asked.close)


def chat_of(body: ResponsesRequest) -> ChatRequest:
    """The same request as a chat.

    Raises:
        ApiError: an item or a tool is of a kind that this server does not have.
        ValidationError: one of them is not as it should be.
    """
    chat: dict[str, Any] = {name: getattr(body, name) for name in SAME}
    chat["messages"] = [{"role": "system", "content": body.instructions}] if body.instructions else []
    chat["messages"] += _turns(body.input)
    chat["max_tokens"] = body.max_output_tokens
    if body.tools:
        chat["tools"] = [_tool(tool) for tool in body.tools]
        choice = body.tool_choice
        if isinstance(choice, dict):
            choice = {"type": choice.get("type"), "function": {"name": choice.get("name")}}
        chat["tool_choice"] = choice
    if body.reasoning is not None:
        chat["reasoning_effort"] = body.reasoning.effort
    form = (body.text.format if body.text is not None else None) or {"type": "text"}
    if form.get("type") == "json_schema":
        form = {"type": "json_schema", "json_schema": {key: form[key] for key in ("name", "schema") if key in form}}
    if form != {"type": "text"}:
        chat["response_format"] = form
    return ChatRequest.model_validate(chat)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise ApiError(400, f"a tool of the type {tool.get('type')!r}; this server has functions alone", param="tools")
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _turns(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items as messages: reasoning, text and calls of one answer are one turn."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    turns: list[dict[str, Any]] = []

    def turn() -> dict[str, Any]:
        if not turns or turns[-1]["role"] != "assistant":
            turns.append({"role": "assistant", "content": ""})
        return turns[-1]

    for item in given:
        kind = item.get("type", "message")
        if kind == "message" and item.get("role") == "assistant":
            turn()["content"] += _text(item.get("content"))
        elif kind == "message":
            turns.append({"role": item.get("role"), "content": item.get("content")})
        elif kind == "reasoning":
            turn()["reasoning_content"] = _text(item.get("content") or item.get("summary"))
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments", "{}")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            turn().setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            output = item.get("output")
            parts = [part for part in output if isinstance(part, dict)] if isinstance(output, list) else []
            if any(part.get("type") in KIND_OF for part in parts):
                raise ApiError(400, "pictures in the results of tools are not read; send text", param="input")
            content = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
            turns.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        else:
            raise ApiError(400, f"an item of the type {kind!r} is none that this server reads", param="input")
    return turns


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _item(block: Block, status: str = "completed") -> dict[str, Any]:
    """A block as an item of the output."""
    if block.kind == "call":
        call = {"call_id": block.id, "name": block.name, "arguments": block.text}
        return {"type": "function_call", "id": f"fc_{block.mark}", **call, "status": status}
    part = _part(block)
    content = [part] if block.text else []
    if block.kind == "reasoning":
        return {"type": "reasoning", "id": f"rs_{block.mark}", "summary": [], "content": content, "status": status}
    return {"type": "message", "id": f"msg_{block.mark}", "role": "assistant", "content": content, "status": status}


def _part(block: Block) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": block.text}
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": []}


def _finished(head: dict[str, Any], output: list[dict[str, Any]], answers: Answers) -> dict[str, Any]:
    cut = answers.choices[0].finish_reason == "length"
    usage = {
        "input_tokens": answers.usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": answers.usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answers.usage.total_tokens,
    }
    return {
        **head,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output,
        "usage": usage,
    }


async def _events(head: dict[str, Any], steps: AsyncIterator[Step], asked: Asked) -> AsyncIterator[str]:
    number = 0

    def told(kind: str, **more: Any) -> str:
        nonlocal number
        number += 1
        return named_event({"type": kind, "sequence_number": number - 1, **more})

    begun = {**head, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    yield told("response.created", response=begun)
    yield told("response.in_progress", response=begun)
    output: list[dict[str, Any]] = []
    try:
        async for step in steps:
            if step.block is not None:
                if step.kind == "end":
                    output.append(_item(step.block))
                for kind, more in _of_step(step.kind, step.block, step.text):
                    yield told(kind, **more)
            elif step.response is not None:
                whole = _finished(head, output, step.response)
                yield told(f"response.{whole['status']}", response=whole)
    except ApiError as error:
        found = error.body["error"]
        yield told("error", code=found["code"], message=found["message"], param=found["param"])
        failed = {"code": found["code"] or "server_error", "message": found["message"]}
        yield told("response.failed", response={**begun, "status": "failed", "error": failed})


def _of_step(step: str, block: Block, text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of one step."""
    item = _item(block, "in_progress" if step == "begin" else "completed")
    place = {"output_index": block.place}
    inside = {**place, "item_id": item["id"]}
    added, done = (
        ("response.output_item.added", {**place, "item": item}),
        ("response.output_item.done", {**place, "item": item}),
    )
    if block.kind == "call":
        about = "response.function_call_arguments"
        if step == "begin":
            return [added]
        if step == "text":
            return [(f"{about}.delta", {**inside, "delta": text})]
        return [(f"{about}.done", {**inside, "name": block.name, "arguments": block.text}), done]
    inside["content_index"] = 0
    about = "response.reasoning_text" if block.kind == "reasoning" else "response.output_text"
    logprobs: dict[str, Any] = {"logprobs": []} if block.kind == "text" else {}
    if step == "begin":
        return [added, ("response.content_part.added", {**inside, "part": _part(block)})]
    if step == "text":
        return [(f"{about}.delta", {**inside, "delta": text, **logprobs})]
    part = ("response.content_part.done", {**inside, "part": _part(block)})
    return [(f"{about}.done", {**inside, "text": block.text, **logprobs}), part, done]
