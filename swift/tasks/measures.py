"""How good predictions are, over a whole set: plain figures of arrays."""

from __future__ import annotations

import numpy as np


def single_label_figures(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Share of right classes, and F1 averaged over the classes that occur (macro).

    Args:
        logits: float[k, classes].
        targets: int[k].
    """
    chosen = logits.argmax(1)
    classes = np.union1d(chosen, targets)
    wanted, given = targets[:, None] == classes, chosen[:, None] == classes
    return {"acc": float((chosen == targets).mean()), "f1": float(f1(given, wanted).mean())}


def multi_label_figures(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Share of texts with exactly the right classes; F1 over all decisions (micro) and averaged over classes (macro).

    Args:
        logits: float[k, classes]; a class is given where it is above 0, a probability above a half.
        targets: float[k, classes] of 0 and 1.
    """
    given, wanted = logits > 0, targets > 0.5
    return {
        "acc": float((given == wanted).all(1).mean()),
        "f1": float(f1(given.reshape(-1, 1), wanted.reshape(-1, 1)).mean()),
        "f1_macro": float(f1(given, wanted).mean()),
    }


def regression_figures(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Mean squared and absolute error, and the correlations of Pearson and Spearman averaged over scores.

    Args:
        scores: float[k, n].
        targets: float[k, n].
    """
    columns = list(zip(scores.T, targets.T, strict=True))
    return {
        "mse": float(np.square(scores - targets).mean()),
        "mae": float(np.abs(scores - targets).mean()),
        "pearson": float(np.mean([pearson(one, other) for one, other in columns])),
        "spearman": float(np.mean([spearman(one, other) for one, other in columns])),
    }


def f1(given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """float[n], 2 TP / (2 TP + FP + FN) of each column of bool[k, n]; 0 where nothing is given or wanted."""
    hits = (given & wanted).sum(0)
    sizes = given.sum(0) + wanted.sum(0)
    return np.where(sizes, 2 * hits / np.maximum(sizes, 1), 0.0)


def pearson(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of two columns; 0 where one of them is constant."""
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt(np.square(one).sum() * np.square(other).sum()))
    return float((one * other).sum()) / scale if scale else 0.0


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of the ranks of two columns; equal values share the mean of their ranks."""
    return pearson(ranks(one), ranks(other))


def ranks(values: np.ndarray) -> np.ndarray:
    """float[k], the rank of each value from 0 on."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[place]


def ranking_figures(scores: np.ndarray, targets: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """How well the passages of each question are put in order; equal scores count as the worst order.

    Args:
        scores: float[p].
        targets: float[p], how good each passage is; 0.5 and more is right.
        group: int[p], the question of each.

    Returns:
        mrr: mean reciprocal place of the first right passage (Voorhees, 1999, TREC-8).
        ndcg: normalised discounted cumulative gain with the targets as gains (Järvelin and Kekäläinen, 2002, section
            2.2), over whole lists.
    """
    reciprocal, gains = [], []
    for question in np.unique(group):
        inside = group == question
        good = targets[inside]
        if not (good >= 0.5).any():
            continue
        order = np.lexsort((good, -scores[inside]))
        discounts = 1 / np.log2(np.arange(len(good)) + 2)
        reciprocal.append(1 / (1 + int(np.argmax(good[order] >= 0.5))))
        gains.append(float((good[order] * discounts).sum() / (np.sort(good)[::-1] * discounts).sum()))
    return {"mrr": float(np.mean(reciprocal)), "ndcg": float(np.mean(gains))} if gains else {}
