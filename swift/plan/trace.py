"""One training step run on tensors without contents, counting the bytes that are alive.

`FakeTensorMode` gives every operation its real device, dtype and autocast rule and no memory; a dispatch mode above it
sees each new storage, and a weak reference tells when it goes. So the figures hold for any architecture, tuner,
autocast and gradient checkpointing, without a formula for any of them.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from swift.compat import real_attention_masks

HEAP_LIMIT = 32 << 20
"""glibc maps blocks above this size on their own and returns them at once (mallopt(3), M_MMAP_THRESHOLD)."""
OFFLOADED = 1 << 20
"""Bytes of the smallest activation that goes to the host where that is asked for."""
MATMULS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)
KINDS = ("weights", "gradients", "activations", "logits")

LossFunction = Callable[[Any, dict[str, Any], torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes the model, its inputs, the places int64[c] of each row whose logits count and their targets int64[rows * c];
returns the loss that is differentiated."""


@dataclass
class StepTrace:
    """Bytes alive in one forward and backward pass.

    Attributes:
        peak: the bytes of each of `KINDS` at the moment when most are alive together.
        saved: bytes of the storages alive between forward and backward, weights aside.
        heap_peak: most bytes alive together, at any moment, in blocks up to `HEAP_LIMIT`, weights aside.
        mapped_peak: the same for larger blocks.
        heap_served: bytes of all blocks up to `HEAP_LIMIT` that the forward pass asked for, whether they stay or go.
        kernels: different products of matrices in 16 bit, each of which a library compiles for itself.
    """

    peak: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    saved: int = 0
    heap_peak: int = 0
    mapped_peak: int = 0
    heap_served: int = 0
    kernels: int = 0

    def scaled(self, times: int, *, logits: bool) -> StepTrace:
        """The trace of a micro-batch of so many times the rows; logits stay where they are computed some at a time."""
        grown = {"activations": times, "logits": times if logits else 1}
        return StepTrace(
            peak={kind: size * grown.get(kind, 1) for kind, size in self.peak.items()},
            saved=self.saved * times,
            heap_peak=self.heap_peak * times,
            mapped_peak=self.mapped_peak * times,
            heap_served=self.heap_served * times,
            kernels=self.kernels,
        )


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, by kind, and remembers the fullest moment."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = dict.fromkeys(KINDS, 0)
        self.peak = dict(self.alive)
        self.heap_peak = 0
        self.mapped_peak = 0
        self.heap_served = 0
        self.kernels: set[Any] = set()
        self._highest = 0
        self._heap = 0
        self._mapped = 0
        self._kinds: dict[int, str] = {}
        self._logits: tuple[int, int] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            # A layer that is left out by chance (PEFT's module_dropout) is computed in the fullest step.
            return True
        result = func(*args, **(kwargs or {}))
        if func in MATMULS and result.dtype.itemsize == 2:
            self.kernels.add((func, *((each.shape, each.stride()) for each in args)))
        if isinstance(result, torch.Tensor):
            self.note(result)
        elif isinstance(result, (tuple, list)):
            for item in result:
                if isinstance(item, torch.Tensor):
                    self.note(item)
        return result

    def kind_of(self, tensor: torch.Tensor) -> str | None:
        """What a tensor's storage counts as."""
        return self._kinds.get(tensor.untyped_storage()._cdata)

    def expect_logits(self, positions: int, vocabulary: int) -> None:
        """From here on a tensor of so many rows, or some of them, and columns counts as logits."""
        self._logits = (positions, vocabulary)

    def note(self, tensor: torch.Tensor, kind: str | None = None) -> None:
        """Count a tensor's storage if it is new; with `kind`, move it there."""
        storage = tensor.untyped_storage()
        # The address of the C++ storage is its identity as long as it is alive.
        key, size = storage._cdata, storage.nbytes()
        known = self._kinds.get(key)
        if known is None:
            known = kind or self._kind_of(tensor)
            self._kinds[key] = known
            self._count(known, size)
            weakref.finalize(storage, self._release, key, size)
        elif kind is not None and kind != known:
            self._kinds[key] = kind
            self.alive[known] -= size
            self.alive[kind] += size

    def _kind_of(self, tensor: torch.Tensor) -> str:
        if self._logits and tensor.dim() and tensor.shape[-1] == self._logits[1]:
            return "logits" if tensor.numel() <= self._logits[0] * self._logits[1] else "activations"
        return "activations"

    def _release(self, key: int, size: int) -> None:
        self._count(self._kinds.pop(key), -size, size)

    def _count(self, kind: str, change: int, block: int | None = None) -> None:
        self.alive[kind] += change
        if kind != "weights":
            if (block or change) <= HEAP_LIMIT:
                self._heap += change
                self.heap_served += max(0, change)
                self.heap_peak = max(self.heap_peak, self._heap)
            else:
                self._mapped += change
                self.mapped_peak = max(self.mapped_peak, self._mapped)
        total = sum(self.alive.values())
        if total > self._highest:
            self._highest, self.peak = total, dict(self.alive)


