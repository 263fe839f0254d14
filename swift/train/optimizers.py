"""Which optimizer a run takes, and what cannot go together with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from swift.config import Decisions, SftConfig
from swift.errors import SwiftError
from swift.train import distributed

if TYPE_CHECKING:
    from swift.plan.optimizer_step import OptimizerStep

IN_BACKWARD = ("lomo", "adalomo")
"""Update weights in the backward pass."""

WHOLE = ("apollo", "badam", "galore")
"""Made for whole weights: an adapter's matrices are as small as what they would project to."""

OURS = {"galore": "galore", "apollo": "apollo", "adalomo": "adalomo", "lomo": "lomo"}
"""Beginning of a name that `--optim` takes in transformers -> our own, which takes its place."""

BITSANDBYTES = re.compile(r"paged_.*|lion_.*|ademamix.*|rmsprop_bnb.*|adamw_8bit|adamw_bnb_8bit")

PACKAGES = (
    (BITSANDBYTES, "bitsandbytes", "bitsandbytes"),
    (re.compile(r"adamw_torch_[48]bit"), "torchao", "torchao"),
    (re.compile(r"grokadamw"), "grokadamw", "grokadamw"),
    (re.compile(r"schedule_free_.*"), "schedulefree", "schedulefree"),
    (re.compile(r"stable_adamw"), "optimi", "torch-optimi"),
    (re.compile(r"adamw_anyprecision"), "torchdistx", "torchdistx"),
    (re.compile(r"adamw_torch_xla"), "torch_xla", "torch_xla"),
    (re.compile(r"adamw_torch_npu_fused"), "torch_npu", "torch_npu"),
)
"""Names in transformers, the module that each needs and the package that brings it."""


def settle_optimizer(config: SftConfig, decisions: Decisions) -> None:
    """Bring the ways of naming an optimizer together, and stop at combinations that would not compute what they say.

    Raises:
        SwiftError: it names the options and the reason.
    """
    train, options = config.train, config.optimizer
    if options.use_galore:
        if train.optimizer not in (None, "galore"):
            raise SwiftError(f"--use_galore true with --optimizer {train.optimizer}", fix="keep one of them")
        train.optimizer = "galore"
    if train.optimizer in ("", "default"):
        train.optimizer = None
    if train.optimizer and config.given("optim") and train.optim != type(train)().optim:
        raise SwiftError(f"--optim {train.optim} with --optimizer {train.optimizer}", fix="keep one of them")
    _check_optim(config)
    kind = config.tuner.train_type
    if train.optimizer in WHOLE and kind not in ("full", "freeze", "llamapro"):
        raise SwiftError(
            f"--optimizer {train.optimizer} is for whole weights, not for --train_type {kind}",
            fix="add --train_type full, or leave it out",
        )
    if train.optimizer == "badam" and kind != "full":
        raise SwiftError(f"--optimizer badam with --train_type {kind}: both choose layers", fix="add --train_type full")
    if options.lisa_activated_layers and train.optimizer in ("badam", *IN_BACKWARD):
        raise SwiftError(f"--lisa_activated_layers with --optimizer {train.optimizer}", fix="keep one of them")
    if train.ema_decay and trains_in_turns(config):
        what = "--optimizer badam" if train.optimizer == "badam" else "--lisa_activated_layers"
        raise SwiftError(
            f"--ema_decay {train.ema_decay} with {what}: layers are trained some at a time", fix="keep one of them"
        )
    if updates_in_backward(config):
        _settle_in_backward(config, decisions)


def updates_in_backward(config: SftConfig) -> bool:
    """Whether weights change in the backward pass."""
    per_parameter = config.train.optimizer == "galore" and config.optimizer.galore_optim_per_parameter
    return config.train.optimizer in IN_BACKWARD or per_parameter


def trains_in_turns(config: SftConfig) -> bool:
    """Whether layers are trained some at a time."""
    return config.train.optimizer == "badam" or config.optimizer.lisa_activated_layers > 0


