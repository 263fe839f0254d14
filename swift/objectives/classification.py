"""Losses of texts that get a class, several classes, or scores; their unit is the text."""

from __future__ import annotations

import torch.nn.functional as F

from swift.objectives import objective
from swift.objectives.types import Loss, Scores


@objective("single_label_classification")
def single_label(outputs: Scores) -> Loss:
    """Sum of -log softmax(x)_y over the texts: the cross-entropy of the one class y of each."""
    return Loss(F.cross_entropy(outputs.logits, outputs.targets, reduction="sum"))


@objective("multi_label_classification")
def multi_label(outputs: Scores) -> Loss:
    """Sum over the texts of the mean over classes of the binary cross-entropy of sigmoid(x)."""
    each = F.binary_cross_entropy_with_logits(outputs.logits, outputs.targets, reduction="none")
    return Loss(each.mean(1).sum())


@objective("regression")
def regression(outputs: Scores) -> Loss:
    """Sum over the texts of the mean over scores of the squared error."""
    return Loss((outputs.logits - outputs.targets).square().mean(1).sum())
