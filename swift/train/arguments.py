"""From our options to transformers' TrainingArguments."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from swift.compat import as_installed
from swift.config import SftConfig
from swift.errors import SwiftError

SAME = (
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "lr_scheduler_type",
    "weight_decay",
    "adam_beta2",
    "max_grad_norm",
    "optim",
    "logging_steps",
    "logging_first_step",
    "save_steps",
    "save_total_limit",
    "save_only_model",
    "seed",
    "data_seed",
)
"""Options that go over by their own names."""

OTHERWISE = {
    "average_tokens_across_devices": "the loss is always one over the whole global batch",
    "ignore_data_skip": "a resumed run always goes on where the data stood",
    "train_sampling_strategy": "the order of samples is --train_dataloader_shuffle's",
    "auto_find_batch_size": "choose --per_device_train_batch_size by the planned memory of --dry_run true",
    "label_names": "labels come from the template",
    "prediction_loss_only": "evaluation gives the loss and --eval_metric",
    "include_for_metrics": "evaluation gives the loss and --eval_metric",
    "batch_eval_metrics": "evaluation never keeps logits, so there is nothing to batch",
    "eval_do_concat_batches": "evaluation never keeps logits, so there is nothing to join",
    "eval_use_gather_object": "evaluation sums over processes by itself",
    "eval_accumulation_steps": "evaluation never keeps logits on the device",
    "length_column_name": "lengths come from the tokenised samples",
    "fsdp_transformer_layer_cls_to_wrap": "it goes into --fsdp_config",
    "fsdp_min_num_params": "it goes into --fsdp_config",
    "group_by_length": "the order of samples is --train_dataloader_shuffle's",
    "adafactor": "use --optim adafactor",
    "no_cuda": "use --use_cpu true",
    "use_mps_device": "the device is found without it",
    "overwrite_output_dir": "a run without --resume_from_checkpoint begins anew",
    "per_gpu_train_batch_size": "use --per_device_train_batch_size",
    "per_gpu_eval_batch_size": "use --per_device_eval_batch_size",
    "push_to_hub_model_id": "use --hub_model_id",
    "push_to_hub_organization": "use --hub_model_id",
    "push_to_hub_token": "use --hub_token",
    "fp16_backend": "autocast is PyTorch's own",
    "half_precision_backend": "autocast is PyTorch's own",
    "torchdynamo": "use --torch_compile_backend",
    "save_safetensors": "checkpoints hold safetensors",
    "include_inputs_for_metrics": "evaluation gives the loss and --eval_metric",
    "include_tokens_per_second": "tokens per second are always logged",
    "past_index": "evaluation keeps no past states",
    "use_legacy_prediction_loop": "there is one way to evaluate",
    "jit_mode_eval": "there is one way to evaluate",
}
"""transformers' options that have no meaning here, and what takes their place."""


def check_more(more: dict[str, Any]) -> None:
    """Stop at an option of TrainingArguments that this run would ignore, before anything is loaded.

    Raises:
        SwiftError: it names the option and what takes its place, or the installed transformers lacks it.
    """
    said = {name: value for name, value in more.items() if value not in (None, _default(name))}
    for name, value in said.items():
        if name in OTHERWISE:
            raise SwiftError(f"--{name} {value} has no effect here", fix=f"leave it out: {OTHERWISE[name]}")
    if said:
        values = as_installed(said, _known())
        for name in sorted(values.keys() - _known()):
            raise SwiftError(f"--{name}: the installed transformers does not have this option", fix="leave it out")


def _known() -> set[str]:
    from transformers import TrainingArguments

    return {field.name for field in dataclasses.fields(TrainingArguments)}


def _default(name: str) -> Any:
    from swift.config.training_arguments import training_argument_options

    spec = training_argument_options().get(name)
    return spec.default if spec else None


def training_arguments(config: SftConfig, run_folder: Path, chosen: dict[str, Any]) -> Any:
    """Build TrainingArguments; `chosen` holds what the run decided itself, such as bf16 and the learning rate.

    Raises:
        SwiftError: the installed transformers refuses a value.
    """
    from transformers import TrainingArguments

    train = config.train
    values: dict[str, Any] = {name: getattr(train, name) for name in SAME} | train.more | chosen
    values |= {"output_dir": str(run_folder), "remove_unused_columns": False}
    values.setdefault("disable_tqdm", False)
    values |= _evaluation(config) | _reports(config, run_folder) | {"save_strategy": train.save_strategy}
    known = _known()
    values = as_installed(values | {"warmup_ratio": train.warmup_ratio}, known)
    values = {name: value for name, value in values.items() if name in known}
    try:
        return TrainingArguments(**values)
    except (ValueError, ImportError, RuntimeError) as error:
        raise SwiftError(f"transformers refuses the options: {error}", where="command line") from None


def _evaluation(config: SftConfig) -> dict[str, Any]:
    train = config.train
    has_rows = bool(config.data.val_dataset or config.data.split_dataset_ratio)
    strategy = train.eval_strategy or (train.save_strategy if has_rows else "no")
    if strategy != "no" and not has_rows:
        raise SwiftError(
            f"--eval_strategy {strategy}: there are no rows to evaluate on",
            fix="add --val_dataset or --split_dataset_ratio 0.05",
        )
    return {"eval_strategy": strategy, "eval_steps": train.eval_steps or train.save_steps}


def _reports(config: SftConfig, run_folder: Path) -> dict[str, Any]:
    """Where losses go; each service gets its options the way its own client reads them, from the environment."""
    output = config.output
    targets = [] if config.train.report_to in (["none"], []) else config.train.report_to
    logging_dir = output.logging_dir or str(run_folder / "runs")
    settings = {
        "TENSORBOARD_LOGGING_DIR": logging_dir,
        "SWANLAB_API_KEY": output.swanlab_token,
        "SWANLAB_PROJECT": output.swanlab_project,
        "SWANLAB_WORKSPACE": output.swanlab_workspace,
        "SWANLAB_MODE": output.swanlab_mode,
    }
    for variable, value in settings.items():
        if value is not None and (variable.startswith("TENSORBOARD") or "swanlab" in targets):
            os.environ[variable] = value
    name = config.train.more.get("run_name") or (output.swanlab_exp_name if "swanlab" in targets else None)
    return {"report_to": targets or "none", "logging_dir": logging_dir, "run_name": name or str(run_folder)}
