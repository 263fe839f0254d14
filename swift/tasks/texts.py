"""What tasks share that look at a text as a whole: its tokens, its target, its place in a batch."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from swift.errors import SwiftError
from swift.rows import IGNORE, EncodedRow, Message, Row, Source
from swift.tasks.base import Chat, PlannedLoss, Task
from swift.templates.messages import text_of

if TYPE_CHECKING:
    import torch

    from swift.config import Decisions
    from swift.data import Layout
    from swift.models.source import ModelSource
    from swift.templates import Template

TOKEN_OPTIONS = ("enable_dft_loss", "enable_channel_loss", "chunked_cross_entropy", "label_smoothing_factor")
"""Options of the loss over tokens."""


class TextTask(Task):
    """A task whose model gives one thing for a whole text, in training and in inference alike."""

    chat: ClassVar[Chat] = "used"

    @property
    def loss_name(self) -> str:
        """The objective's name; commands that do not train have none of their own."""
        train = getattr(self.config, "train", None)
        return (train and train.loss_type) or self.losses[0]

    def check(self) -> None:
        """Stop at what goes with tokens only."""
        from swift.tuners.starts import reads_data

        data, train, what = self.config.data, self.config.train, f"--task_type {self.name}"
        self.check_loss()
        if self.config.predict.predict_with_generate:
            raise SwiftError(f"--predict_with_generate true with {what}: it gives no text", fix="leave it out")
        for option in ("packing", "padding_free"):
            if getattr(data, option):
                raise SwiftError(f"--{option} true with {what}: each text has a row of its own", fix="leave it out")
        if self.config.template.truncation_strategy == "split":
            raise SwiftError(
                f"--truncation_strategy split with {what}: parts of a text would all have its target",
                fix="choose right, left, delete or raise",
            )
        given = {name: getattr(train, name, train.more.get(name)) for name in TOKEN_OPTIONS}
        for name, value in given.items():
            if value:
                raise SwiftError(f"--{name} with {what}: there is no loss over tokens", fix="leave it out")
        if train.eval_metric and train.eval_metric not in self.eval_metrics:
            raise SwiftError(
                f"--eval_metric {train.eval_metric} with {what}",
                fix=f"leave it out: evaluation gives loss, {', '.join(self.figures)}",
            )
        tuner = self.config.tuner
        if reads_data(tuner) or tuner.train_type in ("prompt", "prefix"):
            kind = f"--init_weights {tuner.init_weights}" if reads_data(tuner) else f"--train_type {tuner.train_type}"
            raise SwiftError(f"{kind} with {what}: it is for models of text", fix="choose another")

    def encoder(self, template: Template, longest: int | None) -> TextEncoder:
        """Texts with their targets."""
        strategy = getattr(self.config.template, "truncation_strategy", None)
        return TextEncoder(template, self.samples, longest if strategy in ("left", "right") else None, strategy)

    @abstractmethod
    def samples(self, row: Row, ids_of: IdsOf) -> list[EncodedRow]:
        """The samples of a row; `ids_of` gives the tokens of a conversation.

        Raises:
            SwiftError: the row has not what the task trains.
        """

    def layout(self, padded: Layout) -> TextLayout:
        """Padded texts with their targets."""
        return TextLayout(padded, self.targets)

    @abstractmethod
    def targets(self, samples: Sequence[EncodedRow]) -> torch.Tensor:
        """What is trained of the samples of a micro-batch."""

    def planned(self, model: Any, trained: int) -> PlannedLoss:
        """The sum of what the model gives."""

        def loss(model: Any, inputs: dict[str, Any], kept: Any, targets: Any) -> Any:
            return self.forward(model, inputs).float().sum()

        return loss

    @abstractmethod
    def forward(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """What the model gives for each text of a batch: float[texts, n]."""

    @abstractmethod
    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Figures over a whole set, from float32[texts, n] and what `targets` gives of it."""

    # Inference

    def open(self, source: ModelSource, decisions: Decisions) -> None:
        """What inference has to know of the model before it is loaded."""
        return

    def asked(self, row: Row, ids_of: IdsOf) -> list[EncodedRow]:
        """The texts of a row that the model is asked about, with their targets where the row has them."""
        if row.get("label") is not None:
            return self.samples(row, ids_of)
        return [text_sample(ids_of(row["messages"]))]

    @abstractmethod
    def told(self, outputs: np.ndarray) -> dict[str, Any]:
        """What inference tells of a row, as JSON values, from float32[texts, n] of its texts: `response`, and more."""


IdsOf = Callable[..., np.ndarray]
"""Gives the tokens of a conversation, or of a conversation with a passage behind it."""

PAIR = "<Query>: {query}\n<Document>: {document}"
"""A question and a passage as one turn of the user, as Qwen3-Reranker's model card writes them."""


class TextEncoder:
    """Makes samples of rows, with tokens as the template gives them.

    Args:
        template: renders conversations; without a chat template a text gets what the tokenizer puts around it.
        samples: makes the samples of a row, given what makes tokens.
        longest: tokens to which a text without a chat template is cut, inside what the tokenizer puts around it.
        side: which side is cut off.
    """

    labels_are_targets = True

    def __init__(
        self,
        template: Template,
        samples: Callable[[Row, IdsOf], list[EncodedRow]],
        longest: int | None = None,
        side: str | None = None,
    ) -> None:
        self.template, self.make = template, samples
        self.cut: dict[str, Any] = {} if longest is None else {"truncation": True, "max_length": longest}
        if longest is not None:
            template.tokenizer.truncation_side = side

    @property
    def notes(self) -> Counter[str]:
        """The template's counted warnings."""
        return self.template.notes

    def encode(self, row: Row, source: Source | None = None) -> list[EncodedRow]:
        """The samples of a row.

        Raises:
            SwiftError: the template refuses it, or it has not what the task trains.
        """
        try:
            return self.make(row, lambda messages, passage=None: self.ids(messages, passage, row.get("tools")))
        except SwiftError as error:
            raise SwiftError(error.what, where=None if source is None else str(source), fix=error.fix) from error

    def ids(
        self, messages: Sequence[Message], passage: Sequence[Message] | None = None, tools: Any = None
    ) -> np.ndarray:
        """int32[n], the tokens of a conversation as a whole, or of one with a passage.

        By the chat template: as a server sends it, up to where an answer would begin, or to the end of the answer
        where there is one. Without: the contents, between what the tokenizer puts around a text, as in BERT's
        `[CLS] … [SEP]`.
        """
        template = self.template
        if not template.use_chat_template:
            texts = [_joined(template.conversation(messages)), *([] if passage is None else [_joined(passage)])]
            as_text = template.special_tokens_in_content != "allow"
            ids = template.tokenizer(*texts, split_special_tokens=as_text, **self.cut).input_ids
        elif passage is not None:
            system = [message for message in messages if message["role"] == "system"]
            asked = _joined([message for message in messages if message["role"] != "system"])
            content = PAIR.format(query=asked, document=_joined(passage))
            ids = template.prompt([*system, {"role": "user", "content": content}])
        elif messages[-1]["role"] == "assistant":
            ids = template.encode({"messages": list(messages), "tools": tools})[-1].input_ids
        else:
            ids = template.prompt(messages, tools)
        return np.asarray(ids, dtype=np.int32)


def _joined(messages: Sequence[Message]) -> str:
    return "".join(text_of(message) for message in messages)


def text_sample(ids: np.ndarray, target: Any = None) -> EncodedRow:
    """A text with its target, if any."""
    aim = None if target is None else np.asarray(target, dtype=np.float32)
    return EncodedRow(ids, np.full(len(ids), IGNORE, np.int32), target=aim)


@dataclass(frozen=True)
class TextLayout:
    """Pads texts and lays what is trained of them beside.

    Args:
        padded: lays the tokens.
        targets: gives what is trained of the samples.
    """

    padded: Layout
    targets: Callable[[Sequence[EncodedRow]], Any]

    def __call__(self, samples: Sequence[EncodedRow]) -> dict[str, Any]:
        """The batch of these texts; no sample gives a stand-in without a target.

        Returns:
            input_ids, attention_mask: int64[texts, length]; targets: as the task makes them.
        """
        batch: dict[str, Any] = self.padded(samples)
        del batch["labels"]
        return batch | {"targets": self.targets(samples)}
