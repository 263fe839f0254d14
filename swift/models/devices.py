"""What this machine computes on, and what that rules out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# First compute capability of each generation; https://developer.nvidia.com/cuda-gpus lists them.
_GENERATIONS = (
    ((10, 0), "Blackwell"),
    ((9, 0), "Hopper"),
    ((8, 9), "Ada"),
    ((8, 0), "Ampere"),
    ((7, 5), "Turing"),
    ((7, 0), "Volta"),
    ((6, 0), "Pascal"),
    ((5, 0), "Maxwell"),
)


@dataclass(frozen=True)
class DeviceInfo:
    """One device, for `swift doctor`.

    Attributes:
        kind: cpu, cuda, npu or mps.
        name: the maker's name.
        memory: bytes in all; for the CPU the machine's memory. None where it cannot be told.
        free: bytes free now, or None.
        bf16: whether it computes bfloat16 in hardware.
        generation: Volta, Turing, Ampere, Ada, Hopper, Blackwell …; empty for other makers.
        capability: CUDA compute capability, or None.
        features: what speeds it up: avx512_bf16, amx_bf16, fp8 …
        rules_out: one sentence for each thing that does not run here.
    """

    kind: str
    name: str
    memory: int | None = None
    free: int | None = None
    bf16: bool = False
    generation: str = ""
    capability: tuple[int, int] | None = None
    features: tuple[str, ...] = ()
    rules_out: tuple[str, ...] = field(default=())


def describe_devices() -> list[DeviceInfo]:
    """Every device that torch sees here, accelerators first, the CPU last."""
    import torch

    found: list[DeviceInfo] = []
    if torch.cuda.is_available():
        found += [_cuda_info(index) for index in range(torch.cuda.device_count())]
    if npu_available():
        found += [_npu_info(index) for index in range(_npu().device_count())]
    if torch.backends.mps.is_available():
        found.append(_mps_info())
    return [*found, _cpu_info()]


def pick_device() -> tuple[torch.device, str]:
    """The device of this process and why: CUDA or NPU number `LOCAL_RANK`, else MPS, else the CPU.

    Raises:
        SwiftError: `LOCAL_RANK` is beyond the devices that are visible.
    """
    import torch

    for kind, available in (("cuda", torch.cuda.is_available()), ("npu", npu_available())):
        if not available:
            continue
        count = torch.cuda.device_count() if kind == "cuda" else _npu().device_count()
        index = int(os.environ.get("LOCAL_RANK", "0"))
        if index >= count:
            from swift.errors import SwiftError

            raise SwiftError(
                f"process {index} of this machine has no {kind} device of its own: {count} are visible.",
                where=f"LOCAL_RANK={index}",
                fix="start as many processes as there are devices (NPROC_PER_NODE), or show more devices.",
            )
        why = f"LOCAL_RANK={index}" if "LOCAL_RANK" in os.environ else f"first of {count} {kind} devices"
        return torch.device(kind, index), why
    if torch.backends.mps.is_available():
        return torch.device("mps"), "Apple GPU"
    return torch.device("cpu"), "no accelerator that torch sees"


@cache
def npu_available() -> bool:
    """Whether an Ascend NPU can be used: importing `torch_npu` is what registers it with torch."""
    import importlib.util

    if importlib.util.find_spec("torch_npu") is None:
        return False
    return bool(_npu().is_available())


def _npu() -> Any:
    """The module `torch.npu`, which torch has once `torch_npu` is imported."""
    import torch_npu

    return torch_npu.npu


@cache
def cpu_features() -> tuple[str, ...]:
    """Flags of the CPU that speed up bfloat16: amx_bf16, avx512_bf16, or ARM's bf16; empty where none is seen."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return ()
    for line in info.read_text(errors="replace").splitlines():
        if line.split(":")[0].strip() in ("flags", "Features"):
            flags = set(line.split(":", 1)[1].split())
            return tuple(flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags)
    return ()


def supports_bf16(device: torch.device) -> bool:
    """Whether `device` computes bfloat16 in hardware, so that using it costs no speed."""
    import torch

    if device.type == "cuda":
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "npu":
        return bool(_npu().is_bf16_supported())
    if device.type == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    return bool(cpu_features())


def generation_name(capability: tuple[int, int]) -> str:
    """NVIDIA's name for a compute capability: (7, 5) is Turing, (8, 9) is Ada."""
    return next((name for first, name in _GENERATIONS if capability >= first), "older than Maxwell")


def ruled_out(capability: tuple[int, int]) -> tuple[str, ...]:
    """What a CUDA device of this capability cannot run, a sentence each."""
    sentences = []
    if capability < (8, 0):
        sentences.append("no bfloat16: float16 is used instead, with loss scaling in training")
        sentences.append("no flash_attention_2 (needs Ampere or newer): sdpa is used instead")
    if capability < (8, 9):
        sentences.append("no FP8 (needs Ada or newer)")
    if capability[0] != 9:
        sentences.append("no flash_attention_3 (Hopper only)")
    if capability < (7, 0):
        sentences.append("too old for Triton kernels and torch.compile (need Volta or newer)")
    return tuple(sentences)


def _cuda_info(index: int) -> DeviceInfo:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    if torch.version.hip:
        return DeviceInfo("cuda", properties.name, total, free, bf16=True, features=("rocm",))
    capability = (properties.major, properties.minor)
    features = [("bf16", (8, 0)), ("fp8", (8, 9)), ("fp4", (10, 0))]
    return DeviceInfo(
        "cuda",
        properties.name,
        total,
        free,
        bf16=capability >= (8, 0),
        generation=generation_name(capability),
        capability=capability,
        features=tuple(name for name, first in features if capability >= first),
        rules_out=ruled_out(capability),
    )


def _npu_info(index: int) -> DeviceInfo:
    import torch

    free, total = _npu().mem_get_info(index)
    bf16 = supports_bf16(torch.device("npu", index))
    why_not = () if bf16 else ("no bfloat16: float16 is used instead",)
    return DeviceInfo("npu", _npu().get_device_name(index), total, free, bf16=bf16, rules_out=why_not)


def _mps_info() -> DeviceInfo:
    import torch

    no = ("no flash attention: sdpa is used instead", "no bitsandbytes, no several processes")
    memory = torch.mps.recommended_max_memory()
    bf16 = supports_bf16(torch.device("mps"))
    return DeviceInfo("mps", "Apple GPU", memory, memory - torch.mps.driver_allocated_memory(), bf16, rules_out=no)


def _cpu_info() -> DeviceInfo:
    features = cpu_features()
    no = () if features else ("bfloat16 is emulated and slow: float32 is used instead",)
    total, free = _machine_memory()
    return DeviceInfo("cpu", _cpu_name(), total, free, bf16=bool(features), features=features, rules_out=no)


def _cpu_name() -> str:
    import platform

    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _machine_memory() -> tuple[int | None, int | None]:
    """Total and available bytes of the machine, as far as the system tells."""
    info = Path("/proc/meminfo")
    if info.is_file():
        values = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        total, free = (int(values[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
        return total, free
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    except (ValueError, OSError, AttributeError):
        return None, None
