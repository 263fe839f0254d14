"""Bottleneck adapters behind attention and feed-forward (Houlsby et al., 2019, arXiv 1902.00751)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners import tuner
from swift.tuners.attached import attach_parts
from swift.tuners.layers import layers_of
from swift.tuners.targets import ALL_LINEAR, is_linear, size_of

SUBLAYERS = frozenset(
    (
        *("self_attn", "self_attention", "attn", "attention", "linear_attn", "mamba", "mixer"),
        *("mlp", "feed_forward", "ffn", "moe", "block_sparse_moe"),
    )
)
"""Names of the modules in a layer whose output goes into the residual stream."""
START = 1e-2
"""Standard deviation of the first weights, truncated at two of it (section 3.6): the adapter begins near identity."""


class Bottleneck(nn.Module):
    """x + U act(D x), with D from the model's width to `length` values and U back (section 2.1).

    Args:
        width: values of a hidden state.
        length: values in the middle.
        act: the activation's name in transformers.
    """

    def __init__(self, width: int, length: int, act: str) -> None:
        from transformers.activations import ACT2FN

        super().__init__()
        self.down, self.up, self.act = nn.Linear(width, length), nn.Linear(length, width), ACT2FN[act]
        for layer in (self.down, self.up):
            nn.init.trunc_normal_(layer.weight, std=START, a=-2 * START, b=2 * START)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """float[rows, positions, width] -> the same shape and dtype."""
        change = self.up(self.act(self.down(hidden.to(self.down.weight.dtype))))
        return hidden + change.to(hidden.dtype)


@tuner("adapter")
def adapter(model: Any, config: TunerConfig) -> Any:
    """Put a bottleneck behind each sub-layer, or behind the modules that `--target_modules` names.

    Raises:
        SwiftError: there are no such modules, or what they give is not as wide as the model.
    """
    settings = {
        "adapter_length": config.adapter_length,
        "adapter_act": config.adapter_act,
        "target_modules": places(model, config.target_modules),
    }
    return attach_parts(model, "HOULSBY", settings, config.lora_dtype)


def places(model: Any, wanted: list[str]) -> list[str]:
    """Names of the modules that get a bottleneck; `all-linear` stands for attention and feed-forward of each layer."""
    modules = dict(model.named_modules())
    if wanted == [ALL_LINEAR]:
        blocks = {id(layer): name for name, layer in modules.items()}
        found = [
            f"{blocks[id(layer)]}.{name}"
            for layer in layers_of(model)
            for name, _ in layer.named_children()
            if name in SUBLAYERS
        ]
        if not found:
            there = sorted({name for layer in layers_of(model) for name, _ in layer.named_children()})
            raise SwiftError(
                f"--train_type adapter: attention and feed-forward of {model.config.model_type} have unknown names",
                fix=f"name them with --target_modules; a layer has {', '.join(there)}",
            )
        return found
    found = [name for name in modules if any(f".{name}".endswith(f".{last}") for last in wanted)]
    for last in wanted:
        if not any(f".{name}".endswith(f".{last}") for name in found):
            there = sorted({name for layer in layers_of(model) for name, _ in layer.named_children()})
            raise SwiftError(
                f"--target_modules {last}: no such module", fix=f"a layer has {', '.join(there)}, and parts of these"
            )
    width = model.config.get_text_config().hidden_size
    for name in found:
        if is_linear(modules[name]) and size_of(modules[name])[0] != width:
            raise SwiftError(
                f"--target_modules: {name} gives {size_of(modules[name])[0]} values, and the model is {width} wide",
                fix="name modules whose output goes into the residual stream, such as mlp or o_proj",
            )
    return found


def parts_of(model: Any, settings: dict[str, Any]) -> dict[str, nn.Module]:
    """The bottlenecks by the names of their modules."""
    width = model.config.get_text_config().hidden_size
    return {
        name: Bottleneck(width, settings["adapter_length"], settings["adapter_act"])
        for name in settings["target_modules"]
    }


def check_act(config: TunerConfig) -> None:
    """Stop at an activation that is unknown, before a model is loaded.

    Raises:
        SwiftError: it lists those there are.
    """
    from transformers.activations import ACT2FN

    if config.adapter_act not in ACT2FN:
        raise SwiftError(
            f"--adapter_act {config.adapter_act}: no such activation",
            fix=f"choose one of: {', '.join(sorted(ACT2FN))}",
        )
