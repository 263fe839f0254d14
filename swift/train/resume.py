"""Whether a checkpoint belongs to the run that is to go on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swift.config import Decisions, SftConfig
from swift.data import StepPlan
from swift.errors import SwiftError
from swift.models.record import read_record
from swift.train.assemble import Prepared
from swift.train.folders import is_whole

POSITION = "data.json"

FREE = frozenset(
    """
    output_dir add_version create_checkpoint_symlink resume_from_checkpoint save_steps save_strategy save_total_limit
    save_only_model eval_steps eval_strategy eval_metric logging_steps logging_first_step logging_dir report_to run_name
    dry_run format dataset_num_proc hub_token swanlab_token swanlab_project swanlab_workspace swanlab_exp_name
    swanlab_mode ignore_args_error max_shard_size val_dataset val_dataset_shuffle per_device_eval_batch_size
    disable_tqdm use_hf dataset model external_plugins
    """.split()  # noqa: SIM905
)
"""Options that may differ without changing a step; the data itself is compared by its tokens."""


def write_position(folder: Path, fingerprint: str, plan: StepPlan) -> None:
    """Note in a checkpoint which samples its run counts steps over."""
    value = {"fingerprint": fingerprint, "units": plan.units, "units_per_step": plan.units_per_step}
    (folder / POSITION).write_text(json.dumps(value) + "\n", encoding="utf-8")


def check_same_run(config: SftConfig, checkpoint: Path, data: Prepared, decisions: Decisions) -> None:
    """Stop where going on would not continue that run; note options that make it go on differently.

    Raises:
        SwiftError: the checkpoint is not whole, or its run had other samples or another size of step.
    """
    if not is_whole(checkpoint):
        raise SwiftError(
            f"--resume_from_checkpoint {checkpoint} cannot be gone on from: it has no trainer or optimizer state",
            fix="name another checkpoint, or take only its weights: --resume_only_model true",
        )
    anew = "restore what the run had, or take only the weights: --resume_only_model true"
    position = _position(checkpoint)
    if position and position["fingerprint"] != data.train.fingerprint():
        raise SwiftError(
            "the samples differ from those of the run to go on with: data, template, --max_length or packing changed",
            where=str(checkpoint),
            fix=anew,
        )
    if position and position["units_per_step"] != data.plan.units_per_step:
        raise SwiftError(
            f"a step has {data.plan.units_per_step} samples and had {position['units_per_step']}",
            where=str(checkpoint),
            fix="set batch size, accumulation and processes so that their product is the same",
        )
    before, now = read_record(checkpoint).config, config.flat()
    changed = sorted(name for name, value in before.items() if name not in FREE and now.get(name) != value)
    if changed:
        listed = ", ".join(f"--{name} ({before[name]} before)" for name in changed[:5])
        decisions.add("changed since", listed, "checkpoint", "the run goes on, but not as the unbroken one would")


def _position(checkpoint: Path) -> dict[str, Any] | None:
    file = checkpoint / POSITION
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
