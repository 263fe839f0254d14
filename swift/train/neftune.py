"""NEFTune: noise on the embeddings in training (Jain et al., 2023, arXiv 2310.05914, algorithm 1).

transformers' own takes the padded length of the batch for each sample's, so that its noise would hang on how samples
are batched and nearly vanish in packs.
"""

from __future__ import annotations

from typing import Any

import torch


class Neftune:
    """Adds uniform noise of at most alpha / sqrt(L d) to the embeddings of a sample of L tokens.

    Args:
        model: a model with input embeddings of d values.
        alpha: the scale of the noise.
    """

    def __init__(self, model: Any, alpha: float) -> None:
        self.alpha = alpha
        self.lengths: torch.Tensor | None = None
        model.get_input_embeddings().register_forward_hook(self._add)

    def begin(self, batch: dict[str, Any]) -> None:
        """Take note of the lengths of the batch that comes next."""
        self.lengths = sample_lengths(batch)

    def _add(self, module: torch.nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training or self.lengths is None:
            return output
        largest = self.alpha / (self.lengths * output.shape[-1]).sqrt()
        noise = torch.empty_like(output).uniform_(-1, 1)
        return output + noise * largest[..., None].to(output.dtype)


def sample_lengths(batch: dict[str, Any]) -> torch.Tensor:
    """float32[b, n], the tokens of the sample that each place belongs to; 1 at least.

    Args:
        batch: padded rows with attention_mask int64[b, n], or samples end to end with position_ids int64[1, n].
    """
    mask = batch.get("attention_mask")
    if mask is not None:
        return mask.sum(1, keepdim=True).expand_as(mask).float().clamp(min=1)
    sample = (batch["position_ids"] == 0).cumsum(1) - 1
    counts = torch.zeros_like(sample, dtype=torch.float32).scatter_add_(1, sample, torch.ones_like(sample).float())
    return counts.gather(1, sample)
