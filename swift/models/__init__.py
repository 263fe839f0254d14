"""Models by architecture: loading, saving, devices, dtypes and attention."""

from __future__ import annotations

from swift.models.devices import DeviceInfo, describe_devices
from swift.models.load import LoadedModel, load_config, load_model, load_tokenizer
from swift.models.registered import model_loader, model_loaders
from swift.models.save import save_pretrained, save_tokenizer

__all__ = [
    "DeviceInfo",
    "LoadedModel",
    "describe_devices",
    "load_config",
    "load_model",
    "load_tokenizer",
    "model_loader",
    "model_loaders",
    "save_pretrained",
    "save_tokenizer",
]
