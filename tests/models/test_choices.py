from __future__ import annotations

import pytest
import torch

from swift.models import attention, describe_devices, devices, dtype
from swift.models.attention import choose_attention
from swift.models.devices import generation_name, pick_device, ruled_out
from swift.models.dtype import choose_dtype

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

# stored dtype, device, whether it has bfloat16, for training -> weights, autocast
CHOICES = [
    (BF16, CUDA, True, False, BF16, None),
    (BF16, CUDA, True, True, BF16, None),
    (BF16, CUDA, False, False, F16, None),
    (BF16, CUDA, False, True, F32, F16),
    (F16, CUDA, True, False, F16, None),
    (F16, CUDA, True, True, BF16, None),
    (F16, CUDA, False, False, F16, None),
    (F16, CUDA, False, True, F32, F16),
    (F32, CUDA, True, True, F32, None),
    (None, CUDA, True, True, F32, None),
    (BF16, CPU, True, True, BF16, None),
    (F16, CPU, True, False, BF16, None),
    (BF16, CPU, False, False, F32, None),
    (F16, CPU, False, True, F32, None),
]


@pytest.mark.parametrize(("stored", "device", "has_bf16", "training", "weights", "amp"), CHOICES)
def test_dtype(
    stored: torch.dtype | None,
    device: torch.device,
    has_bf16: bool,
    training: bool,
    weights: torch.dtype,
    amp: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dtype, "supports_bf16", lambda device: has_bf16)
    choice = choose_dtype("auto", stored, device, for_training=training)
    assert (choice.dtype, choice.amp) == (weights, amp)
    assert choice.reason


def test_asking_for_float16_in_training_gives_autocast() -> None:
    choice = choose_dtype("fp16", BF16, CUDA, for_training=True)
    assert (choice.dtype, choice.amp) == (F32, F16)


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ((6, 1), "Pascal"),
        ((12, 0), "Blackwell"),
        ((7, 0), "Volta"),
        ((7, 5), "Turing"),
        ((8, 0), "Ampere"),
        ((8, 6), "Ampere"),
        ((8, 9), "Ada"),
        ((9, 0), "Hopper"),
    ],
)
def test_generation(capability: tuple[int, int], name: str) -> None:
    assert generation_name(capability) == name


def test_a_t4_rules_out_bf16_and_flash_attention() -> None:
    sentences = " ".join(ruled_out((7, 5)))
    assert "bfloat16" in sentences and "flash_attention_2" in sentences and "FP8" in sentences
    assert not any("bfloat16" in sentence for sentence in ruled_out((8, 0)))


@pytest.mark.parametrize(
    ("installed", "capability", "compute", "expected"),
    [
        (True, (8, 0), BF16, "flash_attention_2"),
        (False, (8, 0), BF16, None),
        (True, (7, 5), F16, None),
        (True, (8, 0), F32, None),
    ],
)
def test_auto_attention_on_cuda(
    installed: bool,
    capability: tuple[int, int],
    compute: torch.dtype,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "flash_attention_available", lambda version: installed)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    name, reason = choose_attention(None, CUDA, compute, None)
    assert name == expected and reason


def test_flash_attention_3_is_for_hopper_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from swift.errors import SwiftError

    monkeypatch.setattr(attention, "flash_attention_available", lambda version: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(SwiftError, match="needs Hopper"):
        choose_attention("flash_attention_3", CUDA, BF16, None)


def test_this_machine_is_described() -> None:
    found = describe_devices()
    cpu = found[-1]
    assert cpu.kind == "cpu" and cpu.name and cpu.memory
    assert cpu.bf16 == bool(devices.cpu_features())
    assert bool(cpu.rules_out) != cpu.bf16


def test_the_device_of_this_process() -> None:
    device, reason = pick_device()
    assert reason
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert device.type == "cpu"
