"""The tuners that PEFT has: one table says which options make which of its configurations."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from swift.config import TunerConfig
from swift.errors import SwiftError, first_line
from swift.tuners import LORA_KINDS, Tuner, tuner
from swift.tuners.targets import check_blocks, check_parameters, check_rank, scaled_modules, targets_of

TABLE = Path(__file__).parent / "table" / "peft.yaml"


@cache
def table() -> dict[str, dict[str, Any]]:
    """Tuner -> its row of table/peft.yaml."""
    import yaml

    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def peft_config(model: Any, config: TunerConfig) -> Any:
    """PEFT's configuration for these options.

    Raises:
        SwiftError: an option does not fit the tuner or the model.
    """
    import peft

    row = table()[config.train_type]
    values: dict[str, Any] = {field: getattr(config, option) for option, field in row["options"].items()}
    if "init_weights" in row["options"]:
        values[row["options"]["init_weights"]] = start_of(config)
    if not row.get("virtual"):
        values |= _modules(model, config)
    if config.train_type == "prompt" and config.prompt_init_text:
        values |= {
            "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": config.prompt_init_text,
            "tokenizer_name_or_path": model.config._name_or_path,
        }
    try:
        return getattr(peft, row["config"])(task_type=peft_task(model), **values)
    except (ValueError, TypeError) as error:
        raise refused(config, error) from None


def peft_task(model: Any) -> str:
    """What PEFT calls the kind of a model: it saves the head of a classifier beside the adapter."""
    if type(model).__name__.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "CAUSAL_LM" if model.get_output_embeddings() is not None else "FEATURE_EXTRACTION"


def _modules(model: Any, config: TunerConfig) -> dict[str, Any]:
    values: dict[str, Any] = {"modules_to_save": config.modules_to_save or None}
    if config.train_type == "ia3":
        values["target_modules"], values["feedforward_modules"] = scaled_modules(model, config)
        return values
    check_parameters(model, config.target_parameters)
    if config.target_parameters and config.target_modules == [] and not config.target_regex:
        return values | {"target_modules": []}
    values["target_modules"] = targets = targets_of(model, config)
    if config.train_type in (*LORA_KINDS, "adalora"):
        option = "lora_rank" if config.train_type in LORA_KINDS else "adalora_init_r"
        check_rank(model, targets, getattr(config, option), option)
    if config.train_type == "oft":
        check_blocks(model, targets, config.oft_block_size)
    return values


def start_of(config: TunerConfig) -> bool | str:
    """`--init_weights` as PEFT takes it.

    Raises:
        SwiftError: the tuner has no such start.
    """
    value = config.init_weights.lower()
    if value in ("true", "false"):
        return value == "true"
    starts = table()[config.train_type].get("starts", [])
    if value not in starts:
        raise SwiftError(
            f"--init_weights {config.init_weights}: {config.train_type} has no such start",
            fix=f"choose one of: {', '.join(['true', 'false', *starts])}",
        )
    return value


def refused(config: TunerConfig, error: Exception) -> SwiftError:
    """The error for options that PEFT does not take."""
    return SwiftError(
        f"PEFT refuses these options: {first_line(error)}",
        where=f"--train_type {config.train_type}",
        fix="change the option that it names, or choose other --target_modules",
    )


def attach(model: Any, config: TunerConfig, adapter: Any) -> Any:
    """The model with the adapter that PEFT's configuration `adapter` describes, its weights in `--lora_dtype`.

    Raises:
        SwiftError: PEFT refuses it.
    """
    from peft import get_peft_model

    try:
        tuned = get_peft_model(model, adapter)
    except (ValueError, TypeError, AssertionError, NotImplementedError) as error:
        raise refused(config, error) from None
    return cast_adapter(tuned, config)


def cast_adapter(model: Any, config: TunerConfig) -> Any:
    """The trained weights in `--lora_dtype`."""
    import torch

    if config.lora_dtype:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(getattr(torch, config.lora_dtype))
    return model


def _family(name: str) -> Tuner:
    @tuner(name)
    def family(model: Any, config: TunerConfig) -> Any:
        return attach(model, config, peft_config(model, config))

    return family


for _name in table():
    if _name not in (*LORA_KINDS, "adalora"):
        _family(_name)
