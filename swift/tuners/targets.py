"""Which modules get an adapter."""

from __future__ import annotations

import difflib
import math
import re
from typing import Any

from swift.config import TunerConfig
from swift.errors import SwiftError

STATE_SPACE = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
"""Model types whose kernels read the weight of out_proj past the module, so PEFT refuses to adapt it."""

ALL_LINEAR = "all-linear"
"""Every linear module but the output embedding, as a name among `--target_modules`."""

KEYS_AND_VALUES = ("k_proj", "v_proj", "key", "value", "query_key_value", "c_attn", "qkv_proj", "Wqkv", "kv_b_proj")
FEEDFORWARD = ("down_proj", "fc2", "fc_out", "dense_4h_to_h", "w2", "mlp.c_proj")
"""Last names of the modules that (IA)3 scales (Liu et al., 2022, section 3.3)."""


def targets_of(model: Any, config: TunerConfig) -> str | list[str]:
    """`target_modules` as PEFT takes it: one regular expression or shorthand, or names.

    Raises:
        SwiftError: a name or expression matches nothing; it lists near names.
    """
    linear = linear_names(model)
    _check_names(model, config.modules_to_save, "modules_to_save", _parts_with_parameters(model))
    if config.target_regex:
        return _by_expression(model, config.target_regex, linear)
    named = [name for name in config.target_modules if name != ALL_LINEAR]
    _check_names(model, named, "target_modules", [ALL_LINEAR, *_last_names(linear)])
    if ALL_LINEAR not in config.target_modules:
        return named
    plain = model.config.model_type not in STATE_SPACE and not _own_forward(model)
    if not named and plain and not any(is_packed(module) for module in model.modules()):
        return ALL_LINEAR
    # PEFT knows all-linear by itself only, not as one of several names, and not for layers of quantising libraries.
    return [*all_linear(model), *named]


def all_linear(model: Any) -> list[str]:
    """The names that `all-linear` stands for."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    heads = {name for name, module in model.named_modules() if module is head}
    barred = "out_proj" if model.config.model_type in STATE_SPACE else None
    left_out = heads | _own_forward(model) | _of_media(model)
    return [name for name in linear_names(model) if name not in left_out and name.rpartition(".")[2] != barred]


def _of_media(model: Any) -> set[str]:
    """Modules for pictures and sounds: rows hold text alone, from which they would learn nothing."""
    if model.config.get_text_config() is model.config:
        return set()
    reads = {id(module) for module in model.get_decoder().modules()}
    return {name for name, module in model.named_modules() if id(module) not in reads}


def _own_forward(model: Any) -> set[str]:
    """Linear modules that do more than a product, as some routers and grouped projections: PEFT cannot wrap them."""
    from torch import nn

    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and type(module).__module__.startswith("transformers.models.")
        and type(module).forward is not nn.Linear.forward
    }


def scaled_modules(model: Any, config: TunerConfig) -> tuple[str | list[str], list[str]]:
    """What (IA)3 scales, and which of it is scaled at its input: keys, values and feed-forward where nothing is said.

    Raises:
        SwiftError: the model has none of the usual names, or a name that was given matches nothing.
    """
    linear = linear_names(model)
    feedforward = config.ia3_feedforward_modules
    _check_names(model, feedforward, "ia3_feedforward_modules", _last_names(linear))
    if config.target_regex or config.target_modules != [ALL_LINEAR]:
        return targets_of(model, config), feedforward
    _check_names(model, config.modules_to_save, "modules_to_save", _parts_with_parameters(model))
    found = {
        name: any(module == name or module.endswith(f".{name}") for module in linear)
        for name in (*KEYS_AND_VALUES, *FEEDFORWARD)
    }
    keys = [name for name in KEYS_AND_VALUES if found[name]]
    feedforward = feedforward or [name for name in FEEDFORWARD if found[name]]
    if not keys or not feedforward:
        raise SwiftError(
            f"--train_type ia3: keys, values and feed-forward of {model.config.model_type} have unknown names",
            fix="name them: --target_modules and --ia3_feedforward_modules",
        )
    return [*keys, *feedforward], feedforward


def check_parameters(model: Any, wanted: list[str]) -> None:
    """Stop where no weight is named like one of `--target_parameters`.

    Raises:
        SwiftError: it lists near names.
    """
    names = [name for name, _ in model.named_parameters()]
    for name in wanted:
        if not any(own == name or own.endswith(f".{name}") for own in names):
            ends = sorted({".".join(own.split(".")[-2:]) for own in names})
            raise SwiftError(
                f"--target_parameters {name}: no such weight",
                fix=f"there are: {', '.join(difflib.get_close_matches(name, ends, n=5, cutoff=0.3) or ends[:20])}",
            )


def check_rank(model: Any, targets: str | list[str], rank: int, option: str) -> None:
    """Stop where a rank is larger than every layer that gets the adapter: it would add weights and no freedom.

    A few smaller ones, such as the gate of a shared expert, are no mistake.

    Raises:
        SwiftError: it names the largest layer.
    """
    sizes = {
        name: size_of(module)
        for name, module in model.named_modules()
        if is_linear(module) and _is_target(name, targets)
    }
    name = max(sizes, key=lambda name: min(sizes[name]), default=None)
    if name is not None and min(sizes[name]) < rank:
        rows, columns = sizes[name]
        raise SwiftError(
            f"--{option} {rank} is more than any layer that gets it has: the largest, {name}, is {rows} x {columns}",
            fix=f"lower it to {min(rows, columns)} or less",
        )


def check_blocks(model: Any, targets: str | list[str], size: int) -> None:
    """Stop where OFT's blocks do not divide the width of a layer's input; PEFT would take another size there.

    Raises:
        SwiftError: it names the layer and the sizes that fit all layers.
    """
    widths = {
        name: size_of(module)[1]
        for name, module in model.named_modules()
        if is_linear(module) and _is_target(name, targets)
    }
    wrong = next((name for name, width in widths.items() if width % size), None)
    if wrong is not None:
        common = math.gcd(*widths.values())
        fitting = [str(divisor) for divisor in range(2, min(common, 256) + 1) if common % divisor == 0]
        raise SwiftError(
            f"--oft_block_size {size} does not divide the {widths[wrong]} inputs of {wrong}",
            fix=f"choose one of: {', '.join(fitting)}" if fitting else "choose other --target_modules",
        )


def linear_names(model: Any) -> list[str]:
    """Names of the linear modules, the output embedding among them."""
    return [name for name, module in model.named_modules() if is_linear(module)]


def is_linear(module: Any) -> bool:
    """Whether a module is linear: torch's own, those of quantised weights, or GPT-2's."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D)) or is_packed(module)


