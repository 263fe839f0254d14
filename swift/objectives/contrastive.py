"""Losses over embeddings of anchors and of passages; all compare by the cosine."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from swift.objectives import objective
from swift.objectives.types import Embeddings, Loss


@objective("infonce")
def infonce(
    outputs: Embeddings,
    temperature: float = 0.1,
    use_batch: bool = True,
    mask_fake_negative: bool = False,
    fake_negative_margin: float = 0.1,
    include_qq: bool = False,
    include_dd: bool = False,
) -> Loss:
    """Sum over the positives of -log(e^{s(a, p)/t} / Z); its unit is the pair of an anchor and a positive.

    Z sums e^{s/t} over the positive and the negatives: van den Oord et al., 2018 (arXiv 1807.03748), eq. 4, with the
    further terms of Zhang et al., 2025 (Qwen3 Embedding, arXiv 2506.05176), eq. 1.

    Args:
        outputs: the embeddings; a passage is a positive where its score is 0.5 or more.
        temperature: t.
        use_batch: the passages of other anchors are negatives too, not only the anchor's own.
        mask_fake_negative: leave out negatives that are more alike than the positive by `fake_negative_margin`.
        fake_negative_margin: in terms of the cosine.
        include_qq: other anchors are negatives of an anchor.
        include_dd: other passages are negatives of a positive, by their likeness to it.
    """
    anchors, passages = F.normalize(outputs.anchors, dim=-1), F.normalize(outputs.passages, dim=-1)
    places = (outputs.scores >= 0.5).nonzero().squeeze(1)
    owner = outputs.group[places]
    alike = anchors[owner] @ passages.T
    positive = alike.gather(1, places[:, None])
    # Of an anchor's several positives each stands alone against the negatives.
    own = owner[:, None] == outputs.group
    negative = ~(own & (outputs.scores >= 0.5)) & (own | use_batch)
    parts, kept = [alike], [negative]
    if include_qq:
        parts.append(anchors[owner] @ anchors.T)
        kept.append(owner[:, None] != torch.arange(len(anchors), device=owner.device))
    if include_dd:
        parts.append(passages[places] @ passages.T)
        kept.append(~own)
    others, wanted = torch.cat(parts, 1), torch.cat(kept, 1)
    if mask_fake_negative:
        wanted = wanted & (others <= positive.detach() + fake_negative_margin)
    logits = torch.cat([positive, others.masked_fill(~wanted, -torch.inf)], 1) / temperature
    return Loss((logits.logsumexp(1) - logits[:, 0]).sum())


@objective("cosine_similarity")
def cosine_similarity(outputs: Embeddings) -> Loss:
    """Sum over the passages of (cos(anchor, passage) - score)^2; its unit is the pair."""
    return Loss((_cosines(outputs) - outputs.scores).square().sum())


@objective("contrastive")
def contrastive(outputs: Embeddings, margin: float = 0.5) -> Loss:
    """Sum over the pairs of (y d^2 + (1 - y) max(0, margin - d)^2) / 2 with d = 1 - cos; its unit is the pair.

    Hadsell et al., 2006 (Dimensionality reduction by learning an invariant mapping), eq. 4.
    """
    distance, y = 1 - _cosines(outputs), outputs.scores
    return Loss((y * distance.square() + (1 - y) * F.relu(margin - distance).square()).sum() / 2)


@objective("online_contrastive")
def online_contrastive(outputs: Embeddings, margin: float = 0.5) -> Loss:
    """The same without the half, over the hard pairs of the step alone; its unit is the pair.

    Hard are negatives that lie nearer than the farthest positive, and positives that lie farther than the nearest
    negative, as in sentence-transformers' loss of that name; with pairs of one kind alone, those beyond their mean.
    """
    distance, like = 1 - _cosines(outputs), outputs.scores >= 0.5
    near, far = distance[like], distance[~like]
    zero = distance.sum() * 0.0
    hard = far[far < (near.max() if len(near) else far.mean())] if len(far) else far
    lost = near[near > (far.min() if len(far) else near.mean())] if len(near) else near
    return Loss(zero + lost.square().sum() + F.relu(margin - hard).square().sum())


def _cosines(outputs: Embeddings) -> torch.Tensor:
    """float32[p], each passage with its anchor."""
    return F.cosine_similarity(outputs.anchors[outputs.group], outputs.passages, dim=-1)
