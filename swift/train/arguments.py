"""From our options to transformers' TrainingArguments."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift.compat import as_installed
from swift.config import ModelConfig, SftConfig
from swift.errors import SwiftError
from swift.tasks import metrics

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
    "save_only_model",
    "seed",
    "data_seed",
)
"""Options that go over by their own names."""

PACKAGES = {"wandb": "wandb", "swanlab": "swanlab", "trackio": "trackio", "tensorboard": "tensorboard"}
"""Where losses may go -> the package that it needs."""


def check_missing(model: ModelConfig, rows: Sequence[str]) -> None:
    """Stop where no model or no rows are named.

    Raises:
        SwiftError: it names the option.
    """
    if not model.model and not model.adapters:
        raise SwiftError("--model is missing", fix="add --model demo, a folder, or an id of a hub")
    if not rows:
        raise SwiftError("--dataset is missing", fix="add --dataset self-cognition, a file, or an id of a hub")


def check_packages(config: SftConfig) -> None:
    """Stop where an option needs a package that is not installed.

    Raises:
        SwiftError: it names the option and what to install.
    """
    from importlib.util import find_spec

    from swift.train.swanlab import check_notification

    check_notification(config.output)
    for target in config.train.report_to:
        if target in PACKAGES and find_spec(PACKAGES[target]) is None:
            raise SwiftError(
                f"--report_to {target}: the package {PACKAGES[target]} is not installed",
                fix=f"pip install {PACKAGES[target]}",
            )
    if config.train.more.get("use_liger_kernel") and find_spec("liger_kernel") is None:
        raise SwiftError("--use_liger_kernel: the package is not installed", fix="pip install liger-kernel")


def check_more(more: dict[str, Any]) -> None:
    """Stop at an option of TrainingArguments that the installed transformers lacks, before anything is loaded.

    Raises:
        SwiftError: it names the option.
    """
    said = {name: value for name, value in more.items() if value not in (None, _default(name))}
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


def training_arguments(
    config: SftConfig, run_folder: Path, chosen: dict[str, Any], figures: dict[str, bool] | None = None
) -> Any:
    """Build TrainingArguments; `chosen` holds what the run decided itself, such as bf16 and the learning rate.

    Args:
        config: the run's options.
        run_folder: its folder.
        chosen: arguments by name.
        figures: what evaluation gives -> whether more of it is better.

    Raises:
        SwiftError: the installed transformers refuses a value.
    """
    from transformers import TrainingArguments

    train = config.train
    values: dict[str, Any] = {name: getattr(train, name) for name in SAME} | train.more | chosen
    values |= {"output_dir": str(run_folder), "remove_unused_columns": False}
    values.setdefault("disable_tqdm", False)
    # A loss that is not a number is logged as it is; looking for one would wait for the GPU in every micro-batch.
    values.setdefault("logging_nan_inf_filter", False)
    values |= _evaluation(config, figures or {}) | _reports(config, run_folder) | {"save_strategy": train.save_strategy}
    known = _known()
    values = as_installed(values | {"warmup_ratio": train.warmup_ratio}, known)
    values = {name: value for name, value in values.items() if name in known}
    try:
        arguments = TrainingArguments(**values)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise SwiftError(
            f"transformers refuses the options: {error}",
            where="command line",
            fix="change the option that it names, or leave it out",
        ) from None
    # Several visible GPUs without NPROC_PER_NODE: one is used, rather than DataParallel, which splits packs.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _evaluation(config: SftConfig, figures: dict[str, bool]) -> dict[str, Any]:
    train, strategy = config.train, eval_strategy(config)
    usual = "rouge-l" if config.predict.predict_with_generate else "loss"
    best = train.more.get("metric_for_best_model") or (usual if strategy != "no" else None)
    better = train.more.get("greater_is_better")
    if best and better is None:
        better = figures.get(best.removeprefix("eval_"), not best.endswith("loss"))
    return {
        "eval_strategy": strategy,
        "eval_steps": train.eval_steps or train.save_steps,
        "metric_for_best_model": best,
        "greater_is_better": better,
    }


def check_best(config: SftConfig, figures: dict[str, bool]) -> None:
    """Stop at a figure to choose the best checkpoint by, or to stop early by, that evaluation does not give.

    Raises:
        SwiftError: it lists those there are, or says that there is no evaluation.
    """
    train = config.train
    best = train.more.get("metric_for_best_model")
    own = train.eval_metric is not None and not metrics.is_builtin(train.eval_metric)
    if best and not own and best.removeprefix("eval_") not in {"loss", *figures}:
        raise SwiftError(
            f"--metric_for_best_model {best}: evaluation does not give it",
            fix=f"choose one of: {', '.join(['loss', *figures])}",
        )
    if train.early_stop_interval and eval_strategy(config) == "no":
        raise SwiftError(
            "--early_stop_interval: there are no rows to evaluate on",
            fix="add --val_dataset or --split_dataset_ratio 0.05",
        )


def eval_strategy(config: SftConfig) -> str:
    """When the run evaluates.

    Raises:
        SwiftError: it is asked to, and there are no rows for it.
    """
    from swift.train.tokenised import has_held

    train = config.train
    has_rows = has_held(config.data)
    like_saves = "steps" if train.save_strategy == "best" else train.save_strategy
    strategy = train.eval_strategy or (like_saves if has_rows else "no")
    if strategy != "no" and not has_rows:
        raise SwiftError(
            f"--eval_strategy {strategy}: there are no rows to evaluate on",
            fix="add --val_dataset or --split_dataset_ratio 0.05",
        )
    if train.save_strategy == "best" and not has_rows:
        raise SwiftError(
            "--save_strategy best: there are no rows to evaluate on",
            fix="add --val_dataset or --split_dataset_ratio 0.05",
        )
    return strategy


def _reports(config: SftConfig, run_folder: Path) -> dict[str, Any]:
    """Where losses go; TensorBoard's callback reads its folder from the environment."""
    targets = [] if config.train.report_to in (["none"], []) else config.train.report_to
    logging_dir = config.output.logging_dir or str(run_folder / "runs")
    os.environ["TENSORBOARD_LOGGING_DIR"] = logging_dir
    name = config.train.more.get("run_name") or str(run_folder)
    return {"report_to": targets or "none", "logging_dir": logging_dir, "run_name": name}
