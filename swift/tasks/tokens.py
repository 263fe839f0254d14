"""What is computed where tokens are trained: the loss of a micro-batch, and figures of an evaluation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from swift.errors import SwiftError
from swift.objectives.types import Loss, Objective, TokenLogps
from swift.rows import IGNORE
from swift.tasks import Metric
from swift.tasks.base import Gather
from swift.tasks.head import separable_head
from swift.tasks.token_logps import takes_logits_to_keep, token_logps, trained_places

MANY = 1024
"""Trained tokens of a micro-batch from which on it costs no time to compute their logits some at a time."""


class TokenComputation:
    """The loss over trained tokens; its unit is the trained token.

    Args:
        model: a causal language model, tuned.
        objective: takes `TokenLogps`.
        metric: counts something of predictions in evaluation.
        by_sample: count in evaluation the samples whose trained tokens are all right.
        head: the model's `separable_head`, where logits are to be computed some tokens at a time.
        smoothing: of labels, in training.
        balance: what the uneven use of experts weighs beside the loss of a token.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        metric: Metric | None = None,
        *,
        by_sample: bool = False,
        head: Any = None,
        smoothing: float = 0.0,
        balance: float = 0.0,
    ) -> None:
        self.objective, self.metric, self.head, self.smoothing = objective, metric, head, smoothing
        self.by_sample, self.balance = by_sample, balance
        self.select = takes_logits_to_keep(model)

    def units(self, batch: dict[str, Any]) -> torch.Tensor:
        """int64[], the trained tokens: the shift leaves the first of each row out."""
        return (batch["labels"][:, 1:] != IGNORE).sum()

    def prepared(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The micro-batch with the places that are trained."""
        return batch | {"places": trained_places(batch)}

    def begin(self, outputs: Any, batches: Sequence[Any], gather: Gather) -> None:
        """Nothing: micro-batches do not hang on each other."""

    def outputs(self, model: Any, batch: dict[str, Any]) -> TokenLogps:
        """The log-probabilities of a micro-batch."""
        how = {"select": self.select, "label_smoothing": self.smoothing, "head": self.head}
        return token_logps(model, batch, **how, balance=bool(self.balance))[0]

    def loss(self, outputs: TokenLogps) -> Loss:
        """The objective's sum over the tokens; a micro-batch's use of experts counts once for each of its tokens."""
        found = self.objective(outputs)
        if outputs.balance is not None:
            found.total = found.total + self.balance * outputs.balance * len(outputs.logps)
        return found

    def evaluation(self) -> TokenEvaluation:
        """Begin a pass over the rows for evaluation."""
        return TokenEvaluation(self)


class TokenEvaluation:
    """Loss per trained token, the metric's sums divided by the same number, and the share of right samples."""

    def __init__(self, computation: TokenComputation) -> None:
        self.computation = computation
        self.sums: dict[str, float] = {"loss": 0.0, "tokens": 0.0}

    def add(self, model: Any, batch: dict[str, Any]) -> None:
        """Take in a micro-batch."""
        how = self.computation
        head = None if how.metric or how.by_sample else how.head
        outputs, logits, labels = token_logps(model, batch, select=how.select, head=head)
        found: dict[str, float] = {"loss": float(how.objective(outputs).total), "tokens": len(labels)}
        if how.metric and logits is not None:
            found |= how.metric(logits.argmax(-1), labels)
        if how.by_sample and logits is not None:
            samples = places_of_samples(batch)
            wrong = samples[logits.argmax(-1) != labels].unique()
            found["samples"] = len(samples.unique())
            found["seq_acc"] = found["samples"] - len(wrong)
        for name, value in found.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def result(self, gather: Gather) -> dict[str, float]:
        """The figures over all processes."""
        totals: dict[str, float] = defaultdict(float)
        for sums in gather(self.sums):
            for name, value in sums.items():
                totals[name] += value
        tokens, samples = max(totals.pop("tokens"), 1.0), max(totals.pop("samples", 0.0), 1.0)
        return {name: value / (samples if name == "seq_acc" else tokens) for name, value in totals.items()}


def places_of_samples(batch: dict[str, Any]) -> torch.Tensor:
    """int64[k], the number of the sample in its micro-batch that each trained token belongs to.

    Args:
        batch: padded rows int64[b, n], or samples end to end in one row, whose positions begin anew.
    """
    labels = batch["labels"]
    if batch.get("attention_mask") is None and "position_ids" in batch:
        samples = (batch["position_ids"] == 0).cumsum(1)
    else:
        samples = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)
    return samples[:, 1:][labels[:, 1:] != IGNORE]


def chosen_head(config: Any, model: Any, trained: int) -> Any:
    """The model's output embedding where its logits are computed some tokens at a time, else None.

    Args:
        config: the run's options.
        model: the tuned model.
        trained: trained tokens of the largest micro-batch.

    Raises:
        SwiftError: it is asked for, and the model's logits are not those of its output embedding alone.
    """
    sharded = config.train.more.get("torch_compile") or any(
        config.train.more.get(name) for name in ("fsdp", "deepspeed")
    )
    if config.train.chunked_cross_entropy is False or sharded:
        return None
    head = separable_head(model)
    # BAdam never trains it, whatever requires gradients before the first step.
    owned = head is not None and any(p.requires_grad for p in head.parameters()) and config.train.optimizer != "badam"
    if config.train.chunked_cross_entropy is None and (owned or trained < MANY):
        return None
    if head is None and config.train.chunked_cross_entropy:
        raise SwiftError(
            f"--chunked_cross_entropy true: the logits of {type(model).__name__} are not those of its output embedding "
            "alone",
            fix="leave it out",
        )
    return head
