"""MuonClip: Muon, after whose step heads with too large attention logits are scaled down (Kimi Team, 2025, arXiv
2507.20534, algorithm 1)."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch

from swift.config import OptimizerConfig
from swift.errors import SwiftError
from swift.models.segments import NAMES
from swift.tuners import optimizer
from swift.tuners.optim.muon import muon
from swift.tuners.optim.rules import RuleOptimizer

largest: WeakKeyDictionary[torch.nn.Module, torch.Tensor] = WeakKeyDictionary()
"""Attention module -> float32[heads], the largest logit of each head since the last step."""

ROWS = 128
"""Queries whose logits are looked at together."""


class MuonClip(RuleOptimizer):
    """Muon, and the clip of queries and keys after each step.

    Args:
        inner: Muon over the model's parameters.
        modules: the model's attention modules.
        tau: the largest logit that is left as it is.
    """

    def __init__(self, inner: RuleOptimizer, modules: list[Any], tau: float) -> None:
        super().__init__(inner.param_groups, inner.rules, lr=inner.defaults["lr"])
        self.modules, self.tau = modules, tau

    @torch.no_grad()
    def step(self, closure: Any = None) -> float | None:  # type: ignore[override]
        """Muon's step; then heads whose logits were beyond tau are brought back to it."""
        loss = super().step(closure)
        for module in self.modules:
            if module in largest:
                clip(module, largest.pop(module), self.tau)
        return loss


@optimizer("muonclip")
def muonclip(model: Any, args: Any, options: OptimizerConfig) -> MuonClip:
    """Muon with its clip, for attention whose logits can be seen.

    Raises:
        SwiftError: the model's attention has other projections, normalises its queries, or runs in a fused kernel.
    """
    modules = [module for module in model.modules() if hasattr(module, "q_proj") and hasattr(module, "k_proj")]
    kernel = model.config.get_text_config()._attn_implementation.removeprefix("watched_")
    # Samples of a pack that are attended one by one have no mask of the whole, which tells the logits that count.
    kernel = next((name for name, by_sample in NAMES.items() if by_sample == kernel), kernel)
    reason = None
    if not modules:
        reason = "the model's attention has no q_proj and k_proj"
    elif any(hasattr(module, "q_norm") for module in modules):
        reason = "the model normalises its queries, which bounds attention logits already"
    elif kernel not in ("sdpa", "eager"):
        reason = f"attention logits cannot be seen in --attn_impl {kernel}"
    if reason:
        raise SwiftError(f"--optimizer muonclip: {reason}", fix="give --optimizer muon")
    _watch(model, kernel)
    return MuonClip(muon(model, args, options), modules, options.muonclip_tau)


def _watch(model: Any, kernel: str) -> None:
    """Let the model's attention go through `watched`."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = f"watched_{kernel}"
    inner = ALL_ATTENTION_FUNCTIONS.get(kernel)
    ALL_ATTENTION_FUNCTIONS.register(name, partial(watched, inner))
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kernel])
    model.config.get_text_config()._attn_implementation = name


def watched(
    inner: Any, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
) -> Any:
    """Attention by `inner`; in training the largest logit of each head is noted.

    Args:
        inner: an attention function of transformers.
        module: the attention module.
        query: [batch, heads, queries, size].
        key: [batch, key heads, keys, size].
        value: as key.
        mask: bool or additive [batch, 1, queries, keys]; None means causal.
        options: go on to `inner`.
    """
    if module.training:
        found = largest_logits(query.detach(), key.detach(), mask, options.get("scaling") or query.shape[-1] ** -0.5)
        largest[module] = torch.maximum(largest[module], found) if module in largest else found
    return inner(module, query, key, value, mask, **options)


def largest_logits(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scale: float) -> torch.Tensor:
    """float32[heads], the largest scaled logit of each head over the places that the mask lets be seen."""
    heads, queries, keys = query.shape[1], query.shape[2], key.shape[2]
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    result = query.new_full((heads,), -torch.inf, dtype=torch.float32)
    for start in range(0, queries, ROWS):
        logits = (query[:, :, start : start + ROWS] * scale @ key.mT).float()
        if mask is None:
            seen = torch.ones(logits.shape[2:], dtype=torch.bool, device=query.device).tril(keys - queries + start)
        else:
            part = mask[:, :, start : start + ROWS, :keys]
            seen = part if part.dtype == torch.bool else part > torch.finfo(part.dtype).min / 2
        result = torch.maximum(result, logits.masked_fill(~seen, -torch.inf).amax(dim=(0, 2, 3)))
    return result


def clip(module: Any, logits: torch.Tensor, tau: float) -> None:
    """Bring the heads of a module back to `tau`.

    With a key head for each query head both are scaled by the root; where query heads share a key head, the shared part
    stays as it is and the query is scaled, as the paper does with the keys that its heads share.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        dist.all_reduce(logits, op=dist.ReduceOp.MAX)
    factor = torch.where(logits > tau, tau / logits, 1.0)
    own_keys = getattr(module, "num_key_value_groups", 1) == 1
    for projection in (module.q_proj, module.k_proj) if own_keys else (module.q_proj,):
        scale = factor.sqrt() if own_keys else factor
        for parameter in projection.parameters():
            if parameter.requires_grad:
                parameter.view(len(scale), -1).mul_(scale[:, None].to(parameter.dtype))
