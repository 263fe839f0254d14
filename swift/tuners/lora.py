"""Low-rank adapters, by PEFT."""

from __future__ import annotations

import re
from typing import Any

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners import tuner

STATE_SPACE = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
"""Model types whose kernels read the weight of out_proj past the module, so PEFT refuses to adapt it."""


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
    import torch

    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if config.target_regex:
        try:
            hits = [name for name in linear if re.fullmatch(config.target_regex, name)]
        except re.error as error:
            raise SwiftError(f"--target_regex {config.target_regex}: {error}") from None
        if not hits:
            raise SwiftError(
                f"--target_regex {config.target_regex} matches no linear module", fix=f"they are named like {linear[0]}"
            )
        everything = [name for name, _ in model.named_modules() if re.fullmatch(config.target_regex, name)]
        return config.target_regex if everything == hits else hits
    if config.target_modules == ["all-linear"]:
        if model.config.model_type not in STATE_SPACE:
            return "all-linear"
        head = model.get_output_embeddings()
        names = {
            n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head
        }
        return sorted(names - {"out_proj"})
    modules = [name for name, _ in model.named_modules()]
    for wanted in [*config.target_modules, *config.modules_to_save]:
        if wanted != "all-linear" and not any(name == wanted or name.endswith(f".{wanted}") for name in modules):
            last_names = sorted({name.rpartition(".")[2] for name in linear})
            raise SwiftError(f"--target_modules {wanted}: no such module", fix=f"there are: {', '.join(last_names)}")
    return config.target_modules
