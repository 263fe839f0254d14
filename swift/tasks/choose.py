"""The task of a command: what an option says, or what the checkpoint or the model was made for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swift.config import Decisions
from swift.errors import SwiftError
from swift.tasks import tasks
from swift.tasks.base import Task

if TYPE_CHECKING:
    from swift.models.source import ModelSource


def check_early(config: Any) -> None:
    """Stop at options that do not go with the task, as far as these name one, before the model is looked at.

    Raises:
        SwiftError: it names the option.
    """
    kinds = [config.task.task_type] if config.task.task_type else list(tasks)
    problems = []
    for kind in kinds:
        try:
            return tasks.get(kind)(config).check()
        except SwiftError as error:
            problems.append(error)
    # The most usual of the tasks says what is wrong.
    raise problems[0]


def open_task(config: Any, source: ModelSource, decisions: Decisions) -> Task:
    """The task, with what a checkpoint says of it.

    Args:
        config: a command's configuration with `task`; takes what is found.
        source: the model.
        decisions: takes a note of what was chosen.

    Raises:
        SwiftError: the options ask for something else than the checkpoint gives.
    """
    options, recorded = config.task, source.record.task
    if options.task_type is None:
        options.task_type, why = _found(source)
        if options.task_type != "causal_lm":
            decisions.add("task_type", options.task_type, "model", why)
    task = tasks.get(options.task_type)(config)
    task.start(recorded if recorded.get("task_type") == task.name else {}, source.config)
    return task


def _found(source: ModelSource) -> tuple[str, str]:
    """What a model was made for, and what says so."""
    if "task_type" in source.record.task:
        return source.record.task["task_type"], f"task.json in {source.record.folder}"
    if any(name.endswith("ForSequenceClassification") for name in source.config.get("architectures") or []):
        return "seq_cls", f"{source.config['architectures'][0]} in config.json"
    if (source.path / "modules.json").is_file():
        return "embedding", "modules.json of sentence-transformers"
    return "causal_lm", "text"
