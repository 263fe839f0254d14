"""Unsloth's kernels through its public interface: `FastLanguageModel` (https://docs.unsloth.ai)."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.errors import SwiftError
from swift.models.dtype import parse_dtype
from swift.models.load import LoadedModel
from swift.tuners.targets import ALL_LINEAR, all_linear

if TYPE_CHECKING:
    from swift.config import SftConfig
    from swift.models.source import ModelSource

UNFIT = (
    *("packing", "padding_free", "adapters", "target_regex", "target_parameters", "trainable_token_indices"),
    *("use_dora", "lora_dtype", "new_special_tokens", "attn_impl", "device_map", "max_memory", "rope_scaling"),
    *("init_strategy", "activation_cpu_offload", "use_liger_kernel", "torch_compile"),
)
"""Options that Unsloth decides itself, or of which its interface knows nothing."""

LENGTH = 2048
"""Longest sequence where neither an option nor the model sets one: Unsloth's own default."""


def check_unsloth(config: SftConfig) -> None:
    """Stop where Unsloth cannot train what the options ask for, or is not here, before a row or a model is read.

    Raises:
        SwiftError: it names the option, or what is missing.
    """
    what, options = "--tuner_backend unsloth", config.flat()
    kind, task = config.tuner.train_type, config.task.task_type or "causal_lm"
    if kind not in ("lora", "full"):
        raise SwiftError(f"{what} with --train_type {kind}: it trains lora and full", fix="leave --tuner_backend out")
    if task != "causal_lm":
        raise SwiftError(f"{what} with --task_type {task}: it trains models of text", fix="leave --tuner_backend out")
    for name in UNFIT:
        if options.get(name):
            raise SwiftError(f"--{name} with {what}: Unsloth does not take it", fix="leave one of them out")
    if config.tuner.init_weights != "true":
        raise SwiftError(f"--init_weights {config.tuner.init_weights} with {what}", fix="leave one of them out")
    if config.model.quant_method not in (None, "bnb"):
        raise SwiftError(f"--quant_method {config.model.quant_method} with {what}", fix="use --quant_method bnb")
    if find_spec("unsloth") is None:
        raise SwiftError(
            f"{what}: the package is not installed",
            fix="pip install unsloth, into an environment of its own: it wants older transformers, trl and datasets",
        )
    if not has_gpu():
        raise SwiftError(f"{what} needs an NVIDIA, AMD or Intel GPU, and there is none", fix="leave it out")


def has_gpu() -> bool:
    """Whether there is a device that Unsloth has kernels for."""
    import torch

    return torch.cuda.is_available() or (hasattr(torch, "xpu") and torch.xpu.is_available())


def load_with_unsloth(config: SftConfig, source: ModelSource, folder: Path, resume: Path | None) -> LoadedModel:
    """Load a model by Unsloth, with its adapter on it.

    Args:
        config: the run's options, with gradient checkpointing chosen.
        source: the model.
        folder: the weights: the model's, or those of a checkpoint of whole weights.
        resume: the checkpoint whose adapter the run goes on with.

    Raises:
        SwiftError: Unsloth does not take this model.
    """
    # Its forward pass leaves logits out unless it is told that somebody reads them.
    os.environ["UNSLOTH_RETURN_LOGITS"] = "1"
    from unsloth import FastLanguageModel

    model, tuner, whole = config.model, config.tuner, config.tuner.train_type == "full"
    length = config.template.max_length or source.limit or LENGTH
    checkpointing = "unsloth" if config.train.gradient_checkpointing else False
    bits = str(model.quant_bits or 4) if model.quant_method == "bnb" else ""
    try:
        loaded, _ = FastLanguageModel.from_pretrained(
            model_name=str(folder),
            max_seq_length=length,
            dtype=None if model.torch_dtype in (None, "auto") else parse_dtype(model.torch_dtype),
            load_in_4bit=bits == "4",
            load_in_8bit=bits == "8",
            full_finetuning=whole,
            trust_remote_code=model.trust_remote_code,
            use_gradient_checkpointing=checkpointing,
            fix_tokenizer=False,
        )
        if not whole:
            loaded = FastLanguageModel.get_peft_model(
                loaded,
                r=tuner.lora_rank,
                target_modules=_targets(loaded, tuner.target_modules),
                lora_alpha=tuner.lora_alpha,
                lora_dropout=tuner.lora_dropout,
                bias=tuner.lora_bias,
                use_gradient_checkpointing=checkpointing,
                random_state=config.train.seed,
                max_seq_length=length,
                use_rslora=tuner.use_rslora,
                modules_to_save=tuner.modules_to_save or None,
            )
    except (RuntimeError, ValueError) as error:
        raise SwiftError(
            f"--tuner_backend unsloth: Unsloth does not take this model: {error}", fix="leave it out"
        ) from error
    if resume is not None and not whole:
        _take_adapter(loaded, resume)
    loaded.train()
    reasons = {"attention": "Unsloth's own", "dtype": "Unsloth's choice", "device": "Unsloth's choice"}
    return LoadedModel(loaded, loaded.dtype, "unsloth", loaded.device, reasons)


def _targets(model: Any, asked: list[str]) -> list[str]:
    """Names of modules, with the shorthand for all linear layers spelled out."""
    if ALL_LINEAR not in asked:
        return asked
    return sorted({name.rpartition(".")[2] for name in all_linear(model)} | (set(asked) - {ALL_LINEAR}))


def _take_adapter(model: Any, folder: Path) -> None:
    from peft import set_peft_model_state_dict
    from peft.utils import load_peft_weights

    set_peft_model_state_dict(model, load_peft_weights(str(folder), device=str(model.device)))
