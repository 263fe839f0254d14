"""What is minimised: one file for each algorithm, pure functions that every back end shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swift.registry import Registry

if TYPE_CHECKING:
    from swift.objectives.types import Objective

TOKENS = {"cross_entropy": "swift.objectives.cross_entropy", "dft": "swift.objectives.dft"}
TEXTS = dict.fromkeys(
    ("single_label_classification", "multi_label_classification", "regression"), "swift.objectives.classification"
)

PAIRS = dict.fromkeys(
    ("infonce", "cosine_similarity", "contrastive", "online_contrastive"), "swift.objectives.contrastive"
)

RANKS = dict.fromkeys(
    ("pointwise_reranker", "listwise_reranker", "generative_reranker", "listwise_generative_reranker"),
    "swift.objectives.reranking",
)

objectives: Registry[Objective] = Registry("loss", "loss_type", TOKENS | TEXTS | PAIRS | RANKS)
objective = objectives.register
