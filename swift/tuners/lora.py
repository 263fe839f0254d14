"""Low-rank adapters, by PEFT."""

from __future__ import annotations

import re
from typing import Any

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners import tuner

STATE_SPACE = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
"""Model types whose kernels read the weight of out_proj past the module, so PEFT refuses to adapt it."""

ALL_LINEAR = "all-linear"
"""Every linear module but the output embedding, as a name among `--target_modules`."""


@tuner("lora")
def lora(model: Any, config: TunerConfig) -> Any:
    """Attach LoRA (Hu et al., 2021, eq. 3: h = W x + (alpha / r) B A x) to the named modules.

    Raises:
        SwiftError: the names match no module of the model.
    """
    from peft import get_peft_model

    try:
        return get_peft_model(model, lora_config(model, config))
    except ValueError as error:
        raise SwiftError(
            f"PEFT refuses these options: {error}", where="--train_type lora", fix="choose other --target_modules"
        ) from None


def lora_config(model: Any, config: TunerConfig) -> Any:
    """PEFT's configuration for these options."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        bias=config.lora_bias,
        target_modules=_targets(model, config),
        modules_to_save=config.modules_to_save or None,
    )


def _targets(model: Any, config: TunerConfig) -> str | list[str]:
    linear = _linear_names(model)
    _check_names(model, config.modules_to_save, "modules_to_save", _parts_with_parameters(model))
    if config.target_regex:
        try:
            hits = [name for name in linear if re.fullmatch(config.target_regex, name)]
        except re.error as error:
            raise SwiftError(
                f"--target_regex {config.target_regex} is no regular expression: {error}",
                fix=f"it is matched with whole names of modules, such as {linear[0]}; quote it for the shell",
            ) from None
        if not hits:
            raise SwiftError(
                f"--target_regex {config.target_regex} matches no linear module",
                fix=f"it must match a whole name, such as {linear[0]}: .*\\.({'|'.join(_last_names(linear))})",
            )
        everything = [name for name, _ in model.named_modules() if re.fullmatch(config.target_regex, name)]
        return config.target_regex if everything == hits else hits
    named = [name for name in config.target_modules if name != ALL_LINEAR]
    _check_names(model, named, "target_modules", [ALL_LINEAR, *_last_names(linear)])
    if ALL_LINEAR not in config.target_modules:
        return named
    if not named and model.config.model_type not in STATE_SPACE:
        return ALL_LINEAR
    # PEFT knows all-linear by itself only, not as one of several names.
    head = getattr(model, "get_output_embeddings", lambda: None)()
    heads = {name for name, module in model.named_modules() if module is head}
    barred = "out_proj" if model.config.model_type in STATE_SPACE else None
    return [*(name for name in linear if name not in heads and name.rpartition(".")[2] != barred), *named]


def _linear_names(model: Any) -> list[str]:
    import torch
    from transformers.pytorch_utils import Conv1D

    return [name for name, module in model.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D))]


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
