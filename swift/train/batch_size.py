"""`--auto_find_batch_size`: the largest micro-batch that fits, found before the first step.

Micro-batches get smaller and a step has more of them, so that its samples, its loss and all that comes of it stay.
"""

from __future__ import annotations

import gc
import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config import Decisions, SftConfig
from swift.data import StepPlan
from swift.errors import SwiftError
from swift.train import distributed
from swift.train.assemble import Prepared
from swift.train.resume import POSITION

if TYPE_CHECKING:
    from swift.models.load import LoadedModel
    from swift.tasks.base import Task
    from swift.templates import Template
    from swift.train.setup import TrainPlan


def take_split(config: SftConfig, data: Prepared, plan: TrainPlan, resume: Path | None) -> None:
    """Go on with the micro-batches of the run that is gone on with."""
    if not config.train.auto_find_batch_size or resume is None or not (resume / POSITION).is_file():
        return
    found = json.loads((resume / POSITION).read_text(encoding="utf-8")).get("batch_size")
    if found and found < data.plan.batch_size and data.plan.units_per_step % (found * data.plan.world_size) == 0:
        _split(config, data, plan, found)


def find_batch_size(
    config: SftConfig,
    loaded: LoadedModel,
    template: Template,
    task: Task,
    data: Prepared,
    plan: TrainPlan,
    decisions: Decisions,
) -> None:
    """Try the largest micro-batch on the model, and smaller ones until it fits on every process.

    Raises:
        SwiftError: not even one of one sample does.
    """
    if not config.train.auto_find_batch_size:
        return
    asked = data.plan.batch_size
    while distributed.any_process(not _fits(config, loaded, template, task, data, plan)):
        smaller = smaller_split(data.plan)
        if smaller is None:
            raise SwiftError(
                f"a micro-batch of one sample does not fit into the memory of {loaded.device}",
                fix="lower --max_length, or set --gradient_checkpointing true",
            )
        _split(config, data, plan, smaller)
    why = "the largest micro-batch fits" if data.plan.batch_size == asked else f"{asked} do not fit"
    chosen = f"{data.plan.batch_size} × {data.plan.accumulation}"
    decisions.add("per_device_train_batch_size", chosen, "machine", f"{why}; a step has the same samples")


def smaller_split(plan: StepPlan) -> int | None:
    """At most half of a micro-batch's units, so many that a step can be split into such; None below one."""
    share = plan.batch_size * plan.accumulation
    return next((size for size in range(plan.batch_size // 2, 0, -1) if share % size == 0), None)


def _split(config: SftConfig, data: Prepared, plan: TrainPlan, size: int) -> None:
    """Make micro-batches of so many units, and as many more of them."""
    data.plan = data.plan.split_into(size)
    config.train.per_device_train_batch_size = size
    config.train.gradient_accumulation_steps = data.plan.accumulation
    plan.arguments["gradient_accumulation_steps"] = data.plan.accumulation


def _fits(
    config: SftConfig, loaded: LoadedModel, template: Template, task: Task, data: Prepared, plan: TrainPlan
) -> bool:
    """Whether the largest micro-batch goes forward and backward beside the optimizer's state and gradients."""
    import torch

    from swift.models.segments import takes_borders
    from swift.train.setup import rounding

    model: Any = loaded.model
    multiple = rounding(loaded.device)
    computation = task.computation(model, data.largest_micro_batch(multiple).logits)
    collator = data.train_collator(template.tokenizer, multiple, takes_borders(model))
    batch = computation.prepared(collator(data.largest_units(multiple)))
    amp = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = next((dtype for name, dtype in amp.items() if plan.arguments.get(name)), None)
    autocast: Any = torch.autocast(loaded.device.type, dtype) if dtype else nullcontext()
    if plan.arguments["gradient_checkpointing"]:
        model.gradient_checkpointing_enable(plan.arguments.get("gradient_checkpointing_kwargs"))
    state = None
    try:
        beside = sum(plan.memory.parts.get(part, 0) for part in ("optimizer", "average"))
        state = torch.empty(beside, dtype=torch.uint8, device=loaded.device)
        with torch.random.fork_rng():
            for _ in range(min(2, data.plan.accumulation)):
                with autocast:
                    outputs = computation.outputs(model, to_device(batch, loaded.device))
                computation.loss(outputs).total.backward()
                del outputs
    except torch.OutOfMemoryError:
        return False
    finally:
        del state
        model.zero_grad(set_to_none=True)
        gc.collect()
        if loaded.device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def to_device(value: Any, device: Any) -> Any:
    """The tensors of a batch, and of dicts in it, on a device."""
    if isinstance(value, dict):
        return {name: to_device(each, device) for name, each in value.items()}
    return value.to(device) if hasattr(value, "to") else value
