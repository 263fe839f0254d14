"""What an optimizer's own step holds, found by running it on tensors without contents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from swift.plan.trace import LiveBytes


@dataclass(frozen=True)
class OptimizerStep:
    """Bytes that belong to an optimizer.

    Attributes:
        state: what it keeps from step to step.
        temporaries: most that lies beside weights, gradients and state during a step.
        in_backward: whether weights are updated, and gradients dropped, in the backward pass.
    """

    state: int
    temporaries: int
    in_backward: bool = False


def trace_optimizer(model: nn.Module, make: Callable[[Any], torch.optim.Optimizer], in_backward: bool) -> OptimizerStep:
    """Build the optimizer over a model on the meta device and take its first step.

    Args:
        model: the model with exactly what is trained requiring gradients; its gradients are gone afterwards.
        make: builds the optimizer from the model.
        in_backward: passed on to the result.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    with LiveBytes() as live:
        for tensor in trained:
            live.note(tensor, "weights")
            live.note(tensor.grad, "gradients")
        optimizer = make(model)
        optimizer.step()
    state = sum(
        value.nbytes for held in optimizer.state.values() for value in held.values() if isinstance(value, torch.Tensor)
    )
    for parameter in trained:
        parameter.grad = None
    return OptimizerStep(state, max(0, live.peak["activations"] - state), in_backward)
