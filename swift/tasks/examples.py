"""What is computed of whole texts: the loss of a micro-batch, and figures over an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from swift.objectives.types import Loss, Objective, Scores
from swift.tasks.base import Gather

Forward = Callable[[Any, dict[str, Any]], torch.Tensor]
"""A model and its inputs -> float[texts, n]."""

Figures = Callable[[np.ndarray, np.ndarray], dict[str, float]]
"""What the model gave, float32[texts, n], and the targets, over a whole set -> figures by name."""


class TextComputation:
    """The loss over texts; its unit is the text.

    Args:
        forward: what the model gives for each text.
        objective: takes `Scores`.
        figures: of an evaluation.
    """

    def __init__(self, forward: Forward, objective: Objective, figures: Figures) -> None:
        self.forward, self.objective, self.figures = forward, objective, figures

    def units(self, batch: dict[str, Any]) -> torch.Tensor:
        """int64[], the texts with a target."""
        return torch.tensor(len(batch["targets"]))

    def prepared(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The micro-batch as it is."""
        return batch

    def begin(self, outputs: Any, batches: Sequence[Any], gather: Gather) -> None:
        """Nothing: micro-batches do not hang on each other."""

    def outputs(self, model: Any, batch: dict[str, Any]) -> Scores:
        """What the model gives for a micro-batch, with the targets."""
        inputs = {name: value for name, value in batch.items() if name != "targets"}
        logits = self.forward(model, inputs).float()
        targets = batch["targets"]
        # A process without texts in this micro-batch still takes part in the backward pass of the others.
        return Scores(logits[: len(targets)] if len(targets) else logits[:0] + 0.0 * logits.sum(), targets)

    def loss(self, outputs: Scores) -> Loss:
        """The objective's sum over the texts."""
        loss = self.objective(outputs)
        return loss if len(outputs.targets) else Loss(outputs.logits.sum(), loss.metrics)

    def evaluation(self) -> TextEvaluation:
        """Begin a pass over the rows for evaluation."""
        return TextEvaluation(self)


class TextEvaluation:
    """Loss per text, and figures over the whole set, whatever the batches and processes."""

    def __init__(self, computation: TextComputation) -> None:
        self.computation = computation
        self.loss = 0.0
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, model: Any, batch: dict[str, Any]) -> None:
        """Take in a micro-batch."""
        outputs = self.computation.outputs(model, batch)
        if len(outputs.targets):
            self.loss += float(self.computation.loss(outputs).total)
            self.parts.append((outputs.logits.cpu().numpy(), outputs.targets.cpu().numpy()))

    def result(self, gather: Gather) -> dict[str, float]:
        """The figures over all processes."""
        every = gather((self.loss, self.parts))
        parts = [part for _, own in every for part in own]
        outputs, targets = (np.concatenate(column) for column in zip(*parts, strict=True))
        return {"loss": sum(loss for loss, _ in every) / len(targets), **self.computation.figures(outputs, targets)}
