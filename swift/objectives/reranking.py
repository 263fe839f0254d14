"""Losses over the scores of a question's passages."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from swift.objectives import objective
from swift.objectives.types import Loss, Ranked


@objective("pointwise_reranker")
@objective("generative_reranker")
def pointwise(outputs: Ranked) -> Loss:
    """Sum over the passages of the binary cross-entropy of sigmoid(x); its unit is the passage."""
    return Loss(F.binary_cross_entropy_with_logits(outputs.logits, outputs.targets, reduction="sum"))


@objective("listwise_reranker")
@objective("listwise_generative_reranker")
def listwise(outputs: Ranked, temperature: float = 1.0) -> Loss:
    """Sum over the positives of -log(e^(x/t) / Z), with Z over the positive and its question's negatives.

    Cao et al., 2007 (Learning to rank: from pairwise approach to listwise approach), eq. 5, for the first place; its
    unit is the positive.
    """
    positive = outputs.targets >= 0.5
    places = positive.nonzero().squeeze(1)
    logits = outputs.logits / temperature
    rivals = (outputs.group[places][:, None] == outputs.group) & ~positive
    others = logits.expand(len(places), -1).masked_fill(~rivals, -torch.inf)
    whole = torch.cat([logits[places][:, None], others], 1)
    return Loss((whole.logsumexp(1) - whole[:, 0]).sum())
