"""Which loss a run takes, and how its logits are computed."""

from __future__ import annotations

from typing import Any

from swift.config import SftConfig
from swift.errors import SwiftError


def loss_name(config: SftConfig) -> str:
    """The objective's name.

    Raises:
        SwiftError: two options name two objectives.
    """
    train = config.train
    if train.enable_dft_loss and train.loss_type not in (None, "dft"):
        raise SwiftError(f"--enable_dft_loss true with --loss_type {train.loss_type}", fix="keep one of them")
    return "dft" if train.enable_dft_loss else train.loss_type or "cross_entropy"


MANY = 1024
"""Trained tokens of a micro-batch from which on it costs no time to compute their logits some at a time."""


def chosen_head(config: SftConfig, model: Any, tokens: int) -> Any:
    """The model's output embedding where its logits are computed some tokens at a time, else None.

    Args:
        config: the run's options.
        model: the tuned model.
        tokens: trained tokens of the largest micro-batch.

    Raises:
        SwiftError: it is asked for, and the model's logits are not those of its output embedding alone.
    """
    from swift.train.head import separable_head

    sharded = config.train.more.get("torch_compile") or any(
        config.train.more.get(name) for name in ("fsdp", "deepspeed")
    )
    if config.train.chunked_cross_entropy is False or sharded:
        return None
    head = separable_head(model)
    # BAdam never trains it, whatever requires gradients before the first step.
    trained = head is not None and any(p.requires_grad for p in head.parameters()) and config.train.optimizer != "badam"
    if config.train.chunked_cross_entropy is None and (trained or tokens < MANY):
        return None
    if head is None and config.train.chunked_cross_entropy:
        raise SwiftError(
            f"--chunked_cross_entropy true: the logits of {type(model).__name__} are not those of its output embedding "
            "alone",
            fix="leave it out",
        )
    return head
