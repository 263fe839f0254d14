"""Models that give one thing for a whole text: classes, scores, embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from swift.compat import quiet_libraries
from swift.config.decisions import Decisions
from swift.data import Layout
from swift.engines.options import load_source_model, read_options
from swift.errors import SwiftError
from swift.models.tokenizer import pad_id
from swift.rows import EncodedRow, Message
from swift.tasks.texts import TextTask, text_sample

if TYPE_CHECKING:
    from swift.models.source import ModelSource
    from swift.templates import Template

Text = str | Sequence[Message] | list[int]
"""A text, a conversation, or token ids."""

EMBEDDERS, CLASSIFIERS = ("embedding",), ("seq_cls",)
RERANKERS = ("reranker", "generative_reranker")


class TextEngine:
    """Embeds, scores or classifies texts with a model in this process, those of like length together.

    Args:
        model: a model's name or folder, or a loaded `(model, task, template)`.
        max_batch_size: texts at once.
        max_length: longest text in tokens; None means the model's limit, which a loaded model does not tell.
        load_args: take template and system text from the adapter or checkpoint.
        options: the options of task, model and template that `swift infer` takes, by their names: `task_type` where
            neither checkpoint nor model says what it gives, `adapters`, `torch_dtype`, …

    Raises:
        SwiftError: an option is unknown; the model cannot be found or loaded, or is one that writes text.
    """

    def __init__(
        self,
        model: str | tuple[Any, TextTask, Template] | None,
        *,
        max_batch_size: int = 8,
        max_length: int | None = None,
        load_args: bool = True,
        **options: Any,
    ) -> None:
        if max_batch_size < 1:
            raise SwiftError(f"max_batch_size is {max_batch_size}; it must be at least 1", fix="8 is usual")
        if not isinstance(model, tuple):
            model, limit = _load(model, options, load_args)
            max_length = max_length or limit
        elif options:
            raise SwiftError(
                f"{', '.join(options)}: no effect on a model and a task that are loaded",
                fix="load them with it, or name the model instead",
            )
        loaded, self.task, self.template = model
        self.model, self.tokenizer = loaded.eval(), self.template.tokenizer
        self.max_batch_size, self.context = max_batch_size, max_length
        self.layout = Layout(pad_token_id=pad_id(self.tokenizer), padding_free=False)
        self._ids_of = self.task.encoder(self.template, None).ids

    def embed(self, texts: Sequence[Text], dimensions: int | None = None) -> np.ndarray:
        """The embeddings of texts, float32[texts, n]; `dimensions` keeps the first so many numbers.

        Raises:
            SwiftError: this is no embedder, a text cannot be taken, or an embedding has fewer dimensions.
        """
        self.check_kind(*EMBEDDERS)
        outputs = self._all([self.sample(text) for text in texts])
        return np.array([self.embedding(output, dimensions) for output in outputs], np.float32)

    def score(self, question: Text, passages: Sequence[Text], *, activation: bool = True) -> list[float]:
        """How well each passage answers a question: a reranker's probability, or the cosine of embeddings.

        Args:
            question: the question.
            passages: the passages.
            activation: give a reranker's probabilities, not its logits.

        Raises:
            SwiftError: this is neither a reranker nor an embedder, or a text cannot be taken.
        """
        self.check_kind(*RERANKERS, *EMBEDDERS)
        if self.task.name in EMBEDDERS:
            one, *others = self._all([self.sample(text) for text in (question, *passages)])
            return [cosine(one, other) for other in others]
        return self.scores(self._all([self.sample(question, passage) for passage in passages]), activation)

    def rerank(self, question: Text, passages: Sequence[Text], top_n: int | None = None) -> list[tuple[int, float]]:
        """The numbers of the passages with their scores, the best first; `top_n` of them.

        Raises:
            SwiftError: as `score`.
        """
        found = self.score(question, passages)
        return sorted(enumerate(found), key=lambda pair: -pair[1])[:top_n]

    def classify(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """Of each text `response`: its class, its classes or its scores; `probs`, the probability of each class.

        Raises:
            SwiftError: this is no classifier, or a text cannot be taken.
        """
        self.check_kind(*CLASSIFIERS)
        return [self.task.told(output[None]) for output in self._all([self.sample(text) for text in texts])]

    def check_kind(self, *kinds: str) -> None:
        """Stop where the model's task is none of these.

        Raises:
            SwiftError: it says what the model gives.
        """
        if self.task.name not in kinds:
            raise SwiftError(f"this model's task is {self.task.name}", fix=f"this is for {' and '.join(kinds)}")

    def sample(self, text: Text, passage: Text | None = None) -> EncodedRow:
        """The tokens of a text, or of a question with a passage.

        Raises:
            SwiftError: it is empty or too long, or an id is none of the tokenizer's.
        """
        if passage is None and isinstance(text, list) and text and all(isinstance(token, int) for token in text):
            most = len(self.tokenizer)
            if wrong := [token for token in text if not 0 <= token < most]:
                raise SwiftError(
                    f"{wrong[0]} is no token id: there are {most}", fix="give ids of this model's tokenizer"
                )
            ids = np.asarray(text, dtype=np.int32)
        elif not isinstance(text, str) and not text:
            ids = np.zeros(0, np.int32)
        else:
            ids = self._ids_of(*(_turns(part) for part in (text, passage) if part is not None))
        if not len(ids):
            raise SwiftError("a text has no tokens", fix="give it some")
        if self.context is not None and len(ids) > self.context:
            raise SwiftError(f"a text has {len(ids)} tokens; the model takes {self.context}", fix="shorten it")
        return text_sample(ids)

    @torch.inference_mode()
    def outputs(self, samples: Sequence[EncodedRow]) -> Iterator[tuple[int, np.ndarray]]:
        """The place of each text and float32[n], what the model gives for it; the longest first."""
        order = sorted(range(len(samples)), key=lambda at: -samples[at].length)
        for start in range(0, len(order), self.max_batch_size):
            places = order[start : start + self.max_batch_size]
            batch = self.layout([samples[at] for at in places])
            del batch["labels"]
            inputs = {name: value.to(self.model.device) for name, value in batch.items()}
            try:
                found = self.task.forward(self.model, inputs).float().cpu().numpy()
            except torch.OutOfMemoryError as error:
                raise SwiftError(
                    f"{len(places)} texts of {samples[places[0]].length} tokens do not fit into the device's memory",
                    fix="lower --max_batch_size",
                ) from error
            yield from zip(places, found, strict=True)

    def _all(self, samples: Sequence[EncodedRow]) -> list[np.ndarray]:
        found = dict(self.outputs(samples))
        return [found[at] for at in range(len(samples))]

    def embedding(self, output: np.ndarray, dimensions: int | None = None) -> np.ndarray:
        """float32[n], the embedding that the model's output for a text makes.

        Raises:
            SwiftError: it has fewer dimensions.
        """
        if dimensions is not None and not 1 <= dimensions <= len(output):
            raise SwiftError(f"dimensions is {dimensions}; there are {len(output)}", fix="ask for fewer")
        return np.asarray(self.task.told(output[None, :dimensions])["response"], dtype=np.float32)

    def scores(self, outputs: Sequence[np.ndarray], activation: bool) -> list[float]:
        """A reranker's probabilities, or logits, of its outputs for passages."""
        told = self.task.told(np.stack(outputs)) if len(outputs) else {"response": [], "logits": []}
        return told["response"] if activation else told["logits"]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """How alike two embeddings are."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def _turns(text: Text) -> Sequence[Message]:
    """A text as a conversation.

    Raises:
        SwiftError: it is token ids, which no template can set beside another text.
    """
    if isinstance(text, str):
        return [Message(role="user", content=text)]
    turns = [turn for turn in text if not isinstance(turn, int)]
    if len(turns) < len(text):
        raise SwiftError("a question and its passage are token ids", fix="give both as texts or as messages")
    return turns


def open_texts(
    source: ModelSource, config: Any, task: TextTask, decisions: Decisions, *, load_args: bool = True
) -> Template:
    """The template of a model of texts, before it is loaded; the task then knows the model.

    Args:
        source: the model.
        config: a command's configuration with model and template.
        task: what the model gives.
        decisions: takes what is chosen.
        load_args: take the template from the adapter or checkpoint.

    Raises:
        SwiftError: tokenizer or template cannot be read.
    """
    from swift.templates.choose import choose_template

    task.open(source, decisions)
    quiet_libraries()
    tokenizer = source.load_tokenizer(config.model.trust_remote_code)
    recorded = source.recorded_template if load_args else None
    return choose_template(tokenizer, config.template, decisions, recorded, task.chat)


def load_texts(source: ModelSource, config: Any, task: TextTask, template: Template, decisions: Decisions) -> Any:
    """The loaded model of a task, with its adapters.

    Raises:
        SwiftError: weights or adapters are not as they should be.
    """
    return load_source_model(source, config.model, decisions, task.head(template.tokenizer))


def _load(
    model: str | None, options: dict[str, Any], load_args: bool
) -> tuple[tuple[Any, TextTask, Template], int | None]:
    """The model that options name, and the longest text that it takes."""
    from swift.config.task import TaskConfig
    from swift.models.length import settle_length
    from swift.models.load import check_loading
    from swift.models.quantization import settle_quantization
    from swift.models.source import find_source
    from swift.tasks.choose import open_task

    config, decisions = read_options(model, options, {"task": TaskConfig}), Decisions()
    check_loading(config.model)
    source = find_source(config.model, decisions)
    if load_args:
        settle_quantization(config.model, source.record, decisions)
    settle_length(config.model, source, decisions, recorded=load_args)
    task = open_task(config, source, decisions)
    if not isinstance(task, TextTask):
        raise SwiftError(
            f"{source.base} writes text", fix="ask it with PtEngine, or say what it gives: task_type='embedding'"
        )
    template = open_texts(source, config, task, decisions, load_args=load_args)
    return (load_texts(source, config, task, template, decisions), task, template), source.limit
