"""From a request to the prompt's token ids, checked, without the model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swift.engines.base import InferRequest, RequestConfig
from swift.engines.media import with_media
from swift.errors import SwiftError
from swift.templates.messages import KIND_OF, check_media, media_in

if TYPE_CHECKING:
    from swift.templates import Template
    from swift.templates.media import MediaPrompt, MediaReader


LONGEST_DEFAULT = 2048
"""Tokens of an answer where nobody sets a limit and the context leaves more."""


def end_ids(template: Template, generation_config: Any) -> set[int]:
    """The tokens that end an answer: the template's end of turn, and what model and tokenizer call their end."""
    ids = set(template.stop_token_ids)
    for end in (generation_config.eos_token_id, template.tokenizer.eos_token_id):
        ids |= set(end) if isinstance(end, (list, tuple)) else {end}
    return {int(token) for token in ids if token is not None}


def with_stops(config: RequestConfig, template: Template) -> RequestConfig:
    """The parameters with the template's ends of turns that are text to this tokenizer.

    Raises:
        SwiftError: an end is no token of the tokenizer.
    """
    _check_ids(config.stop_token_ids, template.tokenizer, "stop_token_ids")
    stops = [] if config.ignore_eos else template.stop_strings
    return config.with_values(stop=[*config.stop, *stops]) if stops else config


def answer_limit(config: RequestConfig, prompt: list[int], context: int | None) -> int:
    """The longest answer to a prompt, in tokens."""
    limit = config.max_tokens or LONGEST_DEFAULT
    return limit if context is None else min(limit, context - len(prompt))


def encode_prompt(template: Template, request: InferRequest, context: int | None) -> list[int]:
    """The prompt's token ids, checked against the context.

    Raises:
        SwiftError: the request holds media, or tools that the template drops; it has nothing to answer, or is longer
            than the context.
    """
    check_media(vars(request), request.messages)
    if request.prompt is not None:
        return _fitting(raw_prompt(template, request.prompt), context)
    _check_conversation(template, request)
    return _fitting(template.prompt(request.messages, request.tools, **request.chat_template_kwargs), context)


def read_prompt(
    template: Template, request: InferRequest, context: int | None, reader: MediaReader | None
) -> tuple[list[int], MediaPrompt | None]:
    """The prompt's token ids, checked against the context, and what belongs to them where the request holds media.

    Args:
        reader: the model's; None where it reads text alone.

    Raises:
        SwiftError: as `encode_prompt`; a medium cannot be read, or the model has no place for it.
    """
    found = media_in(vars(request), request.messages)
    if not found:
        return encode_prompt(template, request, context), None
    if reader is None:
        raise SwiftError(f"this model reads text alone, and there are {', '.join(found)}", fix="leave them out")
    if request.prompt is not None:
        raise SwiftError(f"a prompt has no place for {', '.join(found)}", fix="send messages")
    _check_conversation(template, request)
    messages = with_media(request, lambda kind, media: {"type": kind, kind: media})
    prompt = reader.prompt(messages, request.tools, **request.chat_template_kwargs)
    return _fitting(prompt.ids, context), prompt


def kinds_in(request: InferRequest) -> set[str]:
    """Which of image, video and audio a request holds."""
    found = media_in(vars(request), request.messages)
    return {KIND_OF.get(name, name.removesuffix("s")) for name in found}


def _check_conversation(template: Template, request: InferRequest) -> None:
    if not request.messages:
        raise SwiftError("the request has no messages", fix="give it a turn of the user")
    if request.messages[-1].get("role") == "assistant":
        raise SwiftError(
            "the conversation ends with the assistant's turn: there is nothing to answer",
            fix="end it with a turn of the user or a tool",
        )
    if request.tools and not template.shows_tools:
        raise SwiftError(
            "the chat template drops the tools of the request",
            fix="give --agent_template hermes, or a template that knows tools with --chat_template FILE.jinja",
        )


def encode_scored(
    template: Template, requests: Sequence[InferRequest], answers: Sequence[str | list[int]] | None, context: int | None
) -> list[tuple[list[int], list[int]]]:
    """The token ids of prompts and of the answers to them, whose log-probabilities are asked for.

    Raises:
        SwiftError: a request cannot be read, or is too long with its answer.
    """
    given: Sequence[str | list[int]] = [[]] * len(requests) if answers is None else answers
    if len(given) != len(requests):
        raise SwiftError(f"{len(given)} answers to {len(requests)} requests", fix="give one to each")
    found = []
    for request, answer in zip(requests, given, strict=True):
        # The context must leave no room behind what is only read.
        prompt = encode_prompt(template, request, None if context is None else context + 1)
        if isinstance(answer, str):
            ids = list(template.tokenizer.encode(answer, add_special_tokens=False))
        else:
            _check_ids(answer, template.tokenizer, "answers")
            ids = list(answer)
        if context is not None and len(prompt) + len(ids) > context:
            raise SwiftError(
                f"prompt and answer have {len(prompt) + len(ids)} tokens; the context is {context}", fix="shorten them"
            )
        found.append((prompt, ids))
    return found


def raw_prompt(template: Template, prompt: str | list[int]) -> list[int]:
    """The token ids of a text as it is, with what the tokenizer puts before each; ids are themselves.

    Raises:
        SwiftError: an id is none of the tokenizer's.
    """
    if isinstance(prompt, str):
        return template.tokenizer.encode(prompt)
    _check_ids(prompt, template.tokenizer, "prompt")
    return list(prompt)


def _check_ids(ids: Sequence[int], tokenizer: Any, name: str) -> None:
    most = len(tokenizer)
    if wrong := [token for token in ids if not 0 <= token < most]:
        raise SwiftError(
            f"{name}: {wrong[0]} is no token id: there are {most}", fix="give ids of this model's tokenizer"
        )


def _fitting(prompt: list[int], context: int | None) -> list[int]:
    if not prompt:
        raise SwiftError("the prompt has no tokens", fix="give it some text")
    if context is not None and len(prompt) >= context:
        raise SwiftError(
            f"the prompt has {len(prompt)} tokens; the context is {context} and must leave room for an answer",
            fix="shorten the conversation",
        )
    return prompt
