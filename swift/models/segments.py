"""Attention of samples that lie end to end: each attends to itself alone, and no mask of the whole pack is made.

A mask of a pack of n tokens has n * n places, which SDPA reads for every layer and which rules out its fast kernels;
eager attention keeps as many weights for each head besides. With the borders of the samples at hand
(`swift.data.collator.segment_kwargs`) no sample need be hidden from another: a GPU runs the kernel for sequences of
different lengths that PyTorch brings (`torch.nn.attention.varlen`), other devices run SDPA on one sample after another,
and so does the architecture's own eager attention.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

NAMES = {"sdpa": "sdpa_segments", "eager": "eager_segments"}
"""Attention of transformers -> the name under which it finds the functions that take its place."""

PROBE = (3, 4, 1)
"""Tokens of the samples of a small pack, and of each alone, which are compared."""

FLAGS = ("_supports_flash_attn", "_supports_attention_backend")
"""What a model class must say of itself: the first that borders of samples may stand for a mask."""

EAGER = "eager_attention_forward"
"""What the modules of transformers call their own attention."""


def attend_by_segment(model: Any) -> bool:
    """Let a model that runs SDPA or eager attention attend sample by sample where a batch brings borders.

    Args:
        model: a causal language model, wrapped by PEFT or not; one with contents is asked whether the samples of a
            small pack have the logits that they have alone.

    Returns:
        Whether it does so now; it is left as it was where it cannot.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config
    kind = getattr(config, "_attn_implementation", None)
    if kind not in NAMES or not _can_attend(inner, config, kind):
        return False
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask, sdpa_mask

    sdpa = kind == "sdpa"
    AttentionInterface.register(NAMES[kind], segment_attention if sdpa else eager_segment_attention)
    AttentionMaskInterface.register(NAMES[kind], pack_mask(sdpa_mask if sdpa else eager_mask))
    known = inner.device.type != "meta"
    alone = torch.cat([probe_logits(inner, ids) for ids in _probe(inner)], dim=1) if known else None
    inner.set_attn_implementation(NAMES[kind])
    if alone is None or _alike(inner, alone):
        return True
    inner.set_attn_implementation(kind)
    return False


