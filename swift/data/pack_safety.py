"""For which models samples can share a sequence without seeing each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.data.collator import segment_kwargs
from swift.errors import SwiftError

if TYPE_CHECKING:
    import torch

PROBE_LENGTH = 6
"""Tokens of each of the two samples of a probe."""

FIX = "leave out --packing and --padding_free for this model"


@cache
def _table() -> dict[str, frozenset[str]]:
    text = (Path(__file__).parent / "table" / "packing.json").read_text(encoding="utf-8")
    return {key: frozenset(names) for key, names in json.loads(text).items()}


def check_packing(config: Any) -> None:
    """Refuse a model whose layers carry a state from token to token, over the borders of samples.

    Args:
        config: the model's transformers configuration.

    Raises:
        SwiftError: it has linear-attention, state-space, recurrent or convolution layers.
    """
    for part in _parts(config):
        model_type = str(getattr(part, "model_type", ""))
        listed = _layer_types(part)
        kinds = sorted(_table()["layer_types"] & listed)
        # Some hybrid architectures are also published with attention layers alone: there the list of layers decides.
        unlisted = not listed and model_type in _table()["model_types_by_list"]
        if kinds or unlisted or model_type in _table()["model_types"]:
            layers = ", ".join(kinds) if kinds else "linear-attention or state-space"
            raise SwiftError(
                f"--packing: {model_type or 'this model'} has {layers} layers, which carry one sample into the next",
                fix=FIX,
            )


def check_layers(model: torch.nn.Module) -> None:
    """Refuse a model whose parameters are those of a state-space or recurrent layer, whatever its configuration says.

    Args:
        model: the model; it may be on the meta device.

    Raises:
        SwiftError: it has such a parameter.
    """
    for name, _ in model.named_parameters():
        if name.rpartition(".")[2] in _table()["parameters"]:
            kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
            raise SwiftError(f"--packing: {kind} has {name}, a layer which carries one sample into the next", fix=FIX)


def _parts(config: Any) -> Iterator[Any]:
    """The configuration, and that of the language model inside a multimodal one."""
    yield config
    text = config.get_text_config() if hasattr(config, "get_text_config") else getattr(config, "text_config", None)
    if text is not None and text is not config:
        yield text


def _layer_types(config: Any) -> set[str]:
    lists = (getattr(config, name, None) for name in ("layer_types", "layers_block_type", "block_types"))
    return {str(kind) for kinds in lists if isinstance(kinds, list | tuple) for kind in kinds}


def probe_packing(model: torch.nn.Module, *, borders: bool = False, **kwargs: Any) -> None:
    """Run a pack of two samples twice, the first one changed, and see that the second one's logits stay.

    It finds what no table can: architectures that build their attention mask without looking at `position_ids`, and a
    cache that is left on, with which transformers does not look at them either.

    Args:
        model: a causal language model as it will be trained, before it is wrapped for several processes.
        borders: also give it the borders of the samples, as the training step does where attention takes them.
        kwargs: what the training step also passes to the model, such as `use_cache=False`.

    Raises:
        SwiftError: the second sample sees the first.
    """
    import torch

    device = next(model.parameters()).device
    one = torch.arange(PROBE_LENGTH)
    ids = torch.stack([torch.cat([one + 1, one + 1]), torch.cat([one + 1 + PROBE_LENGTH, one + 1])]).to(device)
    positions = torch.cat([one, one])[None].to(device)
    if borders:
        given = segment_kwargs([PROBE_LENGTH, PROBE_LENGTH])
        kwargs |= {name: value.to(device) if hasattr(value, "to") else value for name, value in given.items()}
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = [
                model(input_ids=line[None], position_ids=positions, **kwargs).logits[0, PROBE_LENGTH:].float()
                for line in ids
            ]
    finally:
        model.train(training)
    change, size = (logits[0] - logits[1]).abs().max().item(), logits[0].abs().max().item()
    # Exact arithmetic would give no change; mixtures of experts group tokens, which moves the rounding.
    tolerance = 1e-3 if next(model.parameters()).dtype.itemsize >= 4 else 3e-2
    if not change <= tolerance * size:
        name = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise SwiftError(
            f"--packing: in {name} a sample of a pack sees the one before it (its logits change by {change:.2g})",
            fix=f"set config.use_cache to false if it is not; else {FIX}",
        )
