"""LongLoRA: LoRA trained with attention inside groups of positions, for long sequences (Chen et al., 2024)."""

from __future__ import annotations

from typing import Any

import torch

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners import tuner
from swift.tuners.lora import lora_from

NAME = "longlora"
SHARE = 4
"""A group has a fourth of the sequence."""


@tuner("longlora")
def longlora(model: Any, config: TunerConfig) -> Any:
    """Attach LoRA and let training attend in shifted groups; evaluation and inference attend to everything.

    Raises:
        SwiftError: the architecture does not take another attention, or the names match no module.
    """
    return group_attention(lora_from(model, config, None))


def group_attention(model: Any) -> Any:
    """Let the model use shifted sparse attention while it trains.

    Raises:
        SwiftError: the architecture does not take another attention.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, shifted_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    inner = model.get_base_model()
    try:
        inner.set_attn_implementation(NAME)
    except (ValueError, AttributeError) as error:
        raise SwiftError(
            f"--train_type longlora: {inner.config.model_type} does not take another attention: {error}",
            fix="use --train_type lora",
        ) from None
    return model


def shifted_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside groups, which half of the heads have shifted by half a group (section 3.2).

    No group wraps around, so that no position sees a later one. Rows are padded at their end, where a causal mask alone
    keeps padding away from what is trained.

    Args:
        module: the attention layer.
        query: float[rows, heads, positions, width].
        key: float[rows, key heads, positions, width].
        value: the same.
        attention_mask: used where attention is whole: outside training, and with a cache.
        dropout: of the attention weights.
        scaling: factor of the scores; None means 1 / sqrt(width).
        kwargs: what the architecture passes besides.

    Returns:
        float[rows, positions, heads, width], and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    positions = query.shape[2]
    group = -(-positions // SHARE)
    if not module.training or key.shape[2] != positions or group < 2:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
    half = query.shape[1] // 2
    parts = [
        _in_groups(query[:, heads], key[:, heads], value[:, heads], first, group, dropout, scaling)
        for heads, first in ((slice(0, half), 0), (slice(half, None), group // 2))
    ]
    return torch.cat(parts, dim=1).transpose(1, 2).contiguous(), None


def _in_groups(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    first: int,
    group: int,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Attention inside the `first` positions, inside whole groups, and inside what is left."""
    rows, positions = query.shape[0], query.shape[2]
    whole = (positions - first) // group * group

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling
        )

    def split(tensor: torch.Tensor) -> torch.Tensor:
        middle = tensor[:, :, first : first + whole].unflatten(2, (whole // group, group))
        return middle.transpose(1, 2).flatten(0, 1)

    found = []
    if first:
        found.append(attend(query[:, :, :first], key[:, :, :first], value[:, :, :first]))
    if whole:
        middle = attend(split(query), split(key), split(value)).unflatten(0, (rows, whole // group))
        found.append(middle.transpose(1, 2).flatten(2, 3))
    if first + whole < positions:
        rest = slice(first + whole, None)
        found.append(attend(query[:, :, rest], key[:, :, rest], value[:, :, rest]))
    return torch.cat(found, dim=2)
