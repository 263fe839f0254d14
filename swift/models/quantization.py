"""Weights quantised while they load, and models that come quantised: which methods there are and what each needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swift.compat import transformers_major
from swift.errors import SwiftError

if TYPE_CHECKING:
    import torch

    from swift.config import Decisions, ModelConfig
    from swift.models.record import CheckpointRecord

HQQ_GROUP = 64
"""Values that share a scale and a zero in HQQ's own settings (Badri and Shaji, 2023)."""
FP8_CAPABILITY = (8, 9)
"""First compute capability whose tensor cores take float8 (transformers' FineGrainedFP8Config)."""
OPTIONS = (
    *("quant_method", "quant_bits", "bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"),
    *("bnb_4bit_quant_storage", "hqq_axis"),
)
"""The options of the model that say how it is quantised."""


@dataclass(frozen=True)
class Quantization:
    """How weights are quantised while they load; values as the options of the same names take them."""

    method: str
    bits: str
    compute_dtype: str | None = None
    quant_type: str = "nf4"
    double_quant: bool = True
    storage: str | None = None
    axis: int = 1

    @classmethod
    def of(cls, config: ModelConfig) -> Quantization | None:
        """What the options of a model ask for; None where they ask for nothing."""
        if config.quant_method is None:
            return None
        return cls(
            config.quant_method,
            config.quant_bits or METHODS[config.quant_method].bits[0],
            config.bnb_4bit_compute_dtype,
            config.bnb_4bit_quant_type,
            config.bnb_4bit_use_double_quant,
            config.bnb_4bit_quant_storage,
            1 if config.hqq_axis is None else config.hqq_axis,
        )

    def arguments(self, dtype: torch.dtype) -> dict[str, Any]:
        """What `from_pretrained` is given; empty where the weights are quantised once they are loaded."""
        build = METHODS[self.method].build
        return {} if build is None else {"quantization_config": build(self, dtype)}

    def __str__(self) -> str:
        """For tables and errors: bnb 4 bits (nf4)."""
        kind = f" ({self.quant_type})" if (self.method, self.bits) == ("bnb", "4") else ""
        return f"{self.method} {self.bits}{'' if self.bits == 'float8' else ' bits'}{kind}"


def _bnb(asked: Quantization, dtype: torch.dtype) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if asked.bits == "8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=getattr(torch, asked.compute_dtype) if asked.compute_dtype else dtype,
        bnb_4bit_quant_type=asked.quant_type,
        bnb_4bit_use_double_quant=asked.double_quant,
        bnb_4bit_quant_storage=asked.storage,
    )


def _quanto(asked: Quantization, dtype: torch.dtype) -> Any:
    from transformers import QuantoConfig

    return QuantoConfig(weights=asked.bits if asked.bits == "float8" else f"int{asked.bits}")


def _torchao(asked: Quantization, dtype: torch.dtype) -> Any:
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Float8WeightOnlyConfig() if asked.bits == "float8" else Int8WeightOnlyConfig())


def _eetq(asked: Quantization, dtype: torch.dtype) -> Any:
    from transformers import EetqConfig

    return EetqConfig("int8")


def _fp8(asked: Quantization, dtype: torch.dtype) -> Any:
    from transformers import FineGrainedFP8Config

    return FineGrainedFP8Config()


@dataclass(frozen=True)
class Method:
    """A way to quantise on load.

    Attributes:
        bits: what --quant_bits may be; the first is the default.
        packages: modules that must be there, with the command that installs each.
        devices: kinds of device that it runs on.
        scales: bytes beside the packed values of a matrix, of (what was asked, values, rows, bytes of a float).
        build: gives transformers' quantization config; None where the weights are quantised once they are loaded.
    """

    bits: tuple[str, ...]
    packages: dict[str, str]
    devices: tuple[str, ...]
    scales: Callable[[Quantization, int, int, int], float]
    build: Callable[[Quantization, torch.dtype], Any] | None = None


def _bnb_scales(asked: Quantization, values: int, rows: int, itemsize: int) -> float:
    """A float32 for 64 values, or a byte and a 256th of a float32 (QLoRA, Dettmers et al., 2023, section 3)."""
    return 4 * rows if asked.bits == "8" else values / 64 * (1 + 4 / 256 if asked.double_quant else 4)


def _quanto_scales(asked: Quantization, values: int, rows: int, itemsize: int) -> float:
    return values / 128 * 2 * itemsize if asked.bits in ("2", "4") else rows * itemsize


