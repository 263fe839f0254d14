"""The output embedding some tokens at a time, so that logits of a whole micro-batch never lie in memory together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from swift.compat import meta_autocast, real_attention_masks
from swift.tasks.row_logps import logits_gradient, row_logps, target_and_normaliser


def separable_head(model: Any) -> Any:
    """The module whose output a causal language model returns as its logits, untouched; None where there is none.

    A few tokens go through the model, on whatever device it is (meta included). Only where the very tensor that the
    output embedding gave comes back, and nobody wrote to it, is the embedding all that stands between the last hidden
    states and the logits: soft-capping (Gemma 2), scaling (Cohere, Granite) and casts make another tensor.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if head is None:
        return None
    given: list[tuple[torch.Tensor, int]] = []
    handle = head.register_forward_hook(lambda _module, _args, output: given.append((output, output._version)))
    training = model.training
    try:
        ids = torch.zeros(1, 4, dtype=torch.int64, device=head_device(head))
        with torch.no_grad(), meta_autocast(), real_attention_masks(False):
            logits = model.eval()(input_ids=ids, use_cache=False).logits
    # Models without contents, or that want more than token ids, cannot be asked: they keep the plain way.
    except Exception:
        return None
    finally:
        handle.remove()
        model.train(training)
    return head if len(given) == 1 and logits is given[0][0] and logits._version == given[0][1] else None


def head_device(head: torch.nn.Module) -> torch.device:
    """Where the weights of a module are."""
    return next(head.parameters()).device


@contextlib.contextmanager
def tapped(head: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Let the head be given no rows, and collect what it would have been given: [batch, places, hidden]."""
    seen: list[torch.Tensor] = []

    def divert(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        seen.append(args[0])
        return (args[0][:, :0],)

    handle = head.register_forward_pre_hook(divert)
    try:
        yield seen
    finally:
        handle.remove()


def head_logps(head: torch.nn.Module, hidden: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Log-probabilities float32[k] of labels int64[k] under the head's logits of hidden states [k, hidden]."""
    if type(head) is torch.nn.Linear and not (head._forward_hooks or head._forward_pre_hooks):
        return LinearLogps.apply(hidden, head.weight, head.bias, labels, smoothing)
    # An adapter on the head, or a quantised one: its own code runs again in the backward pass.
    parts = [
        checkpoint(lambda rows: row_logps(head(hidden[rows]), labels[rows], smoothing), rows, use_reentrant=False)
        for rows in chunks(hidden, _width(head))
    ]
    return torch.cat(parts) if parts else row_logps(head(hidden), labels, smoothing)


def _width(head: torch.nn.Module) -> int:
    return int(getattr(head, "out_features", 0)) or max(parameter.shape[0] for parameter in head.parameters())


def chunks(hidden: torch.Tensor, vocabulary: int) -> list[slice]:
    """Rows whose logits are computed together."""
    elements = CPU_ELEMENTS if hidden.device.type == "cpu" else GPU_ELEMENTS
    step = max(1, elements // vocabulary)
    return [slice(start, start + step) for start in range(0, len(hidden), step)]


CPU_ELEMENTS, GPU_ELEMENTS = 2**23, 2**26
"""Logits that lie in memory together."""


class LinearLogps(torch.autograd.Function):
    """`RowLogps` of a linear layer's output, whose logits are dropped chunk by chunk.

    Where the layer itself is not trained, the gradient of its input is computed at once, up to each row's own factor,
    which the backward pass brings: d logp_i / d h_i = (target - softmax(x_i)) W. Where it is trained, the gradient of W
    mixes rows, so logits are computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        smoothing: float,
    ) -> torch.Tensor:
        """float32[k] from hidden [k, h], weight [V, h], bias [V] or None and labels int64[k]."""
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        ctx.dtype, ctx.smoothing, ctx.bias = dtype, smoothing, bias
        ctx.trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        at_once = ctx.needs_input_grad[0] and not ctx.trained
        logps, normaliser = (torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in range(2))
        gradient = torch.empty_like(hidden) if at_once else None
        with torch.autocast(kind, enabled=False):
            rows_of, table = hidden.to(dtype), weight.to(dtype)
            for rows in chunks(hidden, len(weight)):
                logits = _logits(rows_of[rows], table, bias)
                target, normaliser[rows] = target_and_normaliser(logits, labels[rows], smoothing)
                logps[rows] = target - normaliser[rows]
                if gradient is not None:
                    slopes = logits_gradient(logits, labels[rows], normaliser[rows], smoothing, None).to(dtype)
                    gradient[rows] = (slopes @ table).to(hidden.dtype)
        ctx.save_for_backward(*((hidden, weight, labels, normaliser) if ctx.trained else (gradient,)))
        return logps

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of hidden, weight and bias."""
        if not ctx.trained:
            (gradient,) = ctx.saved_tensors
            return (
                (gradient * grad[:, None].to(gradient.dtype)) if gradient is not None else None,
                None,
                None,
                None,
                None,
            )
        hidden, weight, labels, normaliser = ctx.saved_tensors
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        to_bias = torch.zeros(len(weight), dtype=torch.float32, device=weight.device)
        with torch.autocast(hidden.device.type, enabled=False):
            rows_of, table = hidden.to(ctx.dtype), weight.to(ctx.dtype)
            for rows in chunks(hidden, len(weight)):
                logits = _logits(rows_of[rows], table, ctx.bias)
                slopes = logits_gradient(logits, labels[rows], normaliser[rows], ctx.smoothing, grad[rows])
                if ctx.bias is not None:
                    to_bias += slopes.sum(0)
                slopes = slopes.to(ctx.dtype)
                to_hidden[rows] = (slopes @ table).to(hidden.dtype)
                # One product after another is added in float32, as one product of all rows would be.
                if ctx.dtype == torch.float32:
                    to_weight.addmm_(slopes.T, rows_of[rows])
                else:
                    to_weight += slopes.T @ rows_of[rows]
        return to_hidden, to_weight.to(weight.dtype), to_bias if ctx.bias is not None else None, None, None


def _logits(hidden: torch.Tensor, table: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.linear(hidden, table, bias.to(table.dtype) if bias is not None else None)
