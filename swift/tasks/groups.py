"""What is computed of anchors with their passages, over the whole step where a loss compares them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from swift.objectives.types import Embeddings, Loss, Objective
from swift.tasks.base import Gather
from swift.tasks.examples import Forward
from swift.tasks.measures import pearson, spearman


class GroupComputation:
    """A loss over embeddings; its unit is the pair of an anchor and a passage.

    Where the loss compares all texts of a step, each micro-batch sees the embeddings of all the others, computed
    beforehand: so the loss and its gradients do not hang on how the step was split (as in Gao et al., 2021,
    arXiv 2101.06983, section 3). With dropout the draws are the same in both passes.

    Args:
        forward: what the model gives for each text.
        objective: takes `Embeddings`.
        only_positives: the unit is the pair of an anchor and a positive.
        together: the loss compares all texts of a step.
        evaluated_together: anchors that are compared in evaluation.
    """

    def __init__(
        self, forward: Forward, objective: Objective, *, only_positives: bool, together: bool, evaluated_together: int
    ) -> None:
        self.forward, self.objective, self.only_positives = forward, objective, only_positives
        self.together, self.evaluated_together = together, evaluated_together
        self.step: list[Embeddings] = []
        self.own: list[int] = []

    def units(self, batch: dict[str, Any]) -> torch.Tensor:
        """int64[], the pairs."""
        scores = batch["targets"][:, 1]
        return (scores >= (0.5 if self.only_positives else 0)).sum()

    def prepared(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The micro-batch as it is."""
        return batch

    def outputs(self, model: Any, batch: dict[str, Any]) -> Embeddings:
        """The embeddings of a micro-batch."""
        inputs = {name: value for name, value in batch.items() if name != "targets"}
        states, targets = self.forward(model, inputs).float(), batch["targets"]
        if not len(targets):
            # A process without texts in this micro-batch still takes part in the backward pass of the others.
            states = states[:0] + 0.0 * states.sum()
        group, scores = targets[:, 0].long(), targets[:, 1]
        passage = scores >= 0
        return Embeddings(states[~passage], states[passage], group[passage], scores[passage])

    def begin(self, outputs: Callable[[dict[str, Any]], Embeddings], batches: Sequence[Any], gather: Gather) -> None:
        """Before a step: embed all its texts, over all processes, without gradients.

        Args:
            outputs: gives `outputs` of a micro-batch in the state that training has.
            batches: this process's micro-batches of the step.
            gather: gives what every process has.
        """
        self.step, self.own = [], []
        if not self.together:
            return
        sizes = gather(len(batches))
        if sum(sizes) == 1:
            return
        everyone = gather([_to_cpu(outputs(batch)) for batch in batches])
        first = sum(sizes[: _rank()])
        self.step = [each for part in everyone for each in part]
        self.own = list(range(first, first + len(batches)))

    def loss(self, outputs: Embeddings) -> Loss:
        """This micro-batch's share of the loss of the step."""
        if not self.step:
            return self.objective(outputs)
        place, count = self.own.pop(0), len(self.step)
        parts = [outputs if at == place else each for at, each in enumerate(self.step)]
        whole = self.objective(joined(parts, outputs.anchors.device)).total
        # The value is shared out, so that the step's sum is the loss; the gradient is that of the whole loss by the
        # embeddings of this micro-batch.
        return Loss(whole - whole.detach() * (1 - 1 / count))

    def evaluation(self) -> GroupEvaluation:
        """Begin a pass over the rows for evaluation."""
        return GroupEvaluation(self)


def joined(parts: Sequence[Embeddings], device: Any) -> Embeddings:
    """Several micro-batches as one."""
    shifts = np.cumsum([0, *(len(part.anchors) for part in parts[:-1])]).tolist()
    return Embeddings(
        torch.cat([part.anchors.to(device) for part in parts]),
        torch.cat([part.passages.to(device) for part in parts]),
        torch.cat([part.group.to(device) + shift for part, shift in zip(parts, shifts, strict=True)]),
        torch.cat([part.scores.to(device) for part in parts]),
    )


def _to_cpu(outputs: Embeddings) -> Embeddings:
    return Embeddings(*(each.detach().cpu() for each in vars(outputs).values()))


def _rank() -> int:
    import torch.distributed as dist

    return dist.get_rank() if dist.is_initialized() else 0


class GroupEvaluation:
    """Loss per pair, and figures over the whole set."""

    def __init__(self, computation: GroupComputation) -> None:
        self.computation = computation
        self.parts: list[Embeddings] = []

    def add(self, model: Any, batch: dict[str, Any]) -> None:
        """Take in a micro-batch."""
        self.parts.append(_to_cpu(self.computation.outputs(model, batch)))

    def result(self, gather: Gather) -> dict[str, float]:
        """The figures over all processes; the loss compares as many anchors as a step of training has."""
        whole = joined([each for part in gather(self.parts) for each in part], "cpu")
        how, total, pairs = self.computation, 0.0, 0
        for start in range(0, len(whole.anchors), how.evaluated_together):
            part = _slice(whole, start, start + how.evaluated_together)
            total += float(how.objective(part).total)
            pairs += int((part.scores >= (0.5 if how.only_positives else 0)).sum())
        return {"loss": total / max(pairs, 1), **figures(whole)}


def _slice(whole: Embeddings, start: int, stop: int) -> Embeddings:
    inside = (whole.group >= start) & (whole.group < stop)
    return Embeddings(
        whole.anchors[start:stop], whole.passages[inside], whole.group[inside] - start, whole.scores[inside]
    )


def figures(whole: Embeddings) -> dict[str, float]:
    """How well embeddings tell passages apart.

    Returns:
        margin: mean cosine of positives with their anchors less that of negatives, or of other anchors' passages.
        mrr, recall_at_1: mean reciprocal place of an anchor's best positive among all passages of the set, and how
            often that is the first (Voorhees, 1999, TREC-8).
        pearson, spearman: correlation of cosine and score, where scores are not all the same.
    """
    anchors = torch.nn.functional.normalize(whole.anchors, dim=-1).numpy()
    passages = torch.nn.functional.normalize(whole.passages, dim=-1).numpy()
    group, scores = whole.group.numpy(), whole.scores.numpy()
    alike = anchors @ passages.T
    pairs = alike[group, np.arange(len(group))]
    positive = scores >= 0.5
    own = np.arange(len(anchors))[:, None] == group
    away = alike[~own] if positive.all() else pairs[~positive]
    found = {"margin": float(pairs[positive].mean() - away.mean()) if positive.any() and len(away) else 0.0}
    best = np.where(own & positive, alike, -np.inf).max(1)
    asked = np.isfinite(best)
    if asked.any():
        places = 1 + ((alike > best[:, None]) & ~(own & positive)).sum(1)[asked]
        found |= {"mrr": float((1 / places).mean()), "recall_at_1": float((places == 1).mean())}
    if len(np.unique(scores)) > 1:
        found |= {"pearson": pearson(pairs, scores), "spearman": spearman(pairs, scores)}
    return found