KERNELS = {"kernels": "pip install kernels"}
METHODS = {
    "bnb": Method(("4", "8"), {"bitsandbytes": "pip install bitsandbytes"}, ("cpu", "cuda", "xpu"), _bnb_scales, _bnb),
    "hqq": Method(
        ("4", "1", "2", "3", "8"),
        {"hqq": "pip install hqq"},
        ("cpu", "cuda"),
        lambda asked, values, rows, itemsize: values / HQQ_GROUP * 2 * itemsize,
    ),
    "quanto": Method(
        ("8", "2", "4", "float8"),
        {"optimum.quanto": "pip install optimum-quanto"},
        ("cpu", "cuda", "mps"),
        _quanto_scales,
        _quanto,
    ),
    "torchao": Method(
        ("8", "float8"),
        {"torchao": "pip install torchao"},
        ("cpu", "cuda", "xpu"),
        lambda asked, values, rows, itemsize: rows * (4 if asked.bits == "float8" else itemsize),
        _torchao,
    ),
    "eetq": Method(
        ("8",),
        KERNELS if transformers_major() >= 5 else {"eetq": "pip install eetq"},
        ("cuda",),
        lambda asked, values, rows, itemsize: 2 * rows,
        _eetq,
    ),
    "fp8": Method(
        ("8",),
        KERNELS if transformers_major() >= 5 else {},
        ("cuda", "xpu"),
        lambda asked, values, rows, itemsize: values / 128**2 * 4,
        _fp8,
    ),
}
"""--quant_method -> what it needs, and how transformers is asked for it."""

Needs = tuple[dict[str, str], tuple[str, ...]]
STORED: dict[str, Needs] = {
    "gptq": ({"optimum": "pip install optimum", "gptqmodel": "pip install gptqmodel"}, ("cpu", "cuda", "xpu")),
    "awq": (
        {"gptqmodel": "pip install gptqmodel"} if transformers_major() >= 5 else {"awq": "pip install autoawq"},
        ("cpu", "cuda", "xpu"),
    ),
    "aqlm": ({"aqlm": "pip install 'aqlm[gpu,cpu]'"}, ("cpu", "cuda")),
    "compressed-tensors": (
        {"compressed_tensors": "pip install compressed-tensors"},
        ("cpu", "cuda", "xpu", "mps"),
    ),
    "bitsandbytes": (METHODS["bnb"].packages, METHODS["bnb"].devices),
    **{name: (METHODS[name].packages, METHODS[name].devices) for name in ("hqq", "quanto", "torchao", "eetq")},
}
"""`quant_method` of a config.json -> packages and devices that its weights need; others are left to transformers."""


def settle_quantization(config: ModelConfig, record: CheckpointRecord, decisions: Decisions) -> None:
    """Quantise the base of an adapter as in its training where nobody says otherwise; put it into the run's table."""
    origin, reason = "flag", "quantised while it loads; the output embedding and all that is not linear stays"
    if config.quant_method is None and record.is_adapter and record.config.get("quant_method"):
        for name in OPTIONS:
            setattr(config, name, record.config.get(name, getattr(config, name)))
        origin, reason = "adapter", "the base that it was trained on"
    asked = Quantization.of(config)
    if asked is not None:
        config.quant_bits = asked.bits  # type: ignore[assignment]
        decisions.add("quant_method", str(asked), origin, reason)


def check_quantization(asked: Quantization, device: torch.device) -> None:
    """Stop at a method that does not run here.

    Raises:
        SwiftError: it names the bits, package or hardware.
    """
    method = METHODS[asked.method]
    if asked.bits not in method.bits:
        raise SwiftError(
            f"--quant_bits {asked.bits} with --quant_method {asked.method}",
            fix=f"it has {', '.join(method.bits)}",
        )
    why_not = lacking(method.packages, method.devices, device, asked.method)
    if why_not is not None:
        raise SwiftError(f"--quant_method {asked.method}: {why_not[0]}", fix=why_not[1])


def check_stored(raw: dict[str, Any], asked: Quantization | None, device: torch.device) -> None:
    """Stop at a model that came quantised and cannot be loaded here.

    Args:
        raw: its config.json.
        asked: how it is to be quantised on load.
        device: where it is to run.

    Raises:
        SwiftError: it names the method and what is missing.
    """
    name = stored_method(raw)
    if name is None:
        return
    if asked is not None:
        raise SwiftError(
            f"--quant_method {asked.method}: the weights of this model are quantised already, by {name}",
            fix="leave --quant_method out, or give the model that they were made from",
        )
    if name == "hqq" and transformers_major() >= 5:
        raise SwiftError(
            "the model's weights are quantised by hqq, which transformers 5 does not load",
            fix="give the model that they were made from, with --quant_method hqq",
        )
    why_not = lacking(*STORED[name], device, name) if name in STORED else None
    if why_not is not None:
        raise SwiftError(f"the model's weights are quantised by {name}: {why_not[0]}", where="--model", fix=why_not[1])