def probe_logits(model: Any, ids: torch.Tensor, **given: Any) -> torch.Tensor:
    """Logits float[1, n, vocabulary] of tokens int64[1, n], in eval mode; `given` goes to the model."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False, **given).logits
    finally:
        model.train(training)


def _probe(model: Any) -> tuple[torch.Tensor, ...]:
    """Samples of `PROBE` tokens, int64[1, n] each."""
    device = next(model.parameters()).device
    return torch.arange(1, sum(PROBE) + 1, device=device)[None].split(PROBE, dim=1)


def _alike(model: Any, alone: torch.Tensor) -> bool:
    """Whether a pack of the samples of the probe has the logits that they have alone."""
    samples = _probe(model)
    borders = tuple(itertools.accumulate(PROBE, initial=0))
    positions = torch.cat([torch.arange(length, device=alone.device) for length in PROBE])[None]
    try:
        found = probe_logits(model, torch.cat(samples, dim=1), position_ids=positions, segments=borders)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    tolerance = 1e-4 if alone.dtype.itemsize >= 4 else 3e-2
    scale = float(alone.float().abs().max())
    return bool((found.float() - alone.float()).abs().max() <= tolerance * scale)


def _can_attend(model: Any, config: Any, kind: str) -> bool:
    # The functions of SDPA know no caps of scores; an architecture's own eager attention does.
    able = getattr(model, "_supports_sdpa", False) and not getattr(config, "attn_logit_softcapping", None)
    if kind == "eager":
        able = hasattr(sys.modules[type(model).__module__], EAGER)
    if not able or not all(getattr(model, flag, False) for flag in FLAGS):
        return False
    kinds = set(getattr(config, "layer_types", None) or ())
    # Of windows the layers tell us; of chunks, and of images that see ahead, only a mask would.
    plain = kinds <= {"full_attention", "sliding_attention"}
    more = ("attention_chunk_size", "vision_config")
    return plain and not any(getattr(config, name, None) for name in more)


def pack_mask(own: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives the mask which transformers asks for before the layers run: none for samples end to end.

    Args:
        own: makes the mask of other batches.
    """

    def mask(*, attention_mask: torch.Tensor | None = None, allow_is_causal_skip: bool = True, **given: Any) -> Any:
        if attention_mask is None and not allow_is_causal_skip:
            return None
        return own(attention_mask=attention_mask, allow_is_causal_skip=allow_is_causal_skip, **given)

    return mask


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: tuple[int, ...] | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **given: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sample, as an attention function of transformers.

    Args:
        module: the attention layer.
        query: float[batch, heads, n, width].
        key: float[batch, key heads, n, width], and value likewise.
        value: see `key`.
        attention_mask: for batches without borders.
        dropout: share of the attention weights that are dropped.
        scaling: of the scores; one by the root of the width where it is not given.
        sliding_window: tokens that a token sees, itself included; None means all before it.
        segments: borders of the samples, from 0 to n; read off position_ids where neither they nor a mask are given.
        cu_seq_lens_q: the same, int32[samples + 1] where query is.
        max_length_q: tokens of the longest sample.
        given: what else the layer passes.

    Returns:
        float[batch, n, heads, width].
    """
    if segments is None and attention_mask is None:
        segments = _borders(given.get("position_ids"), query)
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **given
        )
    if cu_seq_lens_q is not None and not dropout and has_kernel(query, value):
        return _in_one_kernel(query, key, value, scaling, sliding_window, cu_seq_lens_q, max_length_q), None
    parts = [
        F.scaled_dot_product_attention(
            query[:, :, start:stop],
            key[:, :, start:stop],
            value[:, :, start:stop],
            attn_mask=_window(stop - start, sliding_window, query.device),
            is_causal=not sliding_window or stop - start <= sliding_window,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        ).transpose(1, 2)
        for start, stop in itertools.pairwise(segments)
    ]
    return torch.cat(parts, dim=1), None


def eager_segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    sliding_window: int | None = None,
    segments: tuple[int, ...] | None = None,
    **given: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same by the architecture's own eager attention, with its sinks, its caps of scores and what else it has.

    Args and returns as in `segment_attention`; without borders also the weights, as the architecture gives them.
    """
    own = getattr(sys.modules[type(module).__module__], EAGER)
    tokens = query.shape[2]
    if sliding_window is not None:
        given["sliding_window"] = sliding_window
    if segments is None and attention_mask is None and key.shape[2] == tokens:
        segments = _borders(given.get("position_ids"), query) or (0, tokens)
    if segments is None:
        return own(module, query, key, value, attention_mask, **given)
    parts = []
    for start, stop in itertools.pairwise(segments):
        hidden = ~_seen(stop - start, sliding_window, query.device)
        mask = torch.zeros_like(hidden, dtype=query.dtype).masked_fill(hidden, torch.finfo(query.dtype).min)
        sample = (each[:, :, start:stop] for each in (query, key, value))
        parts.append(own(module, *sample, mask[None, None], **given)[0])
    return torch.cat(parts, dim=1), None


def takes_borders(model: Any) -> bool:
    """Whether the model's attention reads the borders of samples that lie end to end."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = getattr(inner.config, "_attn_implementation", None) or ""
    return kind in NAMES.values() or kind.startswith("flash_attention")


def _borders(positions: torch.Tensor | None, query: torch.Tensor) -> tuple[int, ...] | None:
    """Where positions int64[1, n] begin anew, and n; None where they do not."""
    if positions is None or positions.shape != (1, query.shape[2]):
        return None
    starts = (positions[0] == 0).nonzero().flatten().tolist()
    return (*starts, query.shape[2]) if len(starts) > 1 else None


def has_kernel(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether PyTorch's kernel for sequences of different lengths takes these tensors."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] == value.shape[-1]
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and (bool(torch.version.hip) or torch.cuda.get_device_capability(query.device) >= (8, 0))
    )


def _in_one_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    borders: torch.Tensor,
    longest: int,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
    result: Any = varlen_attn(
        query,
        key,
        value,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(sliding_window - 1 if sliding_window else -1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return result[None]


def _window(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """bool[n, n], the places that a token sees, where the window is shorter than the sample."""
    if not sliding_window or length <= sliding_window:
        return None
    return _seen(length, sliding_window, device)


def _seen(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor:
    """bool[n, n], the places that a token sees."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen.triu(1 - sliding_window) if sliding_window else seen
