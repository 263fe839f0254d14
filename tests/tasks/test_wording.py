"""ROUGE by exact values, and by rouge-score where it is installed."""

from __future__ import annotations

import random

import pytest

from swift.tasks.wording import answer_figures, bleu, rouge_l, rouge_n, words


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
    assert answer_figures("rouge", []) == answer_figures("acc", [("yes", " ")]) == {}
    assert list(answer_figures("rouge", [("A b.", "a b")]).values())[:3] == [100, 100, 100]


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on a mat", 0.537284965911771),
        ("paris", "paris", 0.3535533905932738),
        ("the cat", "the cat sat down here", 0.13267398701010466),
        ("a b c d e f", "a b x d e y", 0.2295748846661433),
        ("no match", "other words", 0),
    ],
)
def test_bleu_is_that_of_nltk_with_smoothing_3(given: str, wanted: str, expected: float) -> None:
    assert bleu(given.split(), wanted.split()) == pytest.approx(expected)


def test_as_rouge_score_has_it() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    draw = random.Random(0)
    for _ in range(20):
        given, wanted = (" ".join(draw.choices("abcde", k=draw.randint(1, 12))) for _ in range(2))
        theirs = scorer.score(wanted, given)
        ours = answer_figures("rouge", [(given, wanted)])
        assert list(ours.values())[:3] == pytest.approx([100 * each.fmeasure for each in theirs.values()])
