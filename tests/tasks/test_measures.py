"""Figures by exact values, and by scikit-learn and SciPy where they are installed."""

from __future__ import annotations

import numpy as np
import pytest

from swift.tasks.measures import multi_label_figures, ranks, regression_figures, single_label_figures, spearman


def test_one_class() -> None:
    logits = np.array([[2.0, 1, 0], [0, 1, 0], [0, 3, 1], [5, 0, 0]])
    # Given 0, 1, 1, 0. F1 of class 0: 2/3; of class 1: 2/4; class 2 was never given: 0.
    found = single_label_figures(logits, np.array([0, 1, 2, 1]))
    assert found == {"acc": 0.5, "f1": pytest.approx((2 / 3 + 0.5 + 0) / 3)}


def test_ranks_share_ties() -> None:
    assert ranks(np.array([3.0, 1, 3, 2])).tolist() == [2.5, 0, 2.5, 1]
    assert spearman(np.array([1.0, 2, 3]), np.array([1.0, 10, 100])) == pytest.approx(1)
    assert spearman(np.array([1.0, 1, 1]), np.array([1.0, 10, 100])) == 0


@pytest.mark.parametrize("seed", range(3))
def test_as_the_libraries_have_it(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(seed)
    logits, targets = random.normal(size=(40, 4)), random.integers(0, 4, 40)
    found = single_label_figures(logits, targets)
    assert found["f1"] == pytest.approx(metrics.f1_score(targets, logits.argmax(1), average="macro"))
    several = (random.random((40, 4)) < 0.3).astype(float)
    found = multi_label_figures(logits, several)
    given = logits > 0
    assert found["acc"] == pytest.approx(metrics.accuracy_score(several, given))
    assert found["f1"] == pytest.approx(metrics.f1_score(several, given, average="micro"))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(several, given, average="macro"))
    scores = random.integers(0, 5, (40, 2)) / 2
    found = regression_figures(logits[:, :2], scores)
    assert found["mse"] == pytest.approx(metrics.mean_squared_error(scores, logits[:, :2]))
    wanted = [stats.spearmanr(logits[:, at], scores[:, at]).statistic for at in range(2)]
    assert found["spearman"] == pytest.approx(np.mean(wanted))
    wanted = [stats.pearsonr(logits[:, at], scores[:, at]).statistic for at in range(2)]
    assert found["pearson"] == pytest.approx(np.mean(wanted))
