"""The tasks of rerankers: how well a passage answers a question."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from swift.errors import SwiftError
from swift.models.heads import Head, without_cache
from swift.models.tokenizer import pad_id
from swift.rows import EncodedRow, Row
from swift.tasks import task
from swift.tasks.embedding import split_answer
from swift.tasks.texts import IdsOf, TextTask, text_sample

if TYPE_CHECKING:
    import torch

    from swift.data import EncodedDataset
    from swift.objectives.types import Objective
    from swift.tasks.ranks import RankComputation


@task("reranker")
class Reranker(TextTask):
    """A classifier of one score over question and passage, as sentence-transformers' CrossEncoder."""

    name, eval_metrics = "reranker", ("reranker",)
    losses: ClassVar[tuple[str, ...]] = ("pointwise_reranker", "listwise_reranker")

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.separator: int | None = None

    @property
    def figures(self) -> dict[str, bool]:
        """Of the order of each question's passages."""
        return {"mrr": True, "ndcg": True}

    def check(self) -> None:
        """Stop at streams, too: their units are rows."""
        super().check()
        list_settings()
        if self.config.data.streaming:
            raise SwiftError(f"--streaming true with --task_type {self.name}: its units are rows", fix="leave it out")

    def record(self) -> dict[str, Any]:
        """Nothing but the task's name has to be known."""
        return {"num_labels": 1}

    def head(self, tokenizer: Any) -> Head | None:
        """A classifier with one score."""
        if "token_type_ids" in tokenizer.model_input_names:
            self.separator = tokenizer.sep_token_id
        settings = {"num_labels": 1, "pad_token_id": pad_id(tokenizer)}
        return Head("AutoModelForSequenceClassification", settings, f"--task_type {self.name}")

    # Rows

    def identity(self) -> list[Any]:
        """Which rows can be used hangs on the loss."""
        return [self.name, self.loss_name, list_settings()["least"]]

    def samples(self, row: Row, ids_of: IdsOf) -> list[EncodedRow]:
        """The question with each passage; the target is the passage's score, and whether it is the row's first."""
        found = self.asked(row, ids_of)
        least = list_settings()["least"]
        if "listwise" in self.loss_name and len(found) < least:
            raise SwiftError(
                f"the row has {len(found)} passages, and --loss_type {self.loss_name} compares {least} or more",
                fix="give it negatives, or take --loss_type pointwise_reranker",
            )
        return found

    def asked(self, row: Row, ids_of: IdsOf) -> list[EncodedRow]:
        """The same, for any number of passages."""
        question, positives = split_answer(row)
        scored = [*((passage, 1.0) for passage in positives), *((passage, 0.0) for passage in row.get("negatives", []))]
        label = row.get("label")
        if label is not None and len(positives) == 1 and not isinstance(label, list | str):
            scored[0] = (positives[0], float(label))
        if not scored:
            raise SwiftError("the row has no passage", fix="give it positive_messages, positive, or an answer")
        texts = (ids_of(question, passage) for passage, _ in scored)
        return [
            text_sample(ids, [score, float(at == 0)])
            for at, (ids, (_, score)) in enumerate(zip(texts, scored, strict=True))
        ]

    def units(self, dataset: EncodedDataset) -> list[list[int]]:
        """A question with its passages."""
        groups: list[list[int]] = []
        for number in range(len(dataset)):
            target = dataset.target(number)
            assert target is not None
            if target[1]:
                groups.append([])
            groups[-1].append(number)
        return groups

    def targets(self, samples: Sequence[EncodedRow]) -> torch.Tensor:
        """float32[passages, 2]: the score of each, and the number of its question."""
        import torch

        known = [sample.target for sample in samples if sample.target is not None]
        rows = torch.tensor(np.array(known, dtype=np.float32).reshape(-1, 2))
        rows[:, 1] = rows[:, 1].cumsum(0) - 1
        return rows

    # Computation

    def forward(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """float[passages, 1]."""
        more = {}
        if self.separator is not None:
            ends = inputs["input_ids"] == self.separator
            behind = ends.cumsum(1) - ends.long() > 0
            mask = inputs.get("attention_mask")
            more["token_type_ids"] = behind.long() if mask is None else behind.long() * mask
        return model(**inputs, **more, **without_cache(model)).logits

    def computation(self, model: Any, trained: int) -> RankComputation:
        """Scores, and a loss over them."""
        from swift.objectives import objectives
        from swift.tasks.ranks import RankComputation

        listwise = "listwise" in self.loss_name
        settings = {"temperature": list_settings()["temperature"]} if listwise else {}
        objective: Objective = partial(objectives.get(self.loss_name), **settings)
        return RankComputation(self.forward, objective, self.measure, only_positives=listwise)

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Figures of the order."""
        from swift.tasks.measures import ranking_figures

        return ranking_figures(outputs[:, 0], targets[:, 0], targets[:, 1])

    def told(self, outputs: np.ndarray) -> dict[str, Any]:
        """The probability of each passage, in the order of the row: positives first."""
        scores = outputs[:, 0].astype(np.float64)
        return {"response": (1 / (1 + np.exp(-scores))).tolist(), "logits": scores.tolist()}


@task("generative_reranker")
class GenerativeReranker(Reranker):
    """A language model that answers yes or no: the score is the difference of their logits."""

    name, chat = "generative_reranker", "needed"
    losses = ("generative_reranker", "listwise_generative_reranker", "pointwise_reranker", "listwise_reranker")

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.words: tuple[int, int] = (0, 0)

    def head(self, tokenizer: Any) -> None:
        """The language model's own; its words for yes and no are looked up."""
        self.words = (word_id(tokenizer, "POSITIVE", "yes"), word_id(tokenizer, "NEGATIVE", "no"))

    def forward(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """float[passages, 1], logit of yes less logit of no behind the prompt."""
        import torch

        from swift.tasks.token_logps import takes_logits_to_keep

        mask = inputs.get("attention_mask")
        ids = inputs["input_ids"]
        last = torch.full((len(ids),), ids.shape[1] - 1, device=ids.device) if mask is None else mask.sum(1) - 1
        columns, place = last.unique(return_inverse=True)
        select = takes_logits_to_keep(getattr(model, "module", model))
        logits = model(**inputs, use_cache=False, **({"logits_to_keep": columns} if select else {})).logits
        rows = torch.arange(len(ids), device=ids.device)
        chosen = logits[rows, place if select else last]
        return (chosen[:, self.words[0]] - chosen[:, self.words[1]])[:, None]


def word_id(tokenizer: Any, which: str, usual: str) -> int:
    """The token of the word for yes or no.

    Raises:
        SwiftError: it is several tokens.
    """
    variable = f"GENERATIVE_RERANKER_{which}_TOKEN"
    word = os.environ.get(variable, usual)
    ids = tokenizer.encode(word, add_special_tokens=False)
    if len(ids) != 1:
        raise SwiftError(f"{variable} {word!r} is {len(ids)} tokens of this model", fix="export it as a word of one")
    return int(ids[0])


def list_settings() -> dict[str, Any]:
    """What the environment says about lists.

    Raises:
        SwiftError: a variable does not hold a number.
    """
    found = {}
    for name, variable, read, usual in (
        ("temperature", "LISTWISE_RERANKER_TEMPERATURE", float, "1.0"),
        ("least", "LISTWISE_RERANKER_MIN_GROUP_SIZE", int, "2"),
    ):
        try:
            found[name] = read(os.environ.get(variable, usual))
        except ValueError:
            raise SwiftError(f"{variable}={os.environ[variable]} is no number", fix="unset it") from None
    return found
