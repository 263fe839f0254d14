"""From a model and a micro-batch to the log-probabilities of its trained tokens."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from swift.objectives.types import TokenLogps
from swift.rows import IGNORE


def takes_logits_to_keep(model: Any) -> bool:
    """Whether the model can be asked for the logits of chosen positions only."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def virtual_tokens(model: Any) -> int:
    """Positions that prompt tuning puts before each row; a prefix has none, it stands in the cache."""
    inner = getattr(model, "module", model)
    adapter = inner.active_peft_config if hasattr(inner, "peft_config") else None
    if adapter is None or not adapter.is_prompt_learning or adapter.peft_type == "PREFIX_TUNING":
        return 0
    return int(adapter.num_virtual_tokens)


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
    # Virtual tokens of prompt tuning stand before each row and have logits too.
    places = columns + virtual_tokens(model)
    extra = {"logits_to_keep": places} if select else {}
    logits = model(**inputs, use_cache=False, **extra).logits
    if not select:
        logits = logits[:, places]
    logits, labels = logits.flatten(0, 1), targets[:, columns].flatten()
    weights = batch["weights"][:, 1:][:, columns].flatten() if "weights" in batch else None
    chosen = (labels != IGNORE).nonzero().squeeze(1)
    if len(chosen) < len(labels):
        # Where every row is trained this copy of the logits is saved.
        logits, labels = logits.index_select(0, chosen), labels[chosen]
        weights = weights[chosen] if weights is not None else None
    logps = row_logps(logits, labels, label_smoothing)
    if not len(labels):
        # A process without samples in this micro-batch still takes part in the backward pass of the others.
        logps = logps + 0.0 * logits.sum()
    return TokenLogps(logps, weights), logits, labels


def row_logps(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Log-probabilities float32[k] of labels int64[k] under logits float[k, vocabulary]."""
    return RowLogps.apply(logits, labels, label_smoothing)


class RowLogps(torch.autograd.Function):
    """Minus the cross-entropy of each row, some rows at a time, so that float32 copies of the logits stay small.

    With label smoothing e and V words: (1 - e) x_y + e mean(x) - logsumexp(x).
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
        """float32[k] from logits float[k, V] of any precision and labels int64[k]."""
        ctx.smoothing = smoothing
        logps, normaliser = (torch.empty(len(labels), dtype=torch.float32, device=logits.device) for _ in range(2))
        for rows in slices(logits):
            part = logits[rows].float()
            normaliser[rows] = part.logsumexp(-1)
            target = part.gather(1, labels[rows, None]).squeeze(1)
            if smoothing:
                target = torch.lerp(target, part.mean(-1), smoothing)
            logps[rows] = target - normaliser[rows]
        ctx.save_for_backward(logits, labels, normaliser)
        return logps

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """d logp / dx_j = (1 - e) [j = y] + e / V - softmax(x)_j."""
        logits, labels, normaliser = ctx.saved_tensors
        result = torch.empty_like(logits)
        for rows in slices(logits):
            part = (logits[rows] - normaliser[rows, None]).exp_().neg_()
            part.scatter_add_(1, labels[rows, None], part.new_full((len(part), 1), 1 - ctx.smoothing))
            if ctx.smoothing:
                part.add_(ctx.smoothing / part.shape[1])
            result[rows] = part.mul_(grad[rows, None])
        return result, None, None


def slices(logits: torch.Tensor) -> list[slice]:
    """Rows whose float32 copy fits a processor's cache, or some hundred MB of an accelerator's memory."""
    elements = 2**20 if logits.device.type == "cpu" else 2**26
    step = max(1, elements // logits.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits), step)]
