"""Losses over embeddings: those of sentence-transformers where it is installed, and exact values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from swift.objectives.contrastive import contrastive, cosine_similarity, infonce, online_contrastive
from swift.objectives.types import Embeddings


def groups(negatives: int = 1, seed: int = 0, anchors: int = 5, size: int = 8) -> Embeddings:
    """Anchors, each with a positive and some negatives."""
    generator = torch.Generator().manual_seed(seed)
    each = 1 + negatives
    return Embeddings(
        torch.randn(anchors, size, generator=generator),
        torch.randn(anchors * each, size, generator=generator),
        torch.arange(anchors).repeat_interleave(each),
        torch.tensor([1.0, *[0.0] * negatives]).repeat(anchors),
    )


@pytest.fixture
def theirs() -> Any:
    return pytest.importorskip("sentence_transformers.sentence_transformer.losses", reason="not installed")


@pytest.mark.parametrize("negatives", [0, 1, 2])
def test_infonce_is_theirs(theirs: Any, negatives: int) -> None:
    found = groups(negatives)
    reference = theirs.MultipleNegativesRankingLoss(None, scale=10.0)
    columns = [found.passages[at :: 1 + negatives] for at in range(1 + negatives)]
    expected = reference.compute_loss_from_embeddings([found.anchors, *columns], None)
    torch.testing.assert_close(infonce(found, temperature=0.1).total / 5, expected)


@pytest.mark.parametrize(
    ("loss", "name", "unit"),
    [
        (contrastive, "ContrastiveLoss", 10),
        (cosine_similarity, "CosineSimilarityLoss", 10),
        (online_contrastive, "OnlineContrastiveLoss", 1),
    ],
)
def test_losses_of_pairs_are_theirs(theirs: Any, loss: Any, name: str, unit: int) -> None:
    found = groups(1)
    reference = getattr(theirs, name)(None)
    expected = reference.compute_loss_from_embeddings([found.anchors[found.group], found.passages], found.scores)
    torch.testing.assert_close(loss(found).total / unit, expected)


def test_matryoshka_is_theirs(theirs: Any) -> None:
    from swift.tasks.embedding import nested

    found = groups(1)
    reference = theirs.MultipleNegativesRankingLoss(None, scale=10.0)
    expected = sum(
        weight
        * reference.compute_loss_from_embeddings(
            [found.anchors[:, :size], found.passages[::2, :size], found.passages[1::2, :size]], None
        )
        for size, weight in ((8, 1.0), (2, 0.5))
    )
    torch.testing.assert_close(nested(infonce, {8: 1.0, 2: 0.5})(found).total / 5, expected)


def by_hand(found: Embeddings, wanted: Any, temperature: float = 0.1) -> float:
    """-log(e^{s/t} / Z), with the negatives that `wanted` names as cosines."""
    total = 0.0
    alike = F.normalize(found.anchors, dim=1) @ F.normalize(found.passages, dim=1).T
    for place in (found.scores >= 0.5).nonzero().flatten().tolist():
        owner = int(found.group[place])
        positive = float(alike[owner, place])
        others = wanted(owner, place)
        total += math.log(sum(math.exp((each - positive) / temperature) for each in [positive, *others]))
    return total


def test_infonce_with_an_anchors_own_negatives_alone() -> None:
    found = groups(2)
    alike = F.normalize(found.anchors, dim=1) @ F.normalize(found.passages, dim=1).T
    expected = by_hand(found, lambda owner, place: alike[owner, place + 1 : place + 3].tolist())
    assert float(infonce(found, use_batch=False).total) == pytest.approx(expected, rel=1e-5)


def test_infonce_with_anchors_and_passages_against_each_other_and_masks() -> None:
    found = groups(1)
    a, p = F.normalize(found.anchors, dim=1), F.normalize(found.passages, dim=1)

    def wanted(owner: int, place: int) -> list[float]:
        others = [at for at in range(10) if at != place]
        cosines = [*(a[owner] @ p[others].T).tolist(), *(a[owner] @ a.T).tolist(), *(p[place] @ p.T).tolist()]
        del cosines[9 + owner]
        first = 9 + 4 + 2 * owner
        del cosines[first : first + 2]
        limit = float(a[owner] @ p[place]) + 0.1
        return [each for each in cosines if each <= limit]

    given = infonce(found, mask_fake_negative=True, include_qq=True, include_dd=True)
    assert float(given.total) == pytest.approx(by_hand(found, wanted), rel=1e-5)


def test_no_pair_of_one_kind_is_no_error() -> None:
    one = groups(0)
    assert float(infonce(Embeddings(*(each[:0] for each in vars(one).values()))).total) == 0
    assert float(online_contrastive(one).total) > 0
