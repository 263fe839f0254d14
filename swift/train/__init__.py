"""The training loop on `transformers.Trainer`: exact loss, exact resume, checkpoints that a kill cannot spoil."""

from __future__ import annotations

from swift.registry import Registry
from swift.tasks import Metric, metric, metrics

__all__ = ["Metric", "callback", "callbacks", "metric", "metrics"]

callbacks: Registry[type] = Registry("callback", "callbacks")
callback = callbacks.register
"""Decorator for a `transformers.TrainerCallback` class that `--callbacks NAME` adds to the run."""
