"""Whether a checkpoint belongs to the run that is to go on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swift.config import Decisions, SftConfig, TunerConfig
from swift.config.fields import options_in
from swift.data import StepPlan
from swift.errors import SwiftError
from swift.models.quantization import OPTIONS
from swift.models.record import fingerprint_of, read_record
from swift.models.source import ModelSource
from swift.train.assemble import Prepared
from swift.train.folders import is_whole

POSITION = "data.json"

FREE = frozenset(
    """
    output_dir add_version overwrite_output_dir create_checkpoint_symlink resume_from_checkpoint save_steps
    save_strategy save_total_limit save_only_model eval_steps eval_strategy eval_metric logging_steps
    logging_first_step logging_dir report_to run_name dry_run format dataset_num_proc hub_token swanlab_token
    swanlab_project swanlab_workspace swanlab_exp_name swanlab_mode swanlab_notification_method swanlab_webhook_url
    swanlab_secret swanlab_sender_email swanlab_receiver_email swanlab_smtp_server swanlab_smtp_port
    swanlab_email_language push_to_hub hub_model_id ignore_args_error
    max_shard_size val_dataset val_dataset_shuffle per_device_eval_batch_size disable_tqdm use_hf dataset model
    external_plugins enable_channel_loss predict_with_generate max_new_tokens temperature top_k top_p
    repetition_penalty num_beams stop_words eval_use_evalscope eval_dataset eval_limit eval_dataset_args
    eval_generation_config extra_eval_args evalscope_python
    """.split()  # noqa: SIM905
)
"""Options that may differ without changing a step; the data itself is compared by its tokens."""


SPLIT = frozenset(("per_device_train_batch_size", "gradient_accumulation_steps", "auto_find_batch_size"))
"""Options that `--auto_find_batch_size` sets itself."""

STRUCTURE = (
    *(name for name in options_in(TunerConfig, "tuner") if name != "lorap_lr_ratio"),
    *("task_type", "num_labels", "problem_type", "rope_scaling", "ema_decay"),
    *("optim", "optimizer", "lisa_activated_layers", "lisa_step_interval"),
    *("badam_switch_interval", "badam_switch_mode", "galore_target_modules", "galore_rank", "galore_proj_type"),
    *("galore_with_embedding", "galore_quantization", "galore_proj_quant", "galore_proj_bits"),
    *("apollo_rank", "apollo_scale_type"),
    *OPTIONS,
)
"""Options that say what is trained and what state it has: a run cannot go on with others."""


def write_position(folder: Path, fingerprint: str, plan: StepPlan) -> None:
    """Note in a checkpoint which samples its run counts steps over."""
    value: dict[str, Any] = {"fingerprint": fingerprint, "units_per_step": plan.units_per_step}
    value |= {"order": order_of(plan), "batch_size": plan.batch_size}
    (folder / POSITION).write_text(json.dumps(value) + "\n", encoding="utf-8")


def order_of(plan: StepPlan) -> list[Any]:
    """What the order of samples hangs on, besides the samples."""
    return [plan.seed, plan.shuffle, plan.drop_last, *(["by length"] if plan.lengths is not None else [])]


def check_same_run(
    config: SftConfig, checkpoint: Path, data: Prepared, source: ModelSource, decisions: Decisions
) -> None:
    """Stop where going on would not continue that run; note options that make it go on differently.

    Raises:
        SwiftError: the checkpoint is not whole, or its run had another base model, other samples, packs, order or size
            of step, or trained something else.
    """
    if not is_whole(checkpoint):
        raise SwiftError(
            f"--resume_from_checkpoint {checkpoint} cannot be gone on from: it has no trainer or optimizer state",
            fix="name another checkpoint, or take only its weights: --resume_only_model true",
        )
    anew = "restore what the run had, or take only the weights: --resume_only_model true"
    position = _position(checkpoint)
    if position and position["fingerprint"] != data.fingerprint():
        raise SwiftError(
            "the samples differ from those of the run to go on with: data, template, --max_length or packs changed",
            where=str(checkpoint),
            fix=anew,
        )
    if position and position["units_per_step"] != data.plan.units_per_step:
        raise SwiftError(
            f"a step has {data.plan.units_per_step} samples and had {position['units_per_step']}",
            where=str(checkpoint),
            fix="set batch size, accumulation and processes so that their product is the same",
        )
    if position and position["order"] != order_of(data.plan):
        raise SwiftError(
            "the order of samples differs: --seed, --data_seed, --train_dataloader_shuffle, --group_by_length or "
            "drop_last changed",
            where=str(checkpoint),
            fix=anew,
        )
    record, now = read_record(checkpoint), config.flat()
    if record.is_adapter and record.base_weights not in (None, fingerprint_of(source.path)):
        raise SwiftError(
            f"the base model has other weights than the one that the run trained on ({record.base_model})",
            where=str(checkpoint),
            fix=f"give --model {record.base_model}",
        )
    before = record.config
    for name in STRUCTURE:
        if name in before and before[name] != now[name]:
            raise SwiftError(
                f"--{name} is {now[name]} and was {before[name]} in the run to go on with",
                where=str(checkpoint),
                fix=anew,
            )
    free = FREE | SPLIT if config.train.auto_find_batch_size else FREE
    changed = sorted(name for name, value in before.items() if name not in free and now.get(name) != value)
    if changed:
        listed = ", ".join(f"--{name} ({before[name]} before)" for name in changed[:5])
        decisions.add("changed since", listed, "checkpoint", "the run goes on, but not as the unbroken one would")


def _position(checkpoint: Path) -> dict[str, Any] | None:
    file = checkpoint / POSITION
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
