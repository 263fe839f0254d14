"""What a model can be trained to give, one file each: its class, its samples, its loss and its figures.

A new task is a file here with a class under `@task(name)`, a line in `tasks`, and its name among the choices of
`--task_type`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swift.registry import Registry

if TYPE_CHECKING:
    from swift.tasks.base import Task

tasks: Registry[type[Task]] = Registry(
    "task",
    "task_type",
    {name: f"swift.tasks.{name}" for name in ("causal_lm", "seq_cls", "embedding", "reranker")}
    | {"generative_reranker": "swift.tasks.reranker"},
)
task = tasks.register

Metric = Callable[[Any, Any], dict[str, float]]
"""Takes predictions int64[k] (argmax) and labels int64[k] of a micro-batch's trained tokens; gives their sums."""

metrics: Registry[Metric] = Registry("metric", "eval_metric", {"acc": "swift.tasks.accuracy"})
metric = metrics.register
