"""What a model is trained to give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from swift.config.fields import at_least, option

SEQ_CLS = ("task_type", "seq_cls")
EMBEDDING = ("task_type", "embedding")


@dataclass
class TaskConfig:
    """Options of the task."""

    task_type: Literal["causal_lm", "seq_cls", "embedding", "reranker", "generative_reranker"] | None = option(
        None,
        "What the model gives: text (causal_lm), a class or score of a text (seq_cls), its embedding, or how well a "
        "passage answers a question (reranker; generative_reranker by its yes and no); unset means what the model or "
        "the checkpoint was made for.",
    )
    num_labels: int | None = option(
        None, "seq_cls: classes or scores; unset means as many as the rows have.", check=at_least(1), needs=SEQ_CLS
    )
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = option(
        None,
        "seq_cls: one class of a text, any number of them, or scores; unset means what the labels of the rows are: "
        "whole numbers or names, lists of these, other numbers.",
        needs=SEQ_CLS,
    )
    mrl_dims: dict[str, Any] | None = option(
        None,
        "embedding: train the first so many numbers of an embedding by themselves (Matryoshka), with a weight each, as "
        'JSON: {"384": 1, "64": 0.5}.',
        needs=EMBEDDING,
    )