def is_packed(module: Any) -> bool:
    """Whether a module is a linear layer of a library that quantises and does not inherit torch's, such as HQQ's."""
    import torch

    return (
        not isinstance(module, torch.nn.Linear)
        and isinstance(getattr(module, "in_features", None), int)
        and isinstance(getattr(module, "out_features", None), int)
        and not type(module).__module__.startswith(("torch.", "transformers.models.", "peft."))
    )


def size_of(module: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear layer, whether its weights are packed or not."""
    if hasattr(module, "out_features"):
        return module.out_features, module.in_features
    # GPT-2's holds its weight the other way round.
    inputs, outputs = module.weight.shape
    return outputs, inputs


def _is_target(name: str, targets: str | list[str]) -> bool:
    if isinstance(targets, list):
        return any(name == target or name.endswith(f".{target}") for target in targets)
    return targets == ALL_LINEAR or re.fullmatch(targets, name) is not None


def _by_expression(model: Any, expression: str, linear: list[str]) -> str | list[str]:
    try:
        hits = [name for name in linear if re.fullmatch(expression, name)]
    except re.error as error:
        raise SwiftError(
            f"--target_regex {expression} is no regular expression: {error}",
            fix=f"it is matched with whole names of modules, such as {linear[0]}; quote it for the shell",
        ) from None
    if not hits:
        raise SwiftError(
            f"--target_regex {expression} matches no linear module",
            fix=f"it must match a whole name, such as {linear[0]}: .*\\.({'|'.join(_last_names(linear))})",
        )
    everything = [name for name, _ in model.named_modules() if re.fullmatch(expression, name)]
    return expression if everything == hits else hits


def _last_names(names: list[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})


def _parts_with_parameters(model: Any) -> list[str]:
    """The last names of the modules that hold parameters themselves."""
    holders = (
        name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None
    )
    return sorted({name.rpartition(".")[2] for name in holders})


def _check_names(model: Any, wanted: list[str], option: str, there: list[str]) -> None:
    modules = [name for name, _ in model.named_modules()]
    for name in wanted:
        if not any(module == name or module.endswith(f".{name}") for module in modules):
            raise SwiftError(f"--{option} {name}: no such module", fix=f"there are: {', '.join(there)}")
