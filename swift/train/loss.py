"""From a model and a micro-batch to the log-probabilities of its trained tokens."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F

from swift.objectives.types import TokenLogps
from swift.rows import IGNORE


def takes_logits_to_keep(model: Any) -> bool:
    """Whether the model can be asked for the logits of chosen positions only."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def token_logps(
    model: Any, batch: dict[str, torch.Tensor], *, select: bool, label_smoothing: float = 0.0
) -> tuple[TokenLogps, torch.Tensor, torch.Tensor]:
    """Log-probabilities of the trained tokens; logits exist only where some row of the micro-batch is trained.

    Args:
        model: a causal language model, wrapped or not.
        batch: input_ids int64[b, n], labels int64[b, n] not shifted, weights float32[b, n] or absent, and whatever else
            the model takes.
        select: whether the model takes `logits_to_keep`.
        label_smoothing: mixes the uniform distribution into each target (Szegedy et al., 2016, section 7).

    Returns:
        The log-probabilities, with the logits float[k, vocabulary] and labels int64[k] of the k trained tokens.
    """
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "weights")}
    targets = batch["labels"][:, 1:]
    trained = targets != IGNORE
    columns = trained.any(dim=0).nonzero().squeeze(1)
    if len(columns) == 0:
        columns = columns.new_zeros(1)
    extra = {"logits_to_keep": columns} if select else {}
    logits = model(**inputs, use_cache=False, **extra).logits
    if not select:
        logits = logits[:, columns]
    chosen = trained[:, columns]
    logits, labels = logits[chosen], targets[:, columns][chosen]
    logps = -F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)
    if not len(labels):
        # A process without samples in this micro-batch still takes part in the backward pass of the others.
        logps = logps + 0.0 * logits.sum()
    weights = batch["weights"][:, 1:][:, columns][chosen] if "weights" in batch else None
    return TokenLogps(logps, weights), logits, labels
