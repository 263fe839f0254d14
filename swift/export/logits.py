"""Logits of single sequences, for proofs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ANSWER_TOKENS = 8


def greedy_answer(model: Any, prompt: Sequence[int]) -> list[int]:
    """The prompt with a short greedy answer behind it."""
    ids = list(prompt)
    for _ in range(ANSWER_TOKENS):
        ids.append(int(logits_of(model, ids)[-1].argmax()))
    return ids


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits float32[tokens, vocabulary] of one sequence, on the CPU."""
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0].float().cpu()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The root mean square of a difference of logits, as a share of their standard deviation."""
    return float((one - other).pow(2).mean().sqrt() / other.std())
