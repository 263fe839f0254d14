"""Log-probabilities as OpenAI's two kinds of completions write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swift.engines.base import Logprob
from swift.engines.detokenize import decode

LEAST = -9999.0
"""Stands for minus infinity, which JSON does not have."""


def chat_logprobs(tokenizer: Any, found: Sequence[Logprob]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat."""
    content = [
        {
            **_entry(tokenizer, each.token, each.logprob),
            "top_logprobs": [_entry(tokenizer, token, logprob) for token, logprob in each.top],
        }
        for each in found
    ]
    return {"content": content, "refusal": None}


def _entry(tokenizer: Any, token: int | str, logprob: float) -> dict[str, Any]:
    text = _text(tokenizer, token)
    return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(text.encode())}


def _text(tokenizer: Any, token: int | str) -> str:
    """The text of a token, which an engine may know by that alone."""
    return token if isinstance(token, str) else decode(tokenizer, [token])


def text_logprobs(tokenizer: Any, found: Sequence[Logprob], start: int) -> dict[str, Any]:
    """`choices[].logprobs` of a completion whose text begins at this place."""
    tokens = [_text(tokenizer, each.token) for each in found]
    offsets = []
    for token in tokens:
        offsets.append(start)
        start += len(token)
    top = [{_text(tokenizer, token): max(logprob, LEAST) for token, logprob in each.top} for each in found]
    return {
        "tokens": tokens,
        "token_logprobs": [max(each.logprob, LEAST) for each in found],
        "top_logprobs": top,
        "text_offset": offsets,
    }
