"""Choosing the next token: the model's generation config, a request's parameters over it, and seeds of its own."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor
from transformers.generation import logits_process as warpers

from swift.engines.base import RequestConfig

NEUTRAL: dict[str, float] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
"""Each parameter of sampling and the value at which it does nothing, in the order in which they apply."""


def sampling_of(defaults: dict[str, Any], config: RequestConfig) -> dict[str, float] | None:
    """The parameters of sampling that do something; None where the answer is greedy.

    Args:
        defaults: what the model's generation config sets.
        config: the request's parameters, which go over it.
    """
    given = {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
    given = {name: value for name, value in given.items() if value is not None}
    if config.num_beams > 1 or config.temperature == 0:
        return None
    if not given and not defaults.get("do_sample"):
        return None
    values = {name: defaults[name] for name in NEUTRAL if defaults.get(name) is not None} | given
    return {name: value for name, value in values.items() if value != NEUTRAL[name]}


def build_warpers(sampling: dict[str, float]) -> list[LogitsProcessor]:
    """Transformers' own warpers for these parameters, in its order."""
    makers = {
        "temperature": lambda value: warpers.TemperatureLogitsWarper(float(value)),
        "top_k": lambda value: warpers.TopKLogitsWarper(int(value)),
        "top_p": lambda value: warpers.TopPLogitsWarper(float(value)),
        "min_p": lambda value: warpers.MinPLogitsWarper(float(value)),
        "typical_p": lambda value: warpers.TypicalLogitsWarper(float(value)),
        "epsilon_cutoff": lambda value: warpers.EpsilonLogitsWarper(float(value)),
        "eta_cutoff": lambda value: warpers.EtaLogitsWarper(float(value)),
    }
    return [makers[name](sampling[name]) for name in NEUTRAL if name in sampling]


def row_seed(seed: int | None, prompt: Sequence[int], choice: int) -> int:
    """The seed of one answer: it depends on what is asked and not on what else is in the batch."""
    if seed is None:
        return secrets.randbits(63)
    text = f"{seed}:{choice}:{','.join(map(str, prompt))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class SeededSampler(LogitsProcessor):
    """Samples each row with a generator of its own and leaves only the sampled token possible.

    `generate` draws the whole batch from one generator, so that an answer would depend on its neighbours. Here
    `generate` runs greedily and takes what this last processor leaves it.
    """

    def __init__(self, sampling: dict[str, float], seeds: Sequence[int]) -> None:
        self._warpers = build_warpers(sampling)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        """Logits [rows, vocabulary] -> 0 for each row's sampled token and -inf elsewhere."""
        warped = scores.float()
        for warper in self._warpers:
            warped = warper(input_ids, warped)
        cumulative = warped.softmax(dim=-1).cumsum(dim=-1)
        draws = torch.cat([torch.rand(1, generator=generator) for generator in self._generators])
        # The first place whose cumulative probability exceeds the draw: a token of probability 0 is never taken.
        points = draws.to(cumulative.device)[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, points, right=True).clamp_(max=scores.shape[-1] - 1)
        return torch.full_like(scores, float("-inf")).scatter_(1, tokens, 0.0)


def greedy_arguments(config: RequestConfig, *, max_new_tokens: int, stop_ids: list[int], pad_id: int) -> dict[str, Any]:
    """Arguments for a `generate` that only takes the likeliest token; the rest is the model's generation config.

    They are arguments and no GenerationConfig: transformers 4 takes a value of the latter that is a default for one
    that nobody set, and samples after all where the model's own config does.
    """
    arguments: dict[str, Any] = {
        "do_sample": False,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        "max_new_tokens": max_new_tokens,
        "num_beams": config.num_beams,
        "num_return_sequences": 1,
        "pad_token_id": pad_id,
        "return_dict_in_generate": False,
        "use_cache": True,
    }
    if stop_ids:
        arguments["eos_token_id"] = stop_ids
    if config.repetition_penalty is not None:
        arguments["repetition_penalty"] = config.repetition_penalty
    return arguments
