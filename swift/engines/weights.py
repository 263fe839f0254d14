"""New weights for a model that is loaded, as training runs send them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from swift.errors import SwiftError, first_line

SHOWN = 3
"""Names in an error."""


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """The model's own weights by the names they have without adapters; the tensors are the model's."""
    layers = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    found = {}
    for name, weight in model.state_dict().items():
        layer = next((layer for layer in layers if name.startswith(f"{layer}.")), None)
        if layer is None:
            found[name] = weight
        elif name.startswith(f"{layer}.base_layer."):
            found[layer + name.removeprefix(f"{layer}.base_layer")] = weight
    return found


def replace_weights(model: Any, new: Mapping[str, torch.Tensor]) -> None:
    """Copy new weights over those of the same names; nothing changes where one does not fit.

    Raises:
        SwiftError: a name is none of the model's, or a shape is another one.
    """
    own = weights_of(model)
    if unknown := [name for name in new if name not in own]:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise SwiftError(
            f"the model has no weights {', '.join(unknown[:SHOWN])}{more}",
            fix=f"name them as the model does: {next(iter(own))} …",
        )
    for name, weight in new.items():
        if weight.shape != own[name].shape or weight.is_floating_point() != own[name].is_floating_point():
            raise SwiftError(
                f"{name} is {weight.dtype} {list(weight.shape)}; the model has {own[name].dtype} "
                f"{list(own[name].shape)}",
                fix="send the weights of the same model, not quantised",
            )
    with torch.no_grad():
        for name, weight in new.items():
            own[name].copy_(weight)


def read_weights(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a saved model of the same class, by the names that the loaded one has for them.

    Raises:
        SwiftError: the folder holds no such model, or not all of its weights.
    """
    try:
        saved, told = type(model).from_pretrained(folder, dtype=model.dtype, output_loading_info=True)
    except Exception as error:
        raise SwiftError(
            f"the weights cannot be read: {first_line(error)[:300]}",
            where=str(folder),
            fix="give the folder of a model",
        ) from error
    lacking = sorted(told["missing_keys"])
    if lacking or told["mismatched_keys"]:
        what = f"lack {', '.join(lacking[:SHOWN])}" if lacking else "have other shapes than config.json says"
        raise SwiftError(f"the weights {what}", where=str(folder), fix="give the folder of a whole model")
    return weights_of(saved)
