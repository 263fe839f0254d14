"""The task of embedders: texts that belong together get embeddings that point the same way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swift.config import Decisions
from swift.config.fields import _bool
from swift.errors import SwiftError
from swift.models import load_config
from swift.models.heads import Head, without_cache
from swift.models.pooling import Pooling, find_pooling, write_modules
from swift.models.save import save_tokenizer
from swift.rows import EncodedRow, Message, Row
from swift.tasks import task
from swift.tasks.texts import IdsOf, TextTask, text_sample

if TYPE_CHECKING:
    import torch

    from swift.data import EncodedDataset
    from swift.models.source import ModelSource
    from swift.objectives.types import Objective
    from swift.tasks.groups import GroupComputation

BINARY = ("contrastive", "online_contrastive")
"""Losses whose scores are 0 or 1."""

VARIABLES: dict[str, tuple[str, Any]] = {
    "INFONCE_TEMPERATURE": ("temperature", float),
    "INFONCE_USE_BATCH": ("use_batch", _bool),
    "INFONCE_MASK_FAKE_NEGATIVE": ("mask_fake_negative", _bool),
    "INFONCE_FAKE_NEG_MARGIN": ("fake_negative_margin", float),
    "INFONCE_INCLUDE_QQ": ("include_qq", _bool),
    "INFONCE_INCLUDE_DD": ("include_dd", _bool),
    "INFONCE_HARD_NEGATIVES": ("hard_negatives", int),
}
"""Environment variable -> the argument of `infonce`, or the number of an anchor's own negatives, and how it is read."""


