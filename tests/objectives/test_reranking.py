"""Losses over scores of passages, by exact values."""

from __future__ import annotations

import math

import pytest
import torch

from swift.objectives.reranking import listwise, pointwise
from swift.objectives.types import Ranked
from swift.tasks.measures import ranking_figures

FOUND = Ranked(
    torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5]), torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 0, 1, 1])
)


def test_each_passage_by_itself() -> None:
    wanted = sum(math.log(1 + math.exp(x)) for x in (-1.0, 0.0, -1.0, 2.0, -0.5))
    assert float(pointwise(FOUND).total) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_positive_against_its_questions_negatives(temperature: float) -> None:
    def share(best: float, *others: float) -> float:
        return math.log(sum(math.exp((x - best) / temperature) for x in (best, *others)))

    wanted = share(1.0, 0.0, -1.0) + share(0.5, 2.0)
    assert float(listwise(FOUND, temperature=temperature).total) == pytest.approx(wanted, rel=1e-6)


def test_figures_of_an_order() -> None:
    found = ranking_figures(FOUND.logits.numpy(), FOUND.targets.numpy(), FOUND.group.numpy())
    assert found == {"mrr": pytest.approx((1 + 1 / 2) / 2), "ndcg": pytest.approx((1 + 1 / math.log2(3)) / 2)}
