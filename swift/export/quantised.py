"""How far a merged model lies from its adapter on the quantised base that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swift.config.model import ModelConfig
from swift.errors import SwiftError
from swift.models.quantization import Quantization
from swift.models.source import ModelSource

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Gap:
    """The distance of logits of the same tokens.

    Attributes:
        largest: largest absolute difference.
        mean: mean absolute difference.
        deviation: standard deviation of the logits, for scale.
    """

    largest: float
    mean: float
    deviation: float


def gap_of(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> Gap:
    """The distance of two lists of logits float32[tokens, vocabulary]."""
    import torch

    ours, theirs = (torch.cat([logits.flatten() for logits in each]) for each in (one, other))
    apart = (ours - theirs).abs()
    return Gap(float(apart.max()), float(apart.mean()), float(theirs.std()))


def adapter_on_quantised(source: ModelSource, config: ModelConfig, how: dict[str, Any]) -> Any:
    """The base quantised as in training with the adapters on it.

    Raises:
        SwiftError: that way of quantising does not run here.
    """
    from swift.models import load_model
    from swift.tuners.adapters import add_adapters

    dtype = config.torch_dtype or source.record.config.get("torch_dtype") or "auto"
    loaded = load_model(source.path, dtype=dtype, quantization=Quantization.of(config), **how)
    return add_adapters(loaded.model, source.adapters)


def compare(
    source: ModelSource, config: ModelConfig, how: dict[str, Any], ids: Sequence[list[int]], merged: Sequence[Any]
) -> str:
    """One line: how far the merged model's logits lie from the adapter's on the quantised base, or why that is unknown.

    Args:
        source: base and adapters.
        config: options of the model, those of quantisation as in training.
        how: further arguments of `load_model`.
        ids: the prompts with their answers.
        merged: the merged model's logits of each.
    """
    from swift.export.logits import logits_of

    asked = Quantization.of(config)
    try:
        model = adapter_on_quantised(source, config, how)
    except SwiftError as error:
        return f"trained on weights quantised by {asked}; the distance from there is not measured: {error.what}"
    gap = gap_of(merged, [logits_of(model, each) for each in ids])
    return (
        f"trained on weights quantised by {asked}: the merged model's logits lie {gap.largest:.3g} from the adapter's "
        f"there at most and {gap.mean:.3g} in the mean (their standard deviation is {gap.deviation:.3g})"
    )
