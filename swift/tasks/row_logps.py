"""Log-probabilities of labels under logits, some rows at a time."""

from __future__ import annotations

from typing import Any

import torch


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
            target, normaliser[rows] = target_and_normaliser(logits[rows], labels[rows], smoothing)
            logps[rows] = target - normaliser[rows]
        ctx.save_for_backward(logits, labels, normaliser)
        return logps

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The gradient of the logits, by `logits_gradient`."""
        logits, labels, normaliser = ctx.saved_tensors
        result = torch.empty_like(logits)
        for rows in slices(logits):
            result[rows] = logits_gradient(logits[rows], labels[rows], normaliser[rows], ctx.smoothing, grad[rows])
        return result, None, None


def target_and_normaliser(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32[k] twice: (1 - e) x_y + e mean(x), and logsumexp(x)."""
    part = logits.float()
    target = part.gather(1, labels[:, None]).squeeze(1)
    if smoothing:
        target = torch.lerp(target, part.mean(-1), smoothing)
    return target, part.logsumexp(-1)


def logits_gradient(
    logits: torch.Tensor, labels: torch.Tensor, normaliser: torch.Tensor, smoothing: float, grad: torch.Tensor | None
) -> torch.Tensor:
    """float32[k, V]: d logp / dx_j = (1 - e) [j = y] + e / V - softmax(x)_j, times `grad` where it is given."""
    part = (logits - normaliser[:, None]).exp_().neg_()
    part.scatter_add_(1, labels[:, None], part.new_full((len(part), 1), 1 - smoothing))
    if smoothing:
        part.add_(smoothing / part.shape[1])
    return part if grad is None else part.mul_(grad[:, None])


def slices(logits: torch.Tensor) -> list[slice]:
    """Rows whose float32 copy fits a processor's cache, or some hundred MB of an accelerator's memory."""
    elements = 2**20 if logits.device.type == "cpu" else 2**26
    step = max(1, elements // logits.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits), step)]