def float32_cross_entropy(
    model: Any, inputs: dict[str, Any], kept: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Sum of the cross-entropy, in float32."""
    logits = model(**inputs, use_cache=False, logits_to_keep=kept).logits.flatten(0, 1)
    return nn.functional.cross_entropy(logits.float(), targets, reduction="sum")


def trace_step(
    model: nn.Module,
    *,
    rows: int,
    length: int,
    trained_positions: int,
    device: str,
    autocast: torch.dtype | None,
    gradient_checkpointing: bool,
    masked: bool,
    accumulated: bool,
    by_segment: bool = False,
    loss: LossFunction = float32_cross_entropy,
    dtypes: dict[str, torch.dtype] | None = None,
    gradients_dropped: bool = False,
    offload: bool = False,
) -> StepTrace:
    """Run a step of a causal language model on fake tensors and count what is alive.

    Args:
        model: on any device, meta included; it is left as it was.
        rows: rows of the micro-batch.
        length: tokens of each row.
        trained_positions: places of the whole micro-batch whose logits are computed.
        device: `cpu` or `cuda`; it picks kernels and autocast rules.
        autocast: the dtype of autocast, or None for none.
        gradient_checkpointing: whether layers are computed again in the backward pass.
        masked: whether attention gets a mask (padding or packing), as opposed to the plain causal rule.
        accumulated: whether gradients of an earlier micro-batch are already there.
        by_segment: whether each row holds samples that attention takes one by one, without a mask; two then.
        loss: what is differentiated.
        dtypes: dtypes of parameters that differ from the model's, by name.
        gradients_dropped: whether each gradient goes as soon as it is there, its weight being updated at once.
        offload: whether activations wait for the backward pass in the host's memory.

    Raises:
        Exception: whatever an architecture raises that needs the contents of tensors to go on.
    """
    # What cannot be traced is told by the caller.
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as fake,
        _fake_parameters(model, fake, device, dtypes or {}),
        LiveBytes() as live,
    ):
        live_step = _Step(model, live, torch.device(device), autocast, gradients_dropped)
        live_step.start(accumulated)
        with _training(model, gradient_checkpointing), real_attention_masks(masked):
            away = Offloaded(live) if offload else contextlib.nullcontext()
            return live_step.run(rows, length, trained_positions, masked, by_segment, loss, away)


class Offloaded(torch.autograd.graph.saved_tensors_hooks):
    """A context of the forward pass in which what autograd keeps goes to the host, as `swift.train.offload` does it.

    Weights stay, logits are kept by the loss outside of it, and small tensors are not worth the way.

    Args:
        live: counts what is alive on the device.
    """

    def __init__(self, live: LiveBytes) -> None:
        self.live = live
        super().__init__(self._pack, _unpack)

    def _pack(self, tensor: torch.Tensor) -> Any:
        stays = tensor.nbytes < OFFLOADED or self.live.kind_of(tensor) in ("weights", "logits")
        return tensor if stays else (tensor.shape, tensor.dtype, tensor.device)


def _unpack(packed: Any) -> torch.Tensor:
    if isinstance(packed, torch.Tensor):
        return packed
    shape, dtype, device = packed
    return torch.empty(shape, dtype=dtype, device=device)


class _Step:
    def __init__(
        self, model: nn.Module, live: LiveBytes, device: torch.device, autocast: torch.dtype | None, dropped: bool
    ) -> None:
        self.model, self.live, self.device, self.autocast, self.dropped = model, live, device, autocast, dropped

    def start(self, accumulated: bool) -> None:
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            self.live.note(tensor, "weights")
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._gradient_made)
                if accumulated:
                    parameter.grad = torch.empty_like(parameter)
                    self.live.note(parameter.grad, "gradients")

    def _gradient_made(self, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            self.live.note(parameter.grad, "gradients")
            if self.dropped:
                parameter.grad = None

    def run(
        self,
        rows: int,
        length: int,
        positions: int,
        masked: bool,
        by_segment: bool,
        loss: LossFunction,
        away: contextlib.AbstractContextManager[Any],
    ) -> StepTrace:
        ids = torch.zeros(rows, length, dtype=torch.int64, device=self.device)
        mask = torch.ones_like(ids) if masked else None
        # All rows share one index, so the places kept in each row are their mean.
        kept = torch.zeros(max(1, round(positions / rows)), dtype=torch.int64, device=self.device)
        targets = torch.zeros(rows * len(kept), dtype=torch.int64, device=self.device)
        vocabulary = self.model.config.get_text_config().vocab_size  # type: ignore[union-attr, operator]
        self.live.expect_logits(len(targets), vocabulary)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None), away:
            borders = {"segments": (0, length // 2, length)} if by_segment else {}
            value = loss(self.model, {"input_ids": ids, "attention_mask": mask, **borders}, kept, targets)
        saved = sum(self.live.alive.values()) - self.live.alive["weights"] - self.live.alive["gradients"]
        served = self.live.heap_served
        value.backward()
        del value
        live = self.live
        return StepTrace(live.peak, saved, live.heap_peak, live.mapped_peak, served, len(live.kernels))


@contextlib.contextmanager
def _fake_parameters(
    model: nn.Module, fake: FakeTensorMode, device: str, dtypes: dict[str, torch.dtype]
) -> Iterator[None]:
    """Let the model hold fake parameters and buffers, tied ones tied as before, and give its own back at the end."""
    twins: dict[int, Any] = {}
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for prefix, module in model.named_modules():
        for own in (module._parameters, module._buffers):
            kept.append((own, dict(own)))
            for name, tensor in own.items():
                if tensor is None:
                    continue
                if id(tensor) not in twins:
                    dtype = dtypes.get(f"{prefix}.{name}" if prefix else name, tensor.dtype)
                    twin: Any = torch.empty(tensor.shape, dtype=dtype, device=device)
                    if isinstance(tensor, nn.Parameter):
                        twin = nn.Parameter(twin, requires_grad=tensor.requires_grad)
                    twins[id(tensor)] = twin
                own[name] = twins[id(tensor)]
    try:
        yield
    finally:
        for own, before in kept:
            own.clear()
            own.update(before)


@contextlib.contextmanager
def _training(model: nn.Module, gradient_checkpointing: bool) -> Iterator[None]:
    """Training mode with or without checkpointing; both are put back at the end."""
    modules = list(model.modules())
    before = [(module, module.training, dict(module._forward_hooks), _checkpointing_of(module)) for module in modules]
    model.train()
    if gradient_checkpointing:
        with warnings.catch_warnings():
            # transformers 5.22 renames it and keeps this name until 6; 4.57 knows only this one.
            warnings.simplefilter("ignore", FutureWarning)
            # The state of the random generator cannot be read under fake tensors, and takes no memory worth counting.
            model.gradient_checkpointing_enable(  # type: ignore[operator]
                gradient_checkpointing_kwargs={"use_reentrant": False, "preserve_rng_state": False}
            )
    else:
        for module in modules:
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, training, hooks, checkpointing in before:
            module.training = training
            # Enabling checkpointing puts a hook on the embeddings.
            module._forward_hooks.clear()
            module._forward_hooks.update(hooks)
            for name, value in checkpointing.items():
                setattr(module, name, value)


def _checkpointing_of(module: nn.Module) -> dict[str, Any]:
    names = ("gradient_checkpointing", "_gradient_checkpointing_func")
    return {name: getattr(module, name, None) for name in names if hasattr(module, "gradient_checkpointing")}
