"""Tensors in 4 or 8 bits: groups of values between their own least and largest."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Packed(NamedTuple):
    """A tensor in few bits.

    Attributes:
        values: uint8; with 4 bits each holds two.
        scale: float32[groups], the step between levels.
        low: float32[groups], what level 0 stands for.
        shape: of the tensor.
        bits: 4 or 8.
    """

    values: torch.Tensor
    scale: torch.Tensor
    low: torch.Tensor
    shape: tuple[int, ...]
    bits: int


def pack(tensor: torch.Tensor, bits: int, group_size: int) -> Packed:
    """The nearest of 2^bits equal steps in each group of `group_size` values; wrong by half a step at most."""
    flat = tensor.float().flatten()
    # The padding repeats the last value, so that it widens no group; two values share a byte.
    size = group_size + group_size % 2
    padding = -len(flat) % size
    groups = torch.cat([flat, flat[-1:].expand(padding)]).view(-1, size)
    low, high = groups.aminmax(dim=1)
    scale = (high - low).div_(2**bits - 1).clamp_(min=torch.finfo(torch.float32).tiny)
    levels = ((groups - low[:, None]) / scale[:, None]).round_().to(torch.uint8).flatten()
    if bits == 4:
        levels = levels[0::2] | (levels[1::2] << 4)
    return Packed(levels, scale, low, tuple(tensor.shape), bits)


def unpack(packed: Packed) -> torch.Tensor:
    """The tensor, float32."""
    levels = packed.values
    if packed.bits == 4:
        levels = torch.stack([levels & 15, levels >> 4], dim=1)
    groups = levels.view(len(packed.scale), -1).float()
    flat = (groups * packed.scale[:, None] + packed.low[:, None]).flatten()
    return flat[: math.prod(packed.shape)].view(packed.shape)
