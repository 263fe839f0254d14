"""The log-probabilities of texts that are there already: of prompts, and of answers to them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache

from swift.engines.base import Logprob, Scored

PORTION = 512
"""Tokens of a call of the model: logits of a whole long text would not fit into the memory."""

Forward = Callable[..., Any]


def score(
    call: Callable[[Callable[[], Any]], Any],
    forward: Forward,
    ids: Sequence[int],
    *,
    model: Any,
    top: int,
    whole: bool,
) -> Scored:
    """The log-probability of each token after those before it, by the model's own logits.

    Args:
        call: calls a function when nobody else uses the model; others have a turn between two portions.
        forward: calls the model with its adapters.
        ids: the tokens.
        top: alternatives at each place.
        whole: read all tokens at once, for models whose memory are not keys and values.
    """
    # Transformers 5 renames it.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    cache: Any = {} if whole else {name: DynamicCache(), "use_cache": True}
    found: list[Logprob | None] = [None]
    ranks = [0]
    step = len(ids) if whole else PORTION
    for start in range(0, len(ids) - 1, step):
        end = min(start + step, len(ids))
        inputs = {
            "input_ids": torch.tensor([list(ids[start:end])], device=model.device),
            "attention_mask": torch.ones(1, end, dtype=torch.int64, device=model.device),
            **cache,
        }
        told = call(partial(_part, forward, inputs, list(ids[start + 1 : end + 1]), top))
        found += told[0]
        ranks += told[1]
    return Scored(list(ids), found, ranks)


def _part(
    forward: Forward, inputs: dict[str, Any], targets: list[int], top: int
) -> tuple[list[Logprob | None], list[int]]:
    # Virtual tokens of an adapter stand before those of the text.
    logits = forward(return_dict=True, **inputs).logits[0, -inputs["input_ids"].shape[1] :][: len(targets)]
    logps = logits.float().log_softmax(dim=-1)
    chosen = logps.gather(1, torch.tensor(targets, device=logps.device)[:, None])
    ranks = (logps > chosen).sum(dim=-1) + 1
    likeliest = logps.topk(min(top, logps.shape[-1]))
    return [
        Logprob(token, value, list(zip(others, values, strict=True)))
        for token, value, others, values in zip(
            targets, chosen[:, 0].tolist(), likeliest.indices.tolist(), likeliest.values.tolist(), strict=True
        )
    ], ranks.tolist()