def loading_arguments(raw: dict[str, Any]) -> dict[str, Any]:
    """What `from_pretrained` is given for a model that came quantised.

    Layers of compressed-tensors have no weights until their first forward pass, which unpacks them for good: unpacked
    while they load, they take adapters and no more memory.
    """
    if stored_method(raw) != "compressed-tensors":
        return {}
    from inspect import signature

    from transformers import CompressedTensorsConfig

    # transformers 4.57 knows the opposite, by the other name.
    knows = "dequantize" in signature(CompressedTensorsConfig).parameters
    unpacked: dict[str, Any] = {"dequantize": True} if knows else {"run_compressed": False}
    return {"quantization_config": CompressedTensorsConfig(**unpacked)}


def stored_method(raw: dict[str, Any]) -> str | None:
    """The method that a config.json says its weights are quantised by."""
    for source in (raw, raw.get("text_config") or {}):
        settings = source.get("quantization_config")
        if settings:
            method = settings.get("quant_method")
            return str(method or "bitsandbytes").replace("_", "-")
    return None


def lacking(
    packages: dict[str, str], devices: tuple[str, ...], device: torch.device, method: str
) -> tuple[str, str] | None:
    """What a method lacks on a device, and the way out; None where it runs."""
    if device.type not in devices:
        return f"it needs {' or '.join(devices)}, and the device is {device.type}", _others(device, method)
    if method == "fp8" and device.type == "cuda":
        import torch

        capability = torch.cuda.get_device_capability(device)
        if capability < FP8_CAPABILITY:
            found = ".".join(map(str, capability))
            return f"it needs compute capability 8.9, and this GPU has {found}", _others(device, method)
    for package, install in packages.items():
        if not _installed(package):
            return f"the package {package} is not installed", install
    return None


def _others(device: torch.device, but: str) -> str:
    there = [
        name
        for name, method in METHODS.items()
        if name != but and device.type in method.devices and all(map(_installed, method.packages))
    ]
    return f"here run {', '.join(there)}" if there else "run it on such a device"


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def quantise_by_hqq(model: Any, asked: Quantization) -> None:
    """Put HQQ's layers in the place of the linear ones, the output embedding aside.

    transformers 5 does not do it yet ("HQQ is not available yet", 5.24); this can go when it does.
    """
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    settings = BaseQuantizeConfig(nbits=int(asked.bits), group_size=HQQ_GROUP, axis=asked.axis)
    for name, layer in list(quantised_layers(model)):
        parent, _, own = name.rpartition(".")
        device, dtype = layer.weight.device, layer.weight.dtype
        setattr(model.get_submodule(parent), own, HQQLinear(layer, settings, compute_dtype=dtype, device=str(device)))
    model.hqq_quantized = True


def keep_layout(model: Any) -> None:
    """Keep bitsandbytes from laying out 4-bit weights anew in eval mode, on a CPU with AVX512-BF16.

    It rounds their scales to bfloat16 for good, and in a training step after it no gradient passes the layer
    (bitsandbytes 0.50, Linear4bit.forward); this can go when evaluation leaves the weights as they were.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def quantised_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Name and module of what a method quantises: linear layers but the output embedding."""
    import torch

    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            yield name, module


def is_quantised(model: Any) -> bool:
    """Whether a loaded model's weights are quantised."""
    return bool(getattr(model, "is_quantized", False) or getattr(model, "hqq_quantized", False))


@dataclass(frozen=True)
class Packed:
    """What quantised weights change in a memory plan.

    Attributes:
        whole: bytes of the weights that are read to be packed.
        saved: bytes that the packed weights are smaller by.
        unpacked: bytes of the largest layer as it is computed with.
    """

    whole: int
    saved: int
    unpacked: int


def packed_bytes(model: Any, asked: Quantization) -> Packed:
    """What quantising the linear layers of an unquantised model saves."""
    whole = saved = unpacked = 0
    for _, layer in quantised_layers(model):
        rows, values, itemsize = layer.weight.shape[0], layer.weight.numel(), layer.weight.element_size()
        packed = values * _width(asked) / 8 + METHODS[asked.method].scales(asked, values, rows, itemsize)
        whole += values * itemsize
        saved += values * itemsize - round(packed)
        unpacked = max(unpacked, values * itemsize)
    return Packed(whole, saved, unpacked)


def _width(asked: Quantization) -> float:
    """Bits of a packed value; HQQ packs ten values of 3 bits into 32."""
    if asked.bits == "float8":
        return 8
    return 3.2 if asked.bits == "3" else int(asked.bits)
