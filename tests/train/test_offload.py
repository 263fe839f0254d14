"""Activations that go to the host come back as they were; weights stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from swift.errors import SwiftError
from swift.train.offload import ActivationOffload
from swift.train.result import SftResult
from tests.tiny import make_model

IDS = torch.arange(3, 96).reshape(3, 31)


class Recorded(ActivationOffload):
    """On a CPU: takes it for a device, and notes what goes."""

    def __init__(self, model: Any, smallest: int = 0) -> None:
        super().__init__(model, smallest)
        self.gone: list[torch.Tensor] = []

    def goes(self, tensor: torch.Tensor) -> bool:
        return True

    def _pack(self, tensor: torch.Tensor) -> Any:
        packed = super()._pack(tensor)
        if not isinstance(packed, torch.Tensor):
            self.gone.append(packed[1])
        return packed


def gradients(model: Any, around: Any) -> dict[str, torch.Tensor]:
    with around:
        loss = model(IDS, labels=IDS).loss
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_gradients_are_the_same_bits(checkpointing: bool) -> None:
    from contextlib import nullcontext

    model = make_model().train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    expected = gradients(model, nullcontext())
    offload = Recorded(model)
    found = gradients(model, offload)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    hidden = [each for each in offload.gone if each.shape == (3, 31, 32)]
    shapes = {tuple(weight.shape) for weight in model.parameters() if weight.dim() > 1}
    assert not [each for each in offload.gone if tuple(each.shape) in shapes]
    if checkpointing:
        # The inputs of two layers, and what the last norm keeps.
        assert 2 <= len(hidden) <= 5
    else:
        assert len(hidden) > 10


def test_small_tensors_stay() -> None:
    offload = Recorded(model := make_model().train(), smallest=IDS.numel() * 64 * 4)
    gradients(model, offload)
    assert offload.gone
    assert min(each.nbytes for each in offload.gone) >= IDS.numel() * 64 * 4


def test_on_a_cpu_it_is_refused(train: Callable[..., SftResult]) -> None:
    with pytest.raises(SwiftError, match="--activation_cpu_offload true: the model runs on a CPU"):
        train(activation_cpu_offload=True, max_steps=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_losses_are_the_same(train: Callable[..., SftResult]) -> None:
    from tests.train.conftest import losses

    assert losses(train(activation_cpu_offload=True, max_steps=3)) == losses(train(max_steps=3))
