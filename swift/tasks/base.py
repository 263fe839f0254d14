"""What a run asks of its task, from rows to figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from swift.config import Decisions
from swift.errors import SwiftError
from swift.objectives import objectives

if TYPE_CHECKING:
    import torch

    from swift.data import EncodedDataset, Layout
    from swift.data.collator import Lay
    from swift.data.encoding import Encoder
    from swift.models.heads import Head
    from swift.models.source import ModelSource
    from swift.objectives.types import Loss
    from swift.rows import Row, Source
    from swift.templates import Template

Gather = Callable[[Any], list[Any]]
"""Gives what every process has, to each of them."""

Chat = Literal["needed", "used", "unused"]

PlannedLoss = Callable[[Any, dict[str, Any], Any, Any], Any]
"""Model, inputs, places kept of each row, their labels -> what is differentiated, as `swift.plan.trace` calls it."""


class Evaluation(Protocol):
    """One pass over the rows for evaluation."""

    def add(self, model: Any, batch: dict[str, Any]) -> None:
        """Take in a micro-batch; the trainer calls it under autocast."""

    def result(self, gather: Gather) -> dict[str, float]:
        """The figures over all micro-batches of all processes, by name; `loss` among them."""


class Computation(Protocol):
    """What a task computes of micro-batches."""

    def units(self, batch: dict[str, Any]) -> torch.Tensor:
        """int64[], how many units of the loss a micro-batch has."""

    def prepared(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A micro-batch before it goes to the device, with what can be told of it there without waiting for it."""

    def begin(self, outputs: Callable[[dict[str, Any]], Any], batches: Sequence[Any], gather: Gather) -> None:
        """Before each step: look at all its micro-batches; `outputs` gives theirs without gradients."""

    def outputs(self, model: Any, batch: dict[str, Any]) -> Any:
        """What the model gives, as the objective takes it; the trainer calls it under autocast."""

    def loss(self, outputs: Any) -> Loss:
        """The objective's sum over the units of a micro-batch."""

    def evaluation(self) -> Evaluation:
        """Begin a pass over the rows for evaluation."""


class Task(ABC):
    """What a model is trained to give. A command has one, made from its options.

    Args:
        config: a command's configuration with `task`.

    Attributes:
        name: what `--task_type` calls it.
        losses: what `--loss_type` may be, besides names from plug-ins.
        eval_metrics: what `--eval_metric` may be.
        chat: whether texts need a chat template, take the model's own where it has one, or do without unless asked.
        from_tokens: what is trained are tokens: samples may share a sequence or be cut into several, and the model
            computes a loss from `labels` by itself.
    """

    name: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]
    eval_metrics: ClassVar[tuple[str, ...]] = ()
    chat: ClassVar[Chat] = "needed"
    from_tokens: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def check(self) -> None:
        """Stop at options of training that do not go with the task, before a row is read.

        Raises:
            SwiftError: it names the option.
        """

    def check_loss(self) -> None:
        """The part of `check` that is about `--loss_type` and `--eval_metric`."""
        train = self.config.train
        chosen = train.loss_type
        if chosen:
            objectives.check(chosen)
        if chosen and objectives.is_builtin(chosen) and chosen not in self.losses:
            raise SwiftError(
                f"--loss_type {chosen} with --task_type {self.name}",
                fix=f"choose one of: {', '.join(self.losses)}; or leave it out",
            )

    def start(self, recorded: dict[str, Any], model: dict[str, Any]) -> None:
        """Take from a checkpoint what its model gives.

        Args:
            recorded: what `record` told; empty where the checkpoint is of another task or of none.
            model: its config.json.

        Raises:
            SwiftError: the options ask for something else.
        """
        return

    def record(self) -> dict[str, Any]:
        """What a checkpoint has to tell about its task, as JSON values."""
        return {}

    @property
    def figures(self) -> dict[str, bool]:
        """What evaluation gives besides the loss: name -> whether more of it is better."""
        return {}

    def head(self, tokenizer: Any) -> Head | None:
        """The class of the model where it is not the one that config.json names."""
        return None

    def look(self, rows: Sequence[tuple[Row, Source]]) -> dict[str, Any]:
        """What has to be known of all rows before one is encoded, as JSON values; `take` gets it back."""
        return {}

    def take(self, facts: dict[str, Any]) -> None:
        """Take what `look` found, now or when samples that are kept were made."""
        return

    def identity(self) -> list[Any]:
        """What samples hang on besides rows and template, as JSON values."""
        return [self.name]

    @abstractmethod
    def encoder(self, template: Template, longest: int | None) -> Encoder:
        """What makes samples of rows; a text that it can cut to `longest` tokens by itself, it may."""

    def settle(self, source: ModelSource, sets: Sequence[EncodedDataset], decisions: Decisions) -> None:
        """Choose by the samples what the options leave open, and check these.

        Raises:
            SwiftError: samples do not fit the options or each other.
        """
        return

    def units(self, dataset: EncodedDataset) -> list[list[int]] | None:
        """Samples that make up one unit; None where each is one."""
        return None

    def layout(self, padded: Layout) -> Lay:
        """How samples become the tensors of a micro-batch."""
        return padded

    @abstractmethod
    def computation(self, model: Any, trained: int) -> Computation:
        """What is computed of micro-batches.

        Args:
            model: the tuned model.
            trained: trained tokens of the largest micro-batch.
        """

    @abstractmethod
    def planned(self, model: Any, trained: int) -> PlannedLoss:
        """The part of a step whose memory is planned, on tensors without contents."""

    def keep(self, model: Any, folder: Path) -> None:
        """Write what belongs into a checkpoint besides weights and record."""
        return
