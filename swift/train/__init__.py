"""The training loop on `transformers.Trainer`: exact loss, exact resume, checkpoints that a kill cannot spoil."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from swift.registry import Registry

callbacks: Registry[type] = Registry("callback", "callbacks")
callback = callbacks.register
"""Decorator for a `transformers.TrainerCallback` class that `--callbacks NAME` adds to the run."""

Metric = Callable[[Any, Any], dict[str, float]]
"""Takes predictions int64[k] (argmax) and labels int64[k] of a micro-batch's trained tokens; gives their sums."""

metrics: Registry[Metric] = Registry("metric", "eval_metric", {"acc": "swift.train.accuracy"})
metric = metrics.register
