"""LLaMA Pro: new layers that begin as identities are the only ones trained (Wu et al., 2024, arXiv 2401.02415)."""

from __future__ import annotations

import copy
from typing import Any

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners import tuner
from swift.tuners.layers import layers_of

OUTPUTS = frozenset(
    "o_proj out_proj down_proj c_proj dense dense_4h_to_h fc2 fc_out wo w2 output_linear attention_output".split()  # noqa: SIM905
)
"""Modules and parameters that write into the residual stream: zero in them makes a layer an identity."""


@tuner("llamapro")
def llamapro(model: Any, config: TunerConfig) -> Any:
    """Put new layers behind each group of layers and train them alone.

    Raises:
        SwiftError: the numbers do not divide, or this architecture's layers cannot be made identities.
    """
    count = len(layers_of(model))
    places = new_places(count, config)
    probe = None if _is_meta(model) else _probe(model)
    _grow(model, places)
    _check_loads_alone(model)
    if probe is not None and not probe.equal(_probe(model)):
        raise SwiftError(
            f"layers of {type(model).__name__} cannot be made identities: the model with new ones gives other logits",
            where="--train_type llamapro",
            fix="choose another --train_type",
        )
    return train_layers(model, places)


def new_places(count: int, config: TunerConfig) -> list[int]:
    """Where the new layers stand in the grown model of `count` old ones (section 3.2).

    Raises:
        SwiftError: the layers or the new ones cannot be shared out equally.
    """
    new, groups = config.llamapro_num_new_blocks, config.llamapro_num_groups or config.llamapro_num_new_blocks
    for option, number in (("llamapro_num_new_blocks", new), ("the model's layers", count)):
        if number % groups:
            name = f"--{option} {number}" if option.startswith("llamapro") else f"{option}, {number},"
            raise SwiftError(
                f"{name} cannot be shared out to {groups} groups",
                where="--llamapro_num_groups",
                fix=f"choose --llamapro_num_new_blocks and --llamapro_num_groups by which {count} can be divided",
            )
    size, each = count // groups, new // groups
    return [group * (size + each) + size + place for group in range(groups) for place in range(each)]


def train_layers(model: Any, places: list[int]) -> Any:
    """Train exactly the layers in these places of a model that has grown already."""
    model.requires_grad_(False)
    layers = layers_of(model)
    for place in places:
        layers[place].requires_grad_(True)
    return model


def _grow(model: Any, places: list[int]) -> None:
    import torch

    layers, config = layers_of(model), model.config.get_text_config()
    before = len(layers)
    sources: list[int] = []
    grown = list(layers)
    for place in places:
        grown.insert(place, _identity(copy.deepcopy(grown[place - 1])))
    old = iter(range(before))
    for place in range(len(grown)):
        sources.append(sources[-1] if place in places else next(old))
    for number, layer in enumerate(grown):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    layers._modules.clear()
    layers.extend(torch.nn.ModuleList(grown))
    for name, value in vars(config).items():
        if isinstance(value, (list, tuple)) and len(value) == before and not name.startswith("_"):
            setattr(config, name, [value[source] for source in sources])
    config.num_hidden_layers = len(grown)


def _identity(layer: Any) -> Any:
    """Zero what the layer writes into the residual stream (section 3.1)."""
    import torch

    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if OUTPUTS & set(name.split(".")):
                parameter.zero_()
    return layer


def _is_meta(model: Any) -> bool:
    return next(model.parameters()).is_meta


def _probe(model: Any) -> Any:
    """Logits of a few tokens."""
    import torch

    embedding = model.get_input_embeddings().weight
    ids = torch.arange(8, device=embedding.device)[None] % embedding.shape[0]
    training = model.training
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, use_cache=False).logits
    model.train(training)
    return logits


def _check_loads_alone(model: Any) -> None:
    """Stop where a model built from the grown config differs in a layer from the one at hand.

    Raises:
        SwiftError: layers of this architecture differ by their number in a way that its config does not hold.
    """
    import torch

    with torch.device("meta"):
        twin = type(model)(copy.deepcopy(model.config))
    ours, theirs = ([_facts(layer) for layer in layers_of(each)] for each in (model, twin))
    if ours != theirs:
        place = next(number for number, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        raise SwiftError(
            f"layer {place} of {type(model).__name__} would load as another kind of layer in a model with new ones",
            where="--train_type llamapro",
            fix="choose another --train_type, or other --llamapro_num_new_blocks and --llamapro_num_groups",
        )


def _facts(layer: Any) -> list[Any]:
    """Shapes and plain settings of a layer's modules."""
    plain = (bool, int, float, str, type(None))

    def settings(module: Any) -> dict[str, Any]:
        own = {key: value for key, value in vars(module).items() if isinstance(value, plain)}
        return {key: value for key, value in own.items() if key != "training" and not key.startswith("_")}

    return [
        (
            name,
            type(module).__name__,
            settings(module),
            {key: tuple(parameter.shape) for key, parameter in module.named_parameters(recurse=False)},
        )
        for name, module in layer.named_modules()
    ]
