"""How much memory a training run will take at its fullest moment, before anything is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from swift.errors import SwiftError
from swift.models.quantization import Packed
from swift.plan.optimizer_step import OptimizerStep
from swift.plan.show import human_bytes
from swift.plan.trace import HEAP_LIMIT, LossFunction, StepTrace, float32_cross_entropy, trace_step

MIB = 1 << 20

Trainable = tuple[str, int, torch.dtype]
"""A parameter's name, number of values and dtype."""

CPU_RUNTIME = 60 * MIB
"""What a process takes beside tensors once it computes: kernels' code, oneDNN's primitives and scratch, threads, the
modules themselves. Steps of a model of two layers and 64 hidden values take 40 MiB, thirty layers with LoRA 60."""
CPU_HOLES = 0.4
"""Holes of glibc's heap, as a share of the most it held: PyTorch's aligned blocks rarely fit the holes they leave, as
small records of autograd come to lie beside them (sourceware.org/bugzilla, 14581)."""
CPU_HOLES_SERVED = 0.065
"""The same, as a share of all that a forward pass asked the heap for: with gradient checkpointing little stays, but
what stays pins the holes of what went. The larger of the two counts; `benchmarks/memory.py` shows how well they serve
all cells."""
CPU_KERNEL = round(0.66 * MIB)
"""What oneDNN keeps for each product of matrices in 16 bit that has a shape of its own: 25 of LoRA take 16 MiB, 15 of
whole weights 11, whatever the size of the model. The kernels of one shape of micro-batch are in `CPU_RUNTIME`."""
CPU_KERNELS = 1024
"""The most that it keeps (oneDNN, ONEDNN_PRIMITIVE_CACHE_CAPACITY)."""
CUDA_WORKSPACE = 32 * MIB
"""cuBLAS's workspace on Hopper; 8 MiB before it (NVIDIA, cuBLAS library, CUBLAS_WORKSPACE_CONFIG)."""

STATE_VALUES: dict[str, tuple[int, int | None]] = {
    "adamw": (2, None),
    "adam": (2, None),
    "paged_adamw": (2, None),
    "adamw_8bit": (2, 1),
    "paged_adamw_8bit": (2, 1),
    "adamw_bnb_8bit": (2, 1),
    "lion": (1, None),
    "lion_8bit": (1, 1),
    "rmsprop": (1, None),
    "adagrad": (1, None),
    "sgd": (0, None),
    "adafactor": (0, None),
}
"""Optimizer -> values it keeps for each trained value, and bytes of each (None: the parameter's own dtype)."""


@dataclass(frozen=True)
class MemoryPlan:
    """The planned peak.

    Attributes:
        parts: bytes of weights, gradients, optimizer, activations, logits and overhead at the fullest moment, and of
            the weights' average where there is one.
        moment: when that is: `forward and backward` or `optimizer step`.
        device: cpu or cuda.
        notes: what the figures do not hold for, or how they were found.
    """

    parts: dict[str, int]
    moment: str
    device: str
    notes: tuple[str, ...] = field(default=())

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())


def trainable_of(model: nn.Module) -> list[Trainable]:
    """The parameters of a model that require gradients."""
    return [(name, p.numel(), p.dtype) for name, p in model.named_parameters() if p.requires_grad]


@dataclass(frozen=True)
class TracedBatch:
    """What a micro-batch holds, from which the peaks of runs with it follow.

    Attributes:
        trace: of its forward and backward pass.
        trained: the parameters that are trained.
        device: cpu or cuda.
        notes: how the trace was found, where it is no trace.
    """

    trace: StepTrace
    trained: list[Trainable]
    device: str
    notes: tuple[str, ...]

    def plan(
        self,
        optimizer: str,
        *,
        world_size: int = 1,
        shapes: int = 1,
        step: OptimizerStep | None = None,
        averaged: bool = False,
    ) -> MemoryPlan:
        """The peak with this optimizer; arguments as `plan_memory` takes them."""
        known = step is not None or _short_name(optimizer) in STATE_VALUES
        notes: tuple[str, ...] = () if known else (f"state of optimizer {optimizer} counted as AdamW's",)
        if step is None:
            temporaries = _step_temporaries(optimizer, self.trained, self.device)
            state = optimizer_bytes(optimizer, self.trained)
            if optimizer.startswith("paged_") and self.device == "cuda":
                notes += (f"{human_bytes(state)} of optimizer state move to the host where the device is full",)
                state = 0
            step = OptimizerStep(state, temporaries)
        return _assemble(
            self.trace,
            self.trained,
            step,
            world_size=world_size,
            kernels=_kernel_bytes(self.trace.kernels, shapes) if self.device == "cpu" else 0,
            device=self.device,
            notes=notes + self.notes,
            averaged=averaged,
        )