def _settle_in_backward(config: SftConfig, decisions: Decisions) -> None:
    train = config.train
    name = "--galore_optim_per_parameter true" if train.optimizer == "galore" else f"--optimizer {train.optimizer}"
    why = "weights change in the backward pass of each micro-batch"
    if (train.gradient_accumulation_steps or 1) > 1:
        raise SwiftError(
            f"{name} with --gradient_accumulation_steps {train.gradient_accumulation_steps}: {why}, so gradients never "
            "add up",
            fix="raise --per_device_train_batch_size in its place",
        )
    if config.given("max_grad_norm") and train.max_grad_norm > 0:
        raise SwiftError(
            f"{name} with --max_grad_norm {train.max_grad_norm}: {why}, before the norm of all gradients is known",
            fix="give --max_grad_norm 0",
        )
    if distributed.world_size() > 1:
        raise SwiftError(
            f"{name} with {distributed.world_size()} processes: {why}, before gradients are averaged",
            fix="start one process: leave NPROC_PER_NODE out",
        )
    if train.more.get("fp16"):
        raise SwiftError(f"{name} with --fp16 true: {why}, before gradients are unscaled", fix="give --bf16 true")
    if train.gradient_accumulation_steps is None:
        train.gradient_accumulation_steps = decisions.add("gradient_accumulation_steps", 1, "optimizer", why)
    if train.max_grad_norm:
        train.max_grad_norm = decisions.add("max_grad_norm", 0.0, "optimizer", f"{why}: no norm of all is known")


def _check_optim(config: SftConfig) -> None:
    """Stop at a name of transformers whose package or device is missing, or that our own takes the place of.

    Raises:
        SwiftError: it names the package or the option.
    """
    from importlib.util import find_spec

    name = config.train.optim
    own = next((own for begin, own in OURS.items() if name.startswith(begin)), None)
    if own:
        raise SwiftError(f"--optim {name}: this optimizer is our own here", fix=f"give --optimizer {own} in its place")
    for pattern, module, package in PACKAGES:
        if pattern.fullmatch(name) and find_spec(module) is None:
            raise SwiftError(
                f"--optim {name}: the package {package} is not installed",
                fix=f"pip install {package}, or leave it out: adamw_torch_fused needs none",
            )


def check_device(config: SftConfig, device: str, float16: bool) -> None:
    """Stop where the device cannot run the optimizer; called before weights are loaded.

    Raises:
        SwiftError: it names the option and the device.
    """
    name = config.train.optim
    if not config.train.optimizer and name.startswith("paged_") and device not in ("cuda", "xpu"):
        raise SwiftError(
            f"--optim {name}: paged memory is a GPU's, and this run is on {device}",
            fix=f"give --optim {name.removeprefix('paged_')}",
        )
    if float16 and updates_in_backward(config):
        raise SwiftError(
            f"--optimizer {config.train.optimizer} in float16: weights change before gradients are unscaled",
            fix="add --torch_dtype bfloat16 or float32",
        )


def optimizer_maker(config: SftConfig) -> Callable[[Any, Any], Any] | None:
    """What builds the optimizer from model and TrainingArguments; None where `--optim` names one of transformers."""
    from swift.tuners import LORA_KINDS, optimizers

    if config.tuner.train_type in LORA_KINDS and config.tuner.lorap_lr_ratio:
        from swift.tuners.lorap import loraplus

        return partial(loraplus, ratio=config.tuner.lorap_lr_ratio)
    name = config.train.optimizer
    if name is None:
        return None
    maker = optimizers.get(name)
    return partial(maker, options=config.optimizer) if optimizers.is_builtin(name) else maker


def optimizer_step(config: SftConfig, model: Any, arguments: Callable[[], Any]) -> OptimizerStep | None:
    """What an optimizer of our own holds over a model without contents; None for one that transformers names.

    Args:
        config: the run's options.
        model: on the meta device, with exactly what is trained requiring gradients.
        arguments: makes the run's TrainingArguments.

    Raises:
        SwiftError: the optimizer does not fit the model.
    """
    from swift.plan.optimizer_step import trace_optimizer
    from swift.tuners import optimizers

    make, name = optimizer_maker(config), config.train.optimizer
    # LoRA+ is AdamW, whose state is known.
    if make is None or name in (None, "lorap") or not optimizers.is_builtin(str(name)):
        return None
    args = arguments()
    return trace_optimizer(model, lambda model: make(model, args), updates_in_backward(config))
