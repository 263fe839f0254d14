"""Log-probabilities as OpenAI's two kinds of completions write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swift.engines.base import Logprob, Scored
from swift.engines.detokenize import decode

LEAST = -9999.0
"""Stands for minus infinity, which JSON does not have."""


@dataclass(frozen=True)
class LogprobWriter:
    """Writes them.

    Attributes:
        tokenizer: tells the text of a token; None where the engine tells texts itself.
        as_ids: tokens as `token_id:ID`, which vLLM's return_tokens_as_token_ids asks for.
    """

    tokenizer: Any
    as_ids: bool = False

    def chat(self, found: Sequence[Logprob]) -> dict[str, Any]:
        """`choices[].logprobs` of a chat."""
        content = [
            {
                **self._entry(each.token, each.logprob),
                "top_logprobs": [self._entry(token, logprob) for token, logprob in each.top],
            }
            for each in found
        ]
        return {"content": content, "refusal": None}

    def text(self, found: Sequence[Logprob], start: int) -> dict[str, Any]:
        """`choices[].logprobs` of a completion whose text begins at this place."""
        offsets = []
        for each in found:
            offsets.append(start)
            start += len(self._text(each.token))
        return {
            "tokens": [self._name(each.token) for each in found],
            "token_logprobs": [max(each.logprob, LEAST) for each in found],
            "top_logprobs": [{self._name(token): max(value, LEAST) for token, value in each.top} for each in found],
            "text_offset": offsets,
        }

    def prompt_text(self, scored: Scored, top: int) -> dict[str, list[Any]]:
        """The same of a prompt that stands before its completion; its first token has none."""
        offsets, start = [], 0
        for token in scored.token_ids:
            offsets.append(start)
            start += len(self._text(token))
        told: list[dict[str, float] | None] = [
            None if each is None else {self._name(token): max(value, LEAST) for token, value in each.top[:top]}
            for each in scored.logprobs
        ]
        return {
            "tokens": [self._name(token) for token in scored.token_ids],
            "token_logprobs": [None if each is None else max(each.logprob, LEAST) for each in scored.logprobs],
            "top_logprobs": told,
            "text_offset": offsets,
        }

    def prompt(self, scored: Scored, top: int) -> list[dict[str, Any] | None]:
        """`prompt_logprobs` as vLLM has them: for each token, itself and the likeliest at its place, by their ids."""
        found: list[dict[str, Any] | None] = []
        for each, rank in zip(scored.logprobs, scored.ranks, strict=True):
            if each is None:
                found.append(None)
                continue
            places = {token: (value, at) for at, (token, value) in enumerate(each.top[:top], 1)}
            places[each.token] = (each.logprob, rank)
            found.append(
                {
                    str(token): {"logprob": max(value, LEAST), "rank": at, "decoded_token": self._text(token)}
                    for token, (value, at) in places.items()
                }
            )
        return found

    def _entry(self, token: int | str, logprob: float) -> dict[str, Any]:
        return {
            "token": self._name(token),
            "logprob": max(logprob, LEAST),
            "bytes": list(self._text(token).encode()),
        }

    def _name(self, token: int | str) -> str:
        return f"token_id:{token}" if self.as_ids and isinstance(token, int) else self._text(token)

    def _text(self, token: int | str) -> str:
        return decode(self.tokenizer, [token]) if isinstance(token, int) else token