def plan_memory(
    model: nn.Module,
    *,
    optimizer: str,
    world_size: int = 1,
    shapes: int = 1,
    accumulated: bool = False,
    step: OptimizerStep | None = None,
    averaged: bool = False,
    **batch: Any,
) -> MemoryPlan:
    """Plan the peak of a run of training steps on one device.

    Args:
        model: as `trace_batch` takes it.
        optimizer: its name in transformers, such as adamw_torch_fused; an unknown one counts as AdamW, with a note.
        world_size: processes that each hold all of it (DDP); more than one adds DDP's gradient buckets.
        shapes: number of shapes that micro-batches come in; on a CPU each has kernels of its own.
        accumulated: whether gradients outlive a micro-batch (gradient accumulation).
        step: what the optimizer holds, where it is not one that transformers names.
        averaged: whether an average of the trained weights lies beside them, in float32.
        batch: how the micro-batch is, as `trace_batch` takes it.

    Raises:
        SwiftError: as `trace_batch`.
    """
    dropped = step is not None and step.in_backward
    traced = trace_batch(model, accumulated=accumulated or world_size > 1, gradients_dropped=dropped, **batch)
    return traced.plan(optimizer, world_size=world_size, shapes=shapes, step=step, averaged=averaged)


def trace_batch(
    model: nn.Module,
    *,
    dtype: torch.dtype,
    trainable: Iterable[Trainable] | None = None,
    micro_batch_tokens: int,
    trained_positions: int,
    gradient_checkpointing: bool,
    autocast: bool,
    device: str = "cpu",
    rows: int = 1,
    masked: bool | None = None,
    by_segment: bool = False,
    accumulated: bool = False,
    gradients_dropped: bool = False,
    loss: LossFunction = float32_cross_entropy,
    packed: Packed | None = None,
    replaced: int = 0,
    offload: bool = False,
) -> TracedBatch:
    """Run a micro-batch on tensors without contents and count what it holds.

    Args:
        model: the model (meta device is enough, as `swift.models.skeleton` builds it) with its tuner attached.
        dtype: dtype that its weights are loaded with; autocast takes float16 where it is that.
        trainable: what is trained, by the model's own names, with its dtype; None means what requires gradients.
        micro_batch_tokens: tokens of the largest micro-batch with its padding, or the length of a pack.
        trained_positions: places of that micro-batch whose logits are computed.
        gradient_checkpointing: whether layers are computed again in the backward pass.
        autocast: whether the forward runs under autocast (bfloat16, or `dtype` where that is float16).
        device: cpu or cuda.
        rows: rows of the micro-batch.
        masked: whether attention gets a mask; None means where there are several rows.
        by_segment: whether attention takes the samples of a row one by one, without a mask.
        accumulated: whether gradients of an earlier micro-batch are already there.
        gradients_dropped: whether each gradient goes as soon as it is there, its weight being updated at once.
        loss: the run's own loss, as `trace.LossFunction` says.
        packed: what quantised weights take less than those of `model`.
        replaced: bytes of weights that others took the place of and that stay in RAM as pages of the model's files.
        offload: whether activations wait for the backward pass in the host's memory.

    Raises:
        SwiftError: `trainable` names a parameter that the model does not have.
    """
    chosen = trainable_of(model) if trainable is None else list(trainable)
    amp = (torch.float16 if dtype == torch.float16 else torch.bfloat16) if autocast else None
    masked = rows > 1 if masked is None else masked
    notes: tuple[str, ...] = ()
    with _train_only(model, chosen):
        try:
            trace = trace_step(
                model,
                rows=rows,
                length=-(-micro_batch_tokens // rows),
                trained_positions=trained_positions,
                device=_kernels_of(device),
                autocast=amp,
                gradient_checkpointing=gradient_checkpointing,
                masked=masked,
                by_segment=by_segment,
                accumulated=accumulated,
                loss=loss,
                dtypes={name: kind for name, _, kind in chosen},
                gradients_dropped=gradients_dropped,
                offload=offload,
            )
        # Whatever a model's own code raises without contents of tensors, the run itself may go on.
        except Exception as error:
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            notes = (f"activations by formula, since a step could not be traced: {cause}",)
            trace = formula_trace(model, chosen, micro_batch_tokens, trained_positions, gradient_checkpointing)
    if packed is not None:
        _pack(trace, packed)
    if replaced:
        trace.peak["weights"] += replaced
        said = "of the weights are pages of the model's files, which the system takes back where memory is short"
        notes = (*notes, f"{human_bytes(replaced)} {said}")
    return TracedBatch(trace, chosen, device, notes)


def _pack(trace: StepTrace, packed: Packed) -> None:
    """Take quantised weights into account: smaller ones, and a layer that is unpacked while it computes."""
    trace.peak["weights"] -= packed.saved
    trace.peak["activations"] += packed.unpacked
    if packed.unpacked > HEAP_LIMIT:
        trace.mapped_peak += packed.unpacked
    else:
        trace.heap_peak += packed.unpacked


def formula_trace(
    model: nn.Module, trainable: list[Trainable], tokens: int, positions: int, gradient_checkpointing: bool
) -> StepTrace:
    """What a step holds by the formula for a Transformer with fused attention, where it cannot be traced.

    34 bytes for each token and hidden value of a layer at 16 bit, or 2 where it is checkpointed, and one whole layer
    (Korthikanti et al., 2022, arXiv 2205.05198, eq. 2 without the attention matrices, and section 5).
    """
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    layer = 34 * tokens * config.hidden_size
    layers: int = config.num_hidden_layers
    activations = layer + 2 * tokens * config.hidden_size * layers if gradient_checkpointing else layer * layers
    # The logits at 16 bit, and in float32 themselves, their log-softmax and their gradient.
    logits = positions * config.vocab_size * (2 + 3 * 4)
    changed = {name: numel * dtype.itemsize for name, numel, dtype in trainable}
    weights = sum(changed.get(name, p.numel() * p.element_size()) for name, p in model.named_parameters())
    return StepTrace(
        peak={"weights": weights, "gradients": 0, "activations": activations, "logits": logits},
        saved=activations,
        heap_peak=activations,
        mapped_peak=logits,
        heap_served=2 * layer * layers,
    )


def optimizer_bytes(optimizer: str, trainable: Iterable[Trainable]) -> int:
    """Bytes of the optimizer's state; one that `STATE_VALUES` does not list counts as AdamW."""
    values, width = STATE_VALUES.get(_short_name(optimizer), STATE_VALUES["adamw"])
    return sum(values * numel * (width or dtype.itemsize) for _, numel, dtype in trainable)


def _short_name(optimizer: str) -> str:
    for suffix in ("_torch_fused", "_torch_npu_fused", "_torch", "_32bit", "_fused"):
        optimizer = optimizer.removesuffix(suffix)
    return optimizer


def _assemble(
    trace: StepTrace,
    trainable: list[Trainable],
    step: OptimizerStep,
    *,
    world_size: int,
    kernels: int,
    device: str,
    notes: tuple[str, ...],
    averaged: bool,
) -> MemoryPlan:
    gradients = 0 if step.in_backward else sum(numel * dtype.itemsize for _, numel, dtype in trainable)
    buckets = gradients if world_size > 1 else 0
    parts = {
        "weights": trace.peak["weights"],
        "gradients": trace.peak["gradients"],
        "optimizer": step.state,
        "activations": trace.peak["activations"],
        "logits": trace.peak["logits"],
    }
    moment = "forward and backward"
    if gradients + step.temporaries > sum(trace.peak.values()) - trace.peak["weights"]:
        parts |= {"gradients": gradients, "activations": step.temporaries, "logits": 0}
        moment = "optimizer step"
    if averaged:
        parts["average"] = 4 * sum(numel for _, numel, _ in trainable)
    alive = parts["gradients"] + parts["activations"] + parts["logits"]
    parts["overhead"] = buckets + kernels + _overhead(trace, alive, device)
    return MemoryPlan(parts, moment, device, notes)


def _step_temporaries(optimizer: str, trainable: list[Trainable], device: str) -> int:
    # Fused AdamW needs nothing beside its state; the unfused one works on one parameter at a time on the CPU.
    if "fused" in optimizer or not trainable:
        return 0
    sizes = [numel * dtype.itemsize for _, numel, dtype in trainable]
    return sum(sizes) if device == "cuda" else 2 * max(sizes)


def _kernel_bytes(kernels: int, shapes: int) -> int:
    """What is kept of so many kernels for all shapes but the first."""
    return max(0, min(kernels * shapes, CPU_KERNELS) - kernels) * CPU_KERNEL


def _overhead(trace: StepTrace, alive: int, device: str) -> int:
    """What the process holds beyond the tensors alive at the fullest moment.

    On the CPU the heap does not shrink between its own fullest moment and that of the large blocks, so both count.
    """
    if device != "cpu":
        return CUDA_WORKSPACE
    holes = max(CPU_HOLES * trace.heap_peak, CPU_HOLES_SERVED * trace.heap_served)
    held = trace.heap_peak + round(holes) + trace.mapped_peak
    return CPU_RUNTIME + max(0, held - alive)


def _kernels_of(device: str) -> str:
    """The device whose kernels the trace picks: CUDA's only where PyTorch has it."""
    return "cuda" if device == "cuda" and torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def _train_only(model: nn.Module, trainable: list[Trainable]) -> Iterator[None]:
    """Let exactly these parameters require gradients; put back what was."""
    wanted = {name: numel for name, numel, _ in trainable}
    parameters = dict(model.named_parameters())
    for name, numel in wanted.items():
        if name not in parameters or parameters[name].numel() != numel:
            raise SwiftError(
                f"trainable parameter {name} ({numel} values) is not in the model",
                fix="attach the tuner to the model first, then plan",
            )
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in wanted)
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])
