"""How near written answers come to those of the rows."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

SIGN = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
WORD = re.compile(rf"{SIGN}|[^\W_]+?(?={SIGN}|\b|_)")
"""A word; of scripts that write no spaces, a character."""

OVERLAP = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")
METRICS = {"acc": ("acc",), "rouge": OVERLAP}
"""`--metric` -> its figures."""


def answer_figures(metric: str, answers: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The figures of a metric, averaged over answers; an empty answer of a row is none to come near to.

    Args:
        metric: `acc` (the answer is the row's own, spaces around it aside; from 0 to 1) or `rouge` (common words, and
            BLEU; in percent).
        answers: what was answered, and the row's own answer.
    """
    answers = [(given, wanted) for given, wanted in answers if wanted.strip()]
    if not answers:
        return {}
    if metric == "acc":
        return {"acc": sum(given.strip() == wanted.strip() for given, wanted in answers) / len(answers)}
    pairs = [(words(given), words(wanted)) for given, wanted in answers]
    scores = [(rouge_n(*pair, 1), rouge_n(*pair, 2), rouge_l(*pair), bleu(*pair)) for pair in pairs]
    means = (100 * sum(column) / len(scores) for column in zip(*scores, strict=True))
    return dict(zip(OVERLAP, means, strict=True))


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return WORD.findall(text.lower())


def rouge_n(given: Sequence[str], wanted: Sequence[str], n: int) -> float:
    """F1 of common n-grams: ROUGE-N (Lin, 2004, section 2) with precision beside its recall."""
    one, other = _grams(given, n), _grams(wanted, n)
    return _f1((one & other).total(), one.total(), other.total())


def rouge_l(given: Sequence[str], wanted: Sequence[str]) -> float:
    """F1 of the longest common subsequence: ROUGE-L (Lin, 2004, eq. 2 to 4 with beta 1)."""
    row = [0] * (len(wanted) + 1)
    for word in given:
        diagonal = 0
        for at, other in enumerate(wanted, 1):
            diagonal, row[at] = row[at], diagonal + 1 if word == other else max(row[at], row[at - 1])
    return _f1(row[-1], len(given), len(wanted))


def bleu(given: Sequence[str], wanted: Sequence[str], longest: int = 4) -> float:
    """BLEU of one answer: the geometric mean of the precisions of its n-grams, times the penalty for brevity.

    Papineni et al., 2002, section 2.3; the k-th order without a match counts as 1 / 2^k of an n-gram (Chen and Cherry,
    2014, smoothing 3).
    """
    precisions: list[float] = []
    missed = 0
    for n in range(1, longest + 1):
        own = _grams(given, n)
        common: float = (own & _grams(wanted, n)).total()
        if not common:
            if n == 1:
                return 0.0
            missed += 1
            common = 0.5**missed
        precisions.append(common / max(1, own.total()))
    penalty = min(1.0, math.exp(1 - len(wanted) / len(given)))
    return penalty * math.prod(precisions) ** (1 / longest)


def _grams(text: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[at : at + n]) for at in range(len(text) - n + 1))


def _f1(common: int, given: int, wanted: int) -> float:
    return 2 * common / (given + wanted) if common else 0.0