@task("embedding")
class Embedding(TextTask):
    """Anchors and passages, each pooled into one embedding."""

    name, chat, eval_metrics = "embedding", "unused", ("infonce", "paired")
    losses = ("infonce", "cosine_similarity", "contrastive", "online_contrastive")

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.pooling: Pooling | None = None
        self.source: ModelSource | None = None

    def start(self, recorded: dict[str, Any], model: dict[str, Any]) -> None:
        """Pool as a checkpoint was trained to."""
        if recorded:
            self.pooling = Pooling(recorded["pooling"], recorded["normalised"], "task.json of the checkpoint")

    def record(self) -> dict[str, Any]:
        """How the model pools."""
        assert self.pooling is not None
        return {"pooling": self.pooling.mode, "normalised": self.pooling.normalised}

    @property
    def figures(self) -> dict[str, bool]:
        """Likeness of positives over negatives, places of positives among all passages, correlation with scores."""
        return dict.fromkeys(("margin", "mrr", "recall_at_1", "pearson", "spearman"), True)

    def check(self) -> None:
        """Stop at streams, and at variables and dimensions that are no numbers, too."""
        super().check()
        if self.config.data.streaming:
            raise SwiftError("--streaming true with --task_type embedding: its units are rows", fix="leave it out")
        infonce_settings()
        mrl_dims(self.config.task.mrl_dims)

    def head(self, tokenizer: Any) -> Head:
        """The model without an output embedding."""
        return Head("AutoModel", {}, f"--task_type {self.name}")

    # Rows

    def identity(self) -> list[Any]:
        """Which passages are taken hangs on the loss."""
        return [self.name, self.loss_name, infonce_settings().get("hard_negatives")]

    def samples(self, row: Row, ids_of: IdsOf) -> list[EncodedRow]:
        """The anchor, whose target is empty, and its passages with their scores."""
        anchor, positives = split_answer(row)
        negatives = row.get("negatives", [])
        if self.loss_name == "infonce" and (most := infonce_settings().get("hard_negatives")) is not None:
            negatives = negatives[:most]
        if not positives:
            raise SwiftError("the row has no positive", fix="give it one: positive_messages, positive, or an answer")
        label = row.get("label")
        given = label if isinstance(label, list) else [label] * len(positives)
        if len(given) != len(positives) or any(isinstance(each, str) for each in given):
            raise SwiftError(f"label {label!r} is no score for each of {len(positives)} positives", fix="give numbers")
        scores = [1.0 if each is None else float(each) for each in given]
        if self.loss_name in BINARY and set(scores) - {0.0, 1.0}:
            raise SwiftError(
                f"label {label!r} with --loss_type {self.loss_name}, whose labels are 0 and 1",
                fix="--loss_type cosine_similarity takes other scores",
            )
        if self.loss_name == "infonce" and max(scores) < 0.5:
            raise SwiftError("no passage of the row is a positive: its label is below 0.5", fix="take the row out")
        passages = [*zip(positives, scores, strict=True), *((passage, 0.0) for passage in negatives)]
        return [
            text_sample(ids_of(anchor), ()),
            *(text_sample(ids_of(passage), [score]) for passage, score in passages),
        ]

    def settle(self, source: ModelSource, sets: Sequence[EncodedDataset], decisions: Decisions) -> None:
        """Choose how token states are pooled; stop at dimensions that the model has not."""
        self.open(source, decisions)
        size = int(source.config.get("hidden_size") or 0)
        for dimensions in mrl_dims(self.config.task.mrl_dims):
            if size and dimensions > size:
                raise SwiftError(f"--mrl_dims {dimensions}: an embedding has {size} numbers", fix=f"at most {size}")

    def open(self, source: ModelSource, decisions: Decisions) -> None:
        """Find how the model pools."""
        self.source = source
        if self.pooling is None:
            trusted = self.config.model.trust_remote_code
            self.pooling = find_pooling(source.path, load_config(source.path, trust_remote_code=trusted))
        decisions.add("pooling", self.pooling.mode, "model", self.pooling.why)

    def units(self, dataset: EncodedDataset) -> list[list[int]]:
        """An anchor with its passages."""
        assert dataset.target_sizes is not None
        starts = [*np.flatnonzero(np.asarray(dataset.target_sizes) == 0).tolist(), len(dataset)]
        return [list(range(start, stop)) for start, stop in pairwise(starts)]

    def targets(self, samples: Sequence[EncodedRow]) -> torch.Tensor:
        """float32[texts, 2]: the anchor's number, and the score of a passage or -1 for the anchor itself."""
        import torch

        number, rows = -1, []
        for sample in samples:
            if sample.target is None:
                continue
            number += not len(sample.target)
            rows.append([float(number), float(sample.target[0]) if len(sample.target) else -1.0])
        return torch.tensor(rows, dtype=torch.float32).reshape(-1, 2)

    # Computation

    def forward(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """float[texts, d], embeddings that are not normalised yet."""
        assert self.pooling is not None
        states = model(**inputs, **without_cache(model)).last_hidden_state
        mask = inputs.get("attention_mask")
        return self.pooling(states, inputs["input_ids"].new_ones(states.shape[:2]) if mask is None else mask)

    def computation(self, model: Any, trained: int) -> GroupComputation:
        """Embeddings, and a loss over them."""
        from swift.objectives import objectives
        from swift.tasks.groups import GroupComputation

        name, train = self.loss_name, self.config.train
        settings = infonce_settings() if name == "infonce" else {}
        settings.pop("hard_negatives", None)
        objective: Objective = partial(objectives.get(name), **settings)
        size = train.per_device_train_batch_size * (train.gradient_accumulation_steps or 1)
        return GroupComputation(
            self.forward,
            nested(objective, mrl_dims(self.config.task.mrl_dims)),
            only_positives=name == "infonce",
            together=name == "online_contrastive" or (name == "infonce" and settings.get("use_batch", True)),
            evaluated_together=max(size, 1),
        )

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Nothing of single texts."""
        return {}

    def keep(self, model: Any, folder: Path) -> None:
        """What sentence-transformers loads the folder by; beside an adapter, its tokenizer too."""
        assert self.pooling is not None and self.source is not None
        longest = getattr(getattr(self.config, "template", None), "max_length", None)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        config = inner.config.get_text_config()
        if hasattr(model, "peft_config") and not (folder / "tokenizer_config.json").is_file():
            save_tokenizer(self.source.tokenizer_folder, folder)
        longest = longest or getattr(config, "max_position_embeddings", None)
        write_modules(folder, self.pooling, config.hidden_size, longest)

    # Inference

    def asked(self, row: Row, ids_of: IdsOf) -> list[EncodedRow]:
        """The anchor."""
        return [text_sample(ids_of(row["messages"]))]

    def told(self, outputs: np.ndarray) -> dict[str, Any]:
        """The embedding."""
        assert self.pooling is not None
        row = outputs[0] / np.linalg.norm(outputs[0]) if self.pooling.normalised else outputs[0]
        return {"response": row.tolist()}


def split_answer(row: Row) -> tuple[Sequence[Message], list[list[Message]]]:
    """The anchor and its positives; an answer is the positive where the row names none."""
    messages = row["messages"]
    if row.get("positives"):
        return messages, row["positives"]
    if messages[-1]["role"] == "assistant" and len(messages) > 1:
        return messages[:-1], [[messages[-1]]]
    return messages, []


def infonce_settings() -> dict[str, Any]:
    """What the environment says about InfoNCE.

    Raises:
        SwiftError: a variable does not hold what it should.
    """
    found: dict[str, Any] = {}
    for variable, (name, read) in VARIABLES.items():
        if variable not in os.environ:
            continue
        try:
            found[name] = read(os.environ[variable])
        except ValueError:
            raise SwiftError(
                f"{variable}={os.environ[variable]} in the environment is no {read.__name__.strip('_')}", fix="unset it"
            ) from None
    if found.get("temperature", 1) <= 0:
        raise SwiftError(f"INFONCE_TEMPERATURE={found['temperature']} must be more than 0", fix="0.01 to 0.1 is usual")
    return found


def mrl_dims(given: dict[str, Any] | None) -> dict[int, float]:
    """Numbers of an embedding -> the weight of their loss.

    Raises:
        SwiftError: they are none.
    """
    try:
        dims = {int(name): float(weight) for name, weight in (given or {}).items()}
    except (TypeError, ValueError):
        dims = {0: 0.0}
    if any(size < 1 for size in dims):
        raise SwiftError(f"--mrl_dims {given}: not numbers with their weights", fix='write {"384": 1, "64": 0.5}')
    return dims


def nested(objective: Objective, dims: dict[int, float]) -> Objective:
    """The objective over the first numbers of embeddings, weighed and added up: Matryoshka representation learning.

    Kusupati et al., 2022 (arXiv 2205.13147), eq. 1. Without dimensions it is the objective itself.
    """
    import torch

    from swift.objectives.types import Loss

    if not dims:
        return objective

    def loss(outputs: Any) -> Loss:
        parts = [weight * objective(outputs.first(size)).total for size, weight in dims.items()]
        return Loss(torch.stack(parts).sum())

    return loss
