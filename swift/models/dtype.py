"""Which dtype the weights get, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from swift.errors import SwiftError
from swift.models.devices import supports_bf16

if TYPE_CHECKING:
    import torch

_NAMES = {
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
    "half": "float16",
    "float32": "float32",
    "fp32": "float32",
    "float": "float32",
}


@dataclass(frozen=True)
class DtypeChoice:
    """A dtype for the weights, the dtype that autocast should compute in (None: no autocast), and the reason."""

    dtype: torch.dtype
    amp: torch.dtype | None
    reason: str


def parse_dtype(value: str | torch.dtype) -> torch.dtype:
    """`bfloat16`, `bf16`, `torch.float16` … -> torch.dtype.

    Raises:
        SwiftError: the name is none of them.
    """
    import torch

    if isinstance(value, torch.dtype):
        return value
    name = _NAMES.get(value.lower().removeprefix("torch."))
    if name is None:
        raise SwiftError(
            f"unknown dtype {value!r}.",
            where="--torch_dtype",
            fix="use auto, bfloat16, float16 or float32.",
        )
    return getattr(torch, name)


def choose_dtype(
    asked: str | torch.dtype | None, stored: torch.dtype | None, device: torch.device, *, for_training: bool
) -> DtypeChoice:
    """The dtype to load weights in.

    Args:
        asked: what the user asked for; `auto` or None leaves the choice to this function.
        stored: the dtype that the model's config or weights name, if any.
        device: where the model will run.
        for_training: training in float16 needs weights in float32 and autocast; generation does not.
    """
    import torch

    if asked is not None and asked != "auto":
        dtype = parse_dtype(asked)
        slow = dtype == torch.bfloat16 and not supports_bf16(device)
        note = f", though {device} has no bfloat16 in hardware and emulates it" if slow else ""
        if dtype == torch.float16 and for_training:
            return DtypeChoice(torch.float32, torch.float16, "float16 was asked for: weights in float32, fp16 autocast")
        return DtypeChoice(dtype, None, f"asked for{note}")
    if stored is None or stored not in (torch.bfloat16, torch.float16):
        why = "the model names none" if stored is None else f"the model's own ({_name(stored)})"
        return DtypeChoice(torch.float32, None, f"float32: {why}")
    if supports_bf16(device) and (stored == torch.bfloat16 or for_training or device.type == "cpu"):
        why = "the model's own" if stored == torch.bfloat16 else f"the model's float16, on {device} as bfloat16"
        return DtypeChoice(torch.bfloat16, None, f"bfloat16: {why}")
    return _without_bf16(stored, device, for_training)


def _without_bf16(stored: torch.dtype, device: torch.device, for_training: bool) -> DtypeChoice:
    import torch

    short = f"the model's {_name(stored)}, but {device} has no bfloat16 in hardware"
    if device.type == "cpu":
        return DtypeChoice(torch.float32, None, f"float32: {short}")
    if for_training and device.type == "mps":
        return DtypeChoice(torch.float32, None, f"float32: {short}")
    if for_training:
        return DtypeChoice(torch.float32, torch.float16, f"float32 weights with fp16 autocast: {short}")
    if stored == torch.float16:
        return DtypeChoice(torch.float16, None, "float16: the model's own")
    return DtypeChoice(torch.float16, None, f"float16: {short}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
