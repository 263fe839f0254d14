"""A model without storage: its shapes and names, for plans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config import ModelConfig
from swift.models.architecture import read_config
from swift.models.heads import Head
from swift.models.load import choose_loading
from swift.models.quantization import Packed, Quantization, packed_bytes, quantised_layers, stored_method
from swift.models.weights import stored_dtype, weight_files

if TYPE_CHECKING:
    import torch


@dataclass
class Skeleton:
    """A model on the meta device and how its weights would be loaded.

    Attributes:
        model: the model; its parameters have shapes and dtypes and no storage.
        dtype: of its weights.
        amp: the dtype for autocast in training, if any.
        attn: its attention implementation.
        device: where it would be.
        reasons: as `LoadedModel.reasons`.
        packed: what its weights take less, where they are quantised.
        mapped: whether its weights would be pages of its files, which stay in RAM where others take their place.
    """

    model: Any
    dtype: torch.dtype
    amp: torch.dtype | None
    attn: str
    device: torch.device
    reasons: dict[str, str]
    packed: Packed | None = None
    mapped: bool = False


def model_skeleton(path: Path, config: ModelConfig, head: Head | None = None) -> Skeleton:
    """Build the model in `path` on the meta device, with the choices that training would make.

    Raises:
        SwiftError: as `load_model`, for all that can be told without weights.
    """
    import torch

    quantization = Quantization.of(config)
    loading = choose_loading(
        path,
        dtype=config.torch_dtype or "auto",
        attn_impl=config.attn_impl,
        device_map=config.device_map,
        trust_remote_code=config.trust_remote_code,
        for_training=True,
        quantization=quantization,
        head=head,
        rope_scaling=config.rope_scaling,
        max_model_len=config.max_model_len,
    )
    extra = {"attn_implementation": loading.attn} if loading.attn else {}
    with torch.device("meta"):
        if hasattr(loading.loader, "from_config"):
            remote = {"trust_remote_code": config.trust_remote_code}
            model = loading.loader.from_config(loading.config, dtype=loading.dtype.dtype, **remote, **extra)
        else:
            model = loading.loader._from_config(loading.config, dtype=loading.dtype.dtype, **extra)
    attn = getattr(model.config, "_attn_implementation", None) or "eager"
    choice = loading.dtype
    packed = packed_bytes(model, quantization) if quantization is not None else _stored_packed(model, path)
    mapped = loading.device.type == "cpu" and stored_dtype(path) == str(choice.dtype).removeprefix("torch.")
    return Skeleton(model, choice.dtype, choice.amp, attn, loading.device, loading.reasons, packed, mapped)


def _stored_packed(model: Any, path: Path) -> Packed | None:
    """What a model that came quantised takes less: its files hold it as the device will."""
    if stored_method(read_config(path)) is None:
        return None
    whole = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    largest = max(layer.weight.numel() * layer.weight.element_size() for _, layer in quantised_layers(model))
    return Packed(0, whole - sum(file.stat().st_size for file in weight_files(path)), largest)
