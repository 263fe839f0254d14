"""Architectures whose classes a user brings."""

from __future__ import annotations

from typing import Any

from swift.registry import Registry

model_loaders: Registry[Any] = Registry("model loader", "model")
"""Classes with `from_pretrained` and `_from_config`, by the architecture that config.json names."""

model_loader = model_loaders.register
"""Decorator: `@model_loader("MyForCausalLM")` over such a class; its config is made known by `AutoConfig.register`."""
