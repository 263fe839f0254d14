"""Low-rank adapters, by PEFT, with the ways in which they start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swift.compat import transformers_major
from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners import tuner
from swift.tuners.families import attach, peft_config, refused
from swift.tuners.starts import FROM_DATA, check_start, keep_start, lora_start, start_fields, takes_weights
from swift.tuners.targets import ALL_LINEAR, all_linear

Batches = Sequence[dict[str, Any]]
"""Batches of the training data on the model's device."""


@tuner("lora")
def lora(model: Any, config: TunerConfig) -> Any:
    """Attach LoRA to the named modules.

    Raises:
        SwiftError: the names match no module of the model, or the start is not possible here.
    """
    return lora_from(model, config, None)


def lora_from(model: Any, config: TunerConfig, batches: Batches | None) -> Any:
    """Attach LoRA (Hu et al., 2021, eq. 3: h = W x + (alpha / r) B A x) to the named modules.

    A model without storage gets adapters of the right shapes, whatever they start from.

    Args:
        model: the model.
        config: the tuner's options.
        batches: what a start that reads data is computed from.

    Raises:
        SwiftError: the names match no module of the model, or the start is not possible here.
    """
    check_start(config)
    start = lora_start(config)
    adapter = lora_config(model, config)
    if next(model.parameters()).device.type == "meta":
        return attach(model, config, adapter)
    for name, value in start_fields(config).items():
        setattr(adapter, name, value)
    if start in FROM_DATA:
        if not batches:
            raise SwiftError(
                f"--init_weights {config.init_weights} is computed from data, and there is none",
                fix="train with it by swift sft, or choose another start",
            )
        if adapter.target_modules == ALL_LINEAR:
            # What PEFT runs before the adapter is there does not know the shorthand.
            adapter.target_modules = set(all_linear(model))
        try:
            tuned = FROM_DATA[start](model, config, adapter, batches)
        except (ValueError, RuntimeError) as error:
            raise refused(config, error) from None
    else:
        tuned = attach(model, config, adapter)
    if takes_weights(config):
        keep_start(tuned)
    elif start == "eva":
        # The weights are in the adapter's file: whoever loads it must not compute the start again.
        adapter.init_lora_weights, adapter.eva_config = True, None
    return tuned


def lora_config(model: Any, config: TunerConfig) -> Any:
    """PEFT's configuration for these options, starting from zero."""
    adapter = peft_config(model, config)
    adapter.target_parameters = config.target_parameters or None
    adapter.trainable_token_indices = token_rows(model, config.trainable_token_indices)
    return adapter


def adapts_parameters(model: Any, config: TunerConfig) -> bool:
    """Whether LoRA would lie on weights without a module of their own, such as those of experts that are fused.

    PEFT turns names of experts' modules into names of such weights where transformers 5 has fused them.
    """
    if config.target_parameters or transformers_major() < 5:
        return bool(config.target_parameters)
    try:
        from peft.utils.transformers_weight_conversion import (
            convert_peft_config_for_transformers,
            get_model_conversion_mapping,
        )
    except ImportError:
        return False
    adapter = peft_config(model, config)
    convert_peft_config_for_transformers(adapter, model=model, conversions=get_model_conversion_mapping(model))
    return bool(adapter.target_parameters)


def token_rows(model: Any, tokens: list[int]) -> dict[str, list[int]] | None:
    """Module -> rows that are trained: of the input embedding, and of the output's where it has weights of its own."""
    if not tokens:
        return None
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    largest = embedding.weight.shape[0]
    if max(tokens) >= largest or min(tokens) < 0:
        raise SwiftError(
            f"--trainable_token_indices {max(tokens)}: there are {largest} tokens", fix="give ids below that"
        )
    parts = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(part)]: list(tokens) for part in parts}
