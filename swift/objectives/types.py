"""What objectives take and give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class TokenLogps:
    """Log-probabilities of the trained tokens of a micro-batch.

    Attributes:
        logps: float32[k], log p(token | what stands before it), one for each trained token.
        weights: float32[k], the loss weight of each; None means 1.
        sample: int64[k], which sample of the micro-batch each token belongs to.
        channel: int64[k], the number of each token's channel, where rows have one and it is asked for.
        balance: float[], how unevenly the micro-batch used the model's experts, where it is asked for.
    """

    logps: torch.Tensor
    weights: torch.Tensor | None = None
    sample: torch.Tensor | None = None
    channel: torch.Tensor | None = None
    balance: torch.Tensor | None = None


@dataclass
class Scores:
    """What a model gives to the texts of a micro-batch.

    Attributes:
        logits: float32[k, n], one row for each text.
        targets: int64[k], a class of each; or float32[k, n], 1 for each of its classes and 0 for others, or its scores.
    """

    logits: torch.Tensor
    targets: torch.Tensor


@dataclass
class Embeddings:
    """Embeddings of anchors and of the passages that each is compared with.

    Attributes:
        anchors: float32[g, d].
        passages: float32[p, d].
        group: int64[p], the anchor that each passage belongs to.
        scores: float32[p], 1 for a passage to be found and 0 for one not to be, or how alike it is.
    """

    anchors: torch.Tensor
    passages: torch.Tensor
    group: torch.Tensor
    scores: torch.Tensor

    def first(self, dimensions: int) -> Embeddings:
        """The same with the first numbers of each embedding alone."""
        return Embeddings(self.anchors[:, :dimensions], self.passages[:, :dimensions], self.group, self.scores)


@dataclass
class Ranked:
    """Scores of passages for the questions that they are to answer.

    Attributes:
        logits: float32[p], how well each passage answers.
        targets: float32[p], 1 for those that do and 0 for others.
        group: int64[p], the question of each.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    group: torch.Tensor


@dataclass
class Loss:
    """A micro-batch's share of the loss.

    Attributes:
        total: the sum over its units, still to be divided by the count over the global batch.
        metrics: further figures to log, each a sum over units.
    """

    total: torch.Tensor
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)


Objective = Callable[[Any], Loss]
"""A pure function of one of the classes above, without a model; its docstring names its unit."""
