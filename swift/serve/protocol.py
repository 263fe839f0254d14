"""What requests hold: OpenAI's parameters, and those that servers of open models add."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Unit = Annotated[float, Field(allow_inf_nan=False)]
ONLY: dict[str, Any] = {
    "add_generation_prompt": True,
    "continue_final_message": False,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False,
    "best_of": 1,
    "suffix": None,
    "use_beam_search": False,
    "length_penalty": 1.0,
}
"""Parameters of other servers that are taken with this value, at which they do nothing."""
NOTED = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "request_id", "priority",
)  # fmt: skip
"""Parameters that say nothing about the answer."""


class Body(BaseModel):
    """A request; a parameter that nobody knows is a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, values: Any) -> Any:
        """Without what does nothing."""
        if not isinstance(values, dict):
            return values
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half a character (a lone surrogate)") from None
        kept = {}
        for name, value in values.items():
            if name in cls.model_fields or not (name in NOTED or name in ONLY):
                kept[name] = value
            elif name in ONLY and value is not None and value != ONLY[name]:
                raise ValueError(f"{name} can only be {ONLY[name]!r} here")
        return kept


class Part(BaseModel):
    """A part of a content."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: str
    text: str | None = None

    @model_validator(mode="after")
    def _has_text(self) -> Part:
        if self.type in ("text", "input_text", "output_text") and self.text is None:
            raise ValueError("a part of the type text needs a text")
        return self


class Called(BaseModel):
    """The function that a turn of the assistant called."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str
    arguments: str | dict[str, Any] = "{}"


class Call(BaseModel):
    """A call in a turn of the assistant."""

    model_config = ConfigDict(extra="allow", strict=True)
    id: str | None = None
    type: Literal["function"] = "function"
    function: Called


class Turn(BaseModel):
    """One message."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    """A tool."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal["function"]
    function: Function


class Named(BaseModel):
    """A function by its name."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str


class NamedTool(BaseModel):
    """The tool that has to be called."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: Literal["function"]
    function: Named


class JsonSchema(BaseModel):
    """A schema that an answer has to follow."""

    model_config = ConfigDict(extra="allow", strict=True, populate_by_name=True)
    name: str | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")


class ResponseFormat(BaseModel):
    """What an answer has to be."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("response_format of the type json_schema needs json_schema")
        return self


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(extra="allow", strict=True)
    include_usage: bool = False


class Sampling(Body):
    """What both kinds of completions take."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    temperature: Unit | None = Field(None, ge=0)
    top_p: Unit | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: Unit | None = Field(None, ge=0, le=1)
    repetition_penalty: Unit | None = Field(None, gt=0)
    presence_penalty: Unit | None = Field(None, ge=-2, le=2)
    frequency_penalty: Unit | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Unit] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | bool | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    response_format: ResponseFormat | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    @field_validator("logit_bias")
    @classmethod
    def _ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if wrong := [key for key in value or {} if not (key.isascii() and key.isdigit() and len(key) < 10)]:
            raise ValueError(f"{wrong[0]!r} is no token id")
        return value

    @model_validator(mode="after")
    def _streams(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream true alone")
        return self


class ChatRequest(Sampling):
    """The body of /v1/chat/completions."""

    messages: list[Turn] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _fits(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs true alone")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise ValueError("tool_choice needs tools")
        if isinstance(self.tool_choice, NamedTool):
            names = [tool.function.name for tool in self.tools or []]
            if self.tool_choice.function.name not in names:
                raise ValueError(f"tool_choice names {self.tool_choice.function.name!r}; the tools are {names}")
        return self


class CompletionRequest(Sampling):
    """The body of /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0)
    prompt_logprobs: int | None = Field(None, ge=0)
    echo: bool | None = None

    @model_validator(mode="after")
    def _fits(self) -> CompletionRequest:
        if self.max_tokens == 0 and not (self.echo or self.scores):
            raise ValueError("max_tokens can be 0 with echo or prompt_logprobs alone")
        return self

    @property
    def scores(self) -> bool:
        """Whether log-probabilities of the prompts are asked for."""
        return self.prompt_logprobs is not None or bool(self.echo and self.logprobs is not None)

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        if isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int)):
            return [self.prompt]
        return list(self.prompt)  # type: ignore[arg-type]


class TokenizeRequest(Body):
    """The body of /tokenize: a text or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Turn] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages")
        return self


class DetokenizeRequest(Body):
    """The body of /detokenize."""

    model: str | None = None
    tokens: list[int]
