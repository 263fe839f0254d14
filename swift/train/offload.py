"""Activations that wait for the backward pass in the host's memory (Ren et al., 2021, arXiv 2101.06840, section 4)."""

from __future__ import annotations

from typing import Any

import torch

from swift.plan.trace import OFFLOADED


class ActivationOffload(torch.autograd.graph.saved_tensors_hooks):
    """A context of the forward pass: what autograd keeps goes to the host, and comes back when it is needed.

    Weights stay where they are. With gradient checkpointing autograd keeps the inputs of layers, so those go alone.
    Both copies run on the device's own stream and change no value.

    Args:
        model: whose weights stay.
        smallest: bytes of the smallest tensor that goes.
    """

    def __init__(self, model: Any, smallest: int = OFFLOADED) -> None:
        stay = [*model.parameters(), *model.buffers()]
        self.weights = {weight.untyped_storage()._cdata for weight in stay}
        self.smallest = smallest
        super().__init__(self._pack, _unpack)

    def goes(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor goes to the host."""
        return tensor.device.type not in ("cpu", "meta")

    def _pack(self, tensor: torch.Tensor) -> Any:
        if not self.goes(tensor) or tensor.nbytes < self.smallest:
            return tensor
        if tensor.untyped_storage()._cdata in self.weights:
            return tensor
        pinned = tensor.device.type == "cuda"
        host = torch.empty(tensor.shape, dtype=tensor.dtype, layout=tensor.layout, pin_memory=pinned)
        host.copy_(tensor, non_blocking=pinned)
        return tensor.device, host


def _unpack(packed: Any) -> torch.Tensor:
    if isinstance(packed, torch.Tensor):
        return packed
    device, host = packed
    return host.to(device, non_blocking=host.is_pinned())
