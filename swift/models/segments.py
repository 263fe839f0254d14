"""Attention over samples that lie end to end, one after another, without a mask of the whole length squared.

Transformers tells samples apart by a mask of every token against every other. Its attention functions are given the
borders of the samples here instead, and called once for each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PREFIX = "segments_"
"""What stands before the name of an attention implementation that is called for each sample."""

PROBE = (3, 4, 1)
"""Tokens of the samples on which both ways are compared."""


def can_attend_by_segments(model: Any, attn: str, device: str) -> bool:
    """Whether a model may attend sample by sample: on a CPU, where its attention is one that can be replaced."""
    classes = [type(module) for module in model.modules() if hasattr(type(module), "_supports_attention_backend")]
    replaceable = bool(classes) and all(each._supports_attention_backend for each in classes)
    return device == "cpu" and attn in ("sdpa", "eager") and replaceable


def attend_by_segments(model: Any) -> bool:
    """Let a model attend sample by sample where that gives what its masks give, which a small pack shows.

    Args:
        model: a causal language model, for which `can_attend_by_segments` holds.

    Returns:
        Whether it does.
    """
    import torch

    config = model.config.get_text_config()
    plain = config._attn_implementation
    expected = _probe(model)
    config._attn_implementation = _registered(plain)
    try:
        found = _probe(model)
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError):
        found = None
    tolerance = 1e-4 if expected.dtype.itemsize >= 4 else 3e-2
    if found is None or not torch.allclose(found.float(), expected.float(), rtol=tolerance, atol=tolerance):
        config._attn_implementation = plain
        return False
    return True


def _probe(model: Any) -> torch.Tensor:
    """The logits of a small pack."""
    import torch

    device = next(model.parameters()).device
    ids = torch.arange(1, sum(PROBE) + 1, device=device)[None]
    positions = torch.cat([torch.arange(length, device=device) for length in PROBE])[None]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(input_ids=ids, position_ids=positions, use_cache=False).logits
    finally:
        model.train(training)


def _registered(plain: str) -> str:
    """The name under which an attention implementation is called for each sample."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = PREFIX + plain
    inner = ALL_ATTENTION_FUNCTIONS.get(plain) if plain in ALL_ATTENTION_FUNCTIONS.valid_keys() else None
    ALL_ATTENTION_FUNCTIONS.register(name, partial(attention, inner))
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, partial(borders_or_mask, ALL_MASK_ATTENTION_FUNCTIONS[plain]))
    return name


def attention(
    inner: Callable[..., Any] | None,
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Any,
    **options: Any,
) -> tuple[torch.Tensor, Any]:
    """Attention by `inner`, for each sample by itself where the mask is their borders.

    Args:
        inner: an attention function of transformers; None takes the eager one of the module's own file.
        module: the attention module.
        query: [1, heads, tokens, size].
        key: [1, key heads, tokens, size].
        value: [1, key heads, tokens, value size].
        mask: int64[samples + 1], from `borders_or_mask`, or what `inner` takes.
        options: passed on.

    Returns:
        [1, tokens, heads, value size], and the weights where `inner` gives them for the whole.
    """
    import torch

    eager = inner is None
    inner = inner or sys.modules[type(module).__module__].eager_attention_forward
    if mask is None or mask.dim() != 1:
        found: tuple[torch.Tensor, Any] = inner(module, query, key, value, mask, **options)
        return found
    parts = []
    for start, stop in pairwise(mask.tolist()):
        part = (each[:, :, start:stop] for each in (query, key, value))
        parts.append(inner(module, *part, _triangle(stop - start, query) if eager else None, **options)[0])
    return torch.cat(parts, dim=1), None


def _triangle(length: int, like: torch.Tensor) -> torch.Tensor:
    """[1, 1, length, length]: what eager attention adds, so that no token sees a later one."""
    import torch

    lowest = torch.finfo(like.dtype).min
    return torch.full((1, 1, length, length), lowest, dtype=like.dtype, device=like.device).triu(1)


def borders_or_mask(inner: Callable[..., Any], **options: Any) -> Any:
    """The borders of samples that lie end to end under the plain causal rule, or else the mask that `inner` makes.

    Args:
        inner: a mask function of transformers.
        options: its arguments.

    Returns:
        int64[samples + 1], starting at 0, or the mask.
    """
    length = options.get("q_length", len(options.get("cache_position", ())))
    whole = length == options["kv_length"] and not options.get("kv_offset")
    free = options.get("attention_mask") is None and not options.get("use_vmap")
    packed = not options.get("allow_is_causal_skip", True)
    if options["batch_size"] == 1 and whole and free and packed:
        found = _borders(options["mask_function"], length)
        if found is not None:
            return found
    return inner(**options)


def _borders(sees: Callable[..., Any], length: int) -> torch.Tensor | None:
    """The borders of samples; None where a token does not see exactly itself and what its sample has before it."""
    import torch

    at = torch.arange(length)
    zero = torch.zeros_like(at)
    joined = sees(zero[1:], zero[1:], at[1:], at[:-1])
    starts = torch.cat([at[:1], at[1:][~joined]])
    first = starts[torch.searchsorted(starts, at, right=True) - 1]
    causal = not sees(zero[1:], zero[1:], at[:-1], at[1:]).any()
    if causal and sees(zero, zero, at, first).all() and sees(zero, zero, at, at).all():
        return torch.cat([starts, at.new_tensor([length])])
    return None
