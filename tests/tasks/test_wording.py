"""ROUGE by exact values, and by rouge-score where it is installed."""

from __future__ import annotations

import random

import pytest

from swift.tasks.wording import answer_figures, rouge_l, rouge_n, words


def test_words() -> None:
    assert words("The cat's 2 hats_off, Ça va?") == ["the", "cat", "s", "2", "hats", "off", "ça", "va"]
    assert words("你好world，再见2") == ["你", "好", "world", "再", "见", "2"]


def test_exact_values() -> None:
    given, wanted = ["the", "cat", "sat"], ["the", "cat", "lay", "on", "the", "mat"]
    assert rouge_n(given, wanted, 1) == pytest.approx(4 / 9)
    assert rouge_n(given, wanted, 2) == pytest.approx(2 / 7)
    assert rouge_l(["a", "b", "c", "d"], ["a", "x", "c", "d"]) == 0.75
    assert rouge_l([], wanted) == 0
    assert answer_figures("acc", [("yes ", "yes"), ("no", "No")]) == {"acc": 0.5}
    assert answer_figures("rouge", []) == {}


def test_as_rouge_score_has_it() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    draw = random.Random(0)
    for _ in range(20):
        given, wanted = (" ".join(draw.choices("abcde", k=draw.randint(1, 12))) for _ in range(2))
        theirs = scorer.score(wanted, given)
        ours = answer_figures("rouge", [(given, wanted)])
        assert list(ours.values()) == pytest.approx([each.fmeasure for each in theirs.values()])
