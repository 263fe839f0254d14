"""Which settings of training fit a machine, and in which order they are worth trying."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from swift.plan.fits import ROOM
from swift.plan.memory import MemoryPlan, TracedBatch

PASSES = {"full": 3, "lora": 2, "qlora": 2}
"""Passes over the weights for each token: forward, gradients of activations, and of whole weights (Kaplan et al., 2020,
section 2.1, count forward as one of three)."""


@dataclass(frozen=True)
class Machine:
    """Devices of one kind: how many, bytes that each has free, and cpu or cuda."""

    count: int
    memory: int
    device: str


@dataclass(frozen=True)
class Kind:
    """One kind of training with its traces of a micro-batch of one sample.

    Attributes:
        name: full, lora or qlora.
        optimizer: its name in transformers.
        traced: without gradient checkpointing and with it.
        layers: of the model.
        chunked: whether logits are computed some at a time, so that more samples need no more of them.
    """

    name: str
    optimizer: str
    traced: dict[bool, TracedBatch]
    layers: int
    chunked: bool


@dataclass(frozen=True)
class Proposal:
    """Settings, and what they take.

    Attributes:
        kind: full, lora or qlora.
        micro_batch: samples of a device in one pass.
        accumulation: passes of a step.
        gradient_checkpointing: whether activations are computed again.
        spread: whether one copy of the model lies over all devices, in place of a copy on each.
        memory: planned peak of a device.
        fits: whether that leaves the room that plans need.
        speed: tokens for each pass over the weights, all devices together; the larger, the faster.
    """

    kind: str
    micro_batch: int
    accumulation: int
    gradient_checkpointing: bool
    spread: bool
    memory: MemoryPlan
    fits: bool
    speed: float


def proposals(kinds: Iterable[Kind], machine: Machine, samples: int) -> list[Proposal]:
    """For each kind, in order, what fits with the fastest first; the smallest there is where nothing fits.

    Args:
        kinds: what may be trained.
        machine: where.
        samples: of a step, over all devices.
    """
    found: list[Proposal] = []
    for kind in kinds:
        tried = [
            _largest(kind, machine, samples, checkpointing, spread)
            for spread in ((False, True) if machine.count > 1 else (False,))
            for checkpointing in kind.traced
        ]
        copies = [each for each in tried if each.fits and not each.spread]
        # One copy over all devices lets one of them work at a time: worth it only where no device holds a copy.
        fitting = copies or [each for each in tried if each.fits]
        smallest = min(tried, key=lambda each: each.memory.total)
        found += sorted(fitting, key=lambda each: (-each.speed, each.gradient_checkpointing)) or [smallest]
    return found


def _largest(kind: Kind, machine: Machine, samples: int, checkpointing: bool, spread: bool) -> Proposal:
    """The largest micro-batch that fits, by powers of two; of one sample where none does."""
    copies = 1 if spread else machine.count
    each = max(1, -(-samples // copies))
    size = 1 << (each.bit_length() - 1)
    while True:
        memory = _peak(kind, machine, size, each > size, checkpointing, spread)
        fits = memory.total <= machine.memory * ROOM
        if fits or size == 1:
            break
        size //= 2
    speed = copies / (PASSES[kind.name] + checkpointing)
    return Proposal(kind.name, size, -(-each // size), checkpointing, spread, memory, fits, speed)


def _peak(kind: Kind, machine: Machine, size: int, accumulated: bool, checkpointing: bool, spread: bool) -> MemoryPlan:
    traced = kind.traced[checkpointing]
    scaled = replace(traced, trace=traced.trace.scaled(size, logits=not kind.chunked))
    memory = scaled.plan(kind.optimizer, world_size=1 if spread else machine.count)
    if accumulated and memory.moment == "forward and backward":
        # Gradients of an earlier micro-batch lie there from the start.
        whole = sum(numel * dtype.itemsize for _, numel, dtype in traced.trained)
        memory = replace(memory, parts=memory.parts | {"gradients": max(memory.parts["gradients"], whole)})
    return _shared_out(memory, machine.count, kind.layers) if spread else memory


def _shared_out(memory: MemoryPlan, devices: int, layers: int) -> MemoryPlan:
    """The peak of the fullest of the devices that layers are shared out over: one layer more than its share, and all
    logits."""
    share = -(-max(layers, 1) // devices) / max(layers, 1)
    whole = ("logits", "overhead")
    parts = {name: size if name in whole else round(size * share) for name, size in memory.parts.items()}
    return replace(memory, parts=parts)
