"""What is computed of questions with their passages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from swift.objectives.types import Loss, Objective, Ranked
from swift.tasks.base import Gather
from swift.tasks.examples import Figures, Forward


class RankComputation:
    """A loss over the scores of passages; its unit is the passage, or the positive.

    Args:
        forward: the score of each passage, float[p, 1].
        objective: takes `Ranked`.
        figures: of an evaluation.
        only_positives: the unit is the positive.
    """

    def __init__(self, forward: Forward, objective: Objective, figures: Figures, *, only_positives: bool) -> None:
        self.forward, self.objective, self.figures = forward, objective, figures
        self.only_positives = only_positives

    def units(self, batch: dict[str, Any]) -> torch.Tensor:
        """int64[], the passages, or the positives."""
        scores = batch["targets"][:, 0]
        return (scores >= (0.5 if self.only_positives else -torch.inf)).sum()

    def prepared(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The micro-batch as it is."""
        return batch

    def begin(self, outputs: Any, batches: Sequence[Any], gather: Gather) -> None:
        """Nothing: a question and its passages are in one micro-batch."""

    def outputs(self, model: Any, batch: dict[str, Any]) -> Ranked:
        """The scores of a micro-batch."""
        inputs = {name: value for name, value in batch.items() if name != "targets"}
        logits, targets = self.forward(model, inputs).float()[:, 0], batch["targets"]
        if not len(targets):
            # A process without passages in this micro-batch still takes part in the backward pass of the others.
            logits = logits[:0] + 0.0 * logits.sum()
        return Ranked(logits, targets[:, 0], targets[:, 1].long())

    def loss(self, outputs: Ranked) -> Loss:
        """The objective's sum over the passages."""
        return self.objective(outputs) if len(outputs.targets) else Loss(outputs.logits.sum())

    def evaluation(self) -> RankEvaluation:
        """Begin a pass over the rows for evaluation."""
        return RankEvaluation(self)


class RankEvaluation:
    """Loss per unit, and figures over all questions."""

    def __init__(self, computation: RankComputation) -> None:
        self.computation = computation
        self.loss, self.units, self.questions = 0.0, 0, 0
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, model: Any, batch: dict[str, Any]) -> None:
        """Take in a micro-batch."""
        if not len(batch["targets"]):
            return
        outputs = self.computation.outputs(model, batch)
        self.loss += float(self.computation.loss(outputs).total)
        self.units += int(self.computation.units(batch))
        targets = batch["targets"].cpu().numpy()
        targets[:, 1] += self.questions
        self.questions = int(targets[-1, 1]) + 1
        self.parts.append((outputs.logits.cpu().numpy()[:, None], targets))

    def result(self, gather: Gather) -> dict[str, float]:
        """The figures over all processes."""
        every, first, outputs, targets = gather((self.loss, self.units, self.questions, self.parts)), 0, [], []
        for _, _, questions, parts in every:
            for scores, aims in parts:
                outputs.append(scores)
                targets.append(aims + np.array([0, first]))
            first += questions
        loss = sum(each[0] for each in every) / max(sum(each[1] for each in every), 1)
        return {"loss": loss, **self.computation.figures(np.concatenate(outputs), np.concatenate(targets))}
