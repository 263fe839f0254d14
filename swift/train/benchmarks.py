"""Evaluation by EvalScope in a run: the model in training is served, and asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config import SftConfig
from swift.config.evaluate import EvaluateConfig
from swift.config.fields import options_in
from swift.errors import SwiftError
from swift.train import distributed

if TYPE_CHECKING:
    from swift.evaluate.installed import EvalScope
    from swift.templates import Template


def check_benchmarks(config: SftConfig) -> None:
    """Stop where EvalScope has nothing to ask, before anything is loaded.

    Raises:
        SwiftError: it names the option.
    """
    from swift.train.arguments import eval_strategy

    given = [name for name in options_in(EvaluateConfig, "evaluate") if getattr(config.evaluate, name)]
    if not config.evaluate.eval_use_evalscope:
        if given:
            raise SwiftError(f"--{given[0]} has no effect here", fix="add --eval_use_evalscope true, or leave it out")
        return
    if eval_strategy(config) == "no":
        raise SwiftError(
            "--eval_use_evalscope: there is no evaluation",
            fix="add --val_dataset or --split_dataset_ratio 0.05, and leave --eval_strategy no out",
        )
    distributed.from_main(lambda: _harness(config).check(config.evaluate))


def _harness(config: SftConfig) -> EvalScope:
    from swift.evaluate.installed import EvalScope

    return EvalScope(config.evaluate.evalscope_python)


class Benchmarks:
    """Lets EvalScope ask a model; the first process answers, and the others wait for it.

    Args:
        template: renders the questions and reads the answers.
        at_once: answers that are generated at once.
        folder: EvalScope's files go to a folder of each step in it.
    """

    def __init__(self, config: SftConfig, template: Template, at_once: int, folder: Path) -> None:
        self.config, self.template, self.at_once, self.folder = config, template, at_once, folder

    def figures(self, model: Any, step: int, around: Callable[[], AbstractContextManager[Any]]) -> dict[str, float]:
        """The main score of each data set, by its name.

        Args:
            model: the unwrapped model; it is left in eval mode, and nothing else of it changes.
            step: the number of steps done.
            around: makes the context in which the model computes in training.

        Raises:
            SwiftError: EvalScope fails.
        """
        return distributed.from_main_at_length(lambda: self._ask(model, step, around))

    def _ask(self, model: Any, step: int, around: Callable[[], AbstractContextManager[Any]]) -> dict[str, float]:
        from swift.engines import PtEngine
        from swift.evaluate.installed import task_of
        from swift.evaluate.results import Result, append
        from swift.serve.server import Server
        from swift.serve.service import Limits, Service

        name, folder = f"step-{step}", self.folder / f"step-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        engine = PtEngine((model, self.template), max_batch_size=self.at_once, around=around)
        with Server(Service(engine, name, limits=Limits(clamps=True))) as server:
            task = task_of(self.config.evaluate, f"{server.url}/v1", name, folder)
            found = _harness(self.config).run(task, folder / "evalscope.log")
        engine.forget()
        results = [Result.of(name, each) for each in found]
        append(self.folder / "eval_result.jsonl", results)
        for result in results:
            result.warn()
        return {result.dataset: result.score for result in results}
