"""Logits of single sequences, for proofs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swift.models.heads import without_cache

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
    """Logits float32[tokens, vocabulary] of one sequence, on the CPU; of a model with another head, what that gives."""
    import torch

    with torch.inference_mode():
        given = model(input_ids=torch.tensor([ids], device=model.device), **without_cache(model))
        return (given.logits if "logits" in given else given.last_hidden_state)[0].float().cpu()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The root mean square of a difference of logits, as a share of their standard deviation."""
    # A classifier gives few numbers, which may have no deviation.
    scale = other.std() if other.dim() > 1 else other.norm() / len(other) ** 0.5
    return float((one - other).pow(2).mean().sqrt() / scale)
