"""What a run chooses itself where no option says it: the learning rate, processes, and arguments of the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swift.config import Decisions, SftConfig
from swift.train import distributed
from swift.train.optimizers import trains_in_turns
from swift.train.tuning import WHOLE_WEIGHTS

if TYPE_CHECKING:
    import torch

    from swift.models.skeleton import Skeleton


def workers(config: SftConfig, decisions: Decisions) -> int:
    """Processes that tokenise beside the steps."""
    wanted = config.train.more.get("dataloader_num_workers") if config.given("dataloader_num_workers") else None
    if wanted is None:
        return decisions.add("dataloader_num_workers", 1, "default", "rows are tokenised beside the steps")
    if config.data.streaming and wanted > 1:
        return decisions.add("dataloader_num_workers", 1, "data", "one process reads a stream, in order")
    return wanted


def learning_rate(config: SftConfig, decisions: Decisions) -> float:
    """`--learning_rate`, or the usual one of the kind of training."""
    if config.train.learning_rate is not None:
        return config.train.learning_rate
    whole = config.tuner.train_type in WHOLE_WEIGHTS
    kind = "whole weights" if whole else "adapters"
    return decisions.add("learning_rate", 1e-5 if whole else 1e-4, "default", f"the usual one for {kind}")


def autocast_dtype(weights: torch.dtype, amp: torch.dtype | None) -> torch.dtype | None:
    """What the forward pass computes in, where that is not the dtype of every trained weight."""
    return amp or (weights if str(weights) == "torch.bfloat16" else None)


def chosen_arguments(
    config: SftConfig, model: Skeleton, accumulation: int, rate: float, checkpointing: bool
) -> dict[str, Any]:
    """What the run decided itself, by the names of TrainingArguments."""
    import torch

    amp = autocast_dtype(model.dtype, model.amp)
    more = config.train.more
    chosen: dict[str, Any] = {
        "learning_rate": rate,
        "gradient_accumulation_steps": accumulation,
        "bf16": more.get("bf16", amp == torch.bfloat16 and not more.get("fp16")),
        "fp16": more.get("fp16", amp == torch.float16 and not more.get("bf16")),
        "use_cpu": model.device.type == "cpu",
        # Unsloth sets up its own when it loads the model.
        "gradient_checkpointing": checkpointing and config.tuner.tuner_backend != "unsloth",
        "hub_token": config.model.hub_token,
    }
    if chosen["gradient_checkpointing"]:
        kwargs = more.get("gradient_checkpointing_kwargs") or more.get("activation_checkpointing_kwargs") or {}
        chosen["gradient_checkpointing_kwargs"] = {"use_reentrant": False} | kwargs
    if distributed.world_size() > 1:
        chosen["ddp_backend"] = more.get("ddp_backend") or ("gloo" if model.device.type == "cpu" else None)
        chosen["ddp_find_unused_parameters"] = more.get("ddp_find_unused_parameters", trains_in_turns(config))
    return chosen
