"""The task of classifiers: a class, several classes, or scores of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swift.config import Decisions
from swift.errors import SwiftError
from swift.models.heads import Head, without_cache
from swift.models.tokenizer import pad_id
from swift.rows import EncodedRow, Row, Source
from swift.tasks import task
from swift.tasks.texts import IdsOf, TextTask, text_sample

if TYPE_CHECKING:
    import torch

    from swift.data import EncodedDataset
    from swift.models.source import ModelSource
    from swift.tasks.examples import TextComputation

SINGLE, MULTI, SCORES = "single_label_classification", "multi_label_classification", "regression"

FIGURES = {
    SINGLE: {"acc": True, "f1": True},
    MULTI: {"acc": True, "f1": True, "f1_macro": True},
    SCORES: {"mse": False, "mae": False, "pearson": True, "spearman": True},
}
"""Problem -> what evaluation gives, and whether more of it is better."""

KINDS = {
    "class": (SINGLE, "each row has one whole number"),
    "name": (SINGLE, "each row has one name"),
    "classes": (MULTI, "rows have lists of whole numbers"),
    "names": (MULTI, "rows have lists of names"),
    "score": (SCORES, "rows have numbers that are not whole"),
    "scores": (SCORES, "rows have lists of numbers that are not whole"),
}
"""What labels are -> the problem, and why."""


@task("seq_cls")
class SequenceClassification(TextTask):
    """Classes or scores by a linear layer over the text's last token, or what the architecture has for it."""

    name, losses, eval_metrics = "seq_cls", (SINGLE, MULTI, SCORES), ("acc",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.options = config.task
        self.facts: dict[str, Any] = {"kind": "class", "names": [], "classes": 0, "scores": 0}
        self.class_names: list[str] = []

    def start(self, recorded: dict[str, Any], model: dict[str, Any]) -> None:
        """Go on with the classes of a checkpoint, or of any classifier."""
        known = recorded or _of_classifier(model)
        self.class_names = known.get("names", [])
        for name in ("num_labels", "problem_type"):
            value, asked = known.get(name), getattr(self.options, name)
            if value is not None and asked not in (None, value):
                raise SwiftError(
                    f"--{name} {asked}: the checkpoint has {value}", fix="leave it out, or take its base model"
                )
            setattr(self.options, name, asked if value is None else value)

    def record(self) -> dict[str, Any]:
        """Problem and classes."""
        options = self.options
        return {"num_labels": options.num_labels, "problem_type": options.problem_type, "names": self.class_names}

    @property
    def figures(self) -> dict[str, bool]:
        """Those of the problem; all of them before it is known."""
        known = self.options.problem_type
        return FIGURES[known] if known else {name: more for each in FIGURES.values() for name, more in each.items()}

    def head(self, tokenizer: Any) -> Head:
        """A classifier of the model's architecture."""
        settings: dict[str, Any] = {"num_labels": self.options.num_labels, "problem_type": self.options.problem_type}
        if self.class_names:
            settings["id2label"] = dict(enumerate(self.class_names))
            settings["label2id"] = {name: at for at, name in enumerate(self.class_names)}
        # The end of a text is found by the token that pads.
        settings["pad_token_id"] = pad_id(tokenizer)
        return Head("AutoModelForSequenceClassification", settings, f"--task_type {self.name}")

    # Rows

    def identity(self) -> list[Any]:
        """Rows that do not fit the options become no samples."""
        return [self.name, self.options.problem_type, self.options.num_labels, self.class_names]

    def look(self, rows: Sequence[tuple[Row, Source]]) -> dict[str, Any]:
        """What the labels are, the names of classes, how many classes and scores there are."""
        facts = facts_of([row["label"] for row, _ in rows if row.get("label") is not None])
        self.take(facts)
        return facts

    def take(self, facts: dict[str, Any]) -> None:
        """Take the facts; names that the model has already stay in their order.

        Raises:
            SwiftError: rows that were prepared apart name other classes.
        """
        known = self.facts["names"]
        if known and facts["names"] not in ([], known):
            raise SwiftError(
                f"prepared rows name other classes: {facts['names']} and {known}", fix="prepare them together"
            )
        more = {name: max(facts[name], self.facts[name]) for name in ("classes", "scores")}
        self.facts = {**facts, **more, "names": known or facts["names"]}
        self.class_names = self.class_names or facts["names"]

    def samples(self, row: Row, ids_of: IdsOf) -> list[EncodedRow]:
        """The text with the numbers of its label."""
        label = row.get("label")
        if label is None:
            raise SwiftError("the row has no label", fix="give it one: label, a class, a list of classes or a score")
        target = np.array(self._numbers(label), np.float32)
        if self.options.problem_type and self.options.num_labels and (wrong := self._wrong(target)):
            raise SwiftError(wrong[0], fix=wrong[1])
        return [text_sample(ids_of(row["messages"]), target)]

    def _numbers(self, label: Any) -> list[float]:
        parts = label if isinstance(label, list) else [label]
        unknown = [part for part in parts if isinstance(part, str) and part not in self.class_names]
        if unknown or (self.class_names and any(not isinstance(part, str) for part in parts)):
            there = ", ".join(self.class_names) or "numbers"
            raise SwiftError(f"label {label!r} is none of the classes", fix=f"they are: {there}")
        return [float(self.class_names.index(part) if isinstance(part, str) else part) for part in parts]

    def settle(self, source: ModelSource, sets: Sequence[EncodedDataset], decisions: Decisions) -> None:
        """Choose problem and number of classes by the labels, and check these."""
        options, facts = self.options, self.facts
        if options.problem_type is None:
            problem, why = KINDS[facts["kind"]]
            options.problem_type = decisions.add("problem_type", problem, "data", why)
        if options.num_labels is None:
            if options.problem_type != SCORES and self.config.data.streaming:
                raise SwiftError("--streaming needs --num_labels: not all labels are known", fix="add --num_labels 2")
            number, why = self._count()
            options.num_labels = decisions.add("num_labels", number, "data", why)
        for each in sets:
            self._check_targets(each)

    def _count(self) -> tuple[int, str]:
        """How many classes or scores there are, and why."""
        if self.options.problem_type == SCORES:
            return max(self.facts["scores"], 1), "scores of a row"
        if self.class_names:
            return len(self.class_names), ", ".join(self.class_names)
        least = 2 if self.options.problem_type == SINGLE else 1
        return max(self.facts["classes"], least), "one more than the largest class of the rows"

    def _check_targets(self, samples: EncodedDataset) -> None:
        for number in range(len(samples)):
            target = samples.target(number)
            if target is not None and (wrong := self._wrong(target)):
                raise SwiftError(wrong[0], where=str(samples.source(number)), fix=wrong[1])

    def _wrong(self, target: np.ndarray) -> tuple[str, str] | None:
        """What does not fit about the label of a row, and what to do."""
        count, problem = self.options.num_labels, self.options.problem_type
        shown = ", ".join(f"{value:g}" for value in target)
        if problem == SCORES:
            if len(target) == count:
                return None
            return f"label {shown} has {len(target)} scores, and --num_labels is {count}", "give each row as many"
        if problem == SINGLE and len(target) != 1:
            return f"label [{shown}] is no one class", "--problem_type multi_label_classification takes lists"
        if (target != target.astype(int)).any():
            return f"label {shown} is no class: classes are whole numbers", "--problem_type regression takes scores"
        outside = [int(value) for value in target if not 0 <= value < count]
        if outside:
            return (
                f"label {outside[0]} is outside --num_labels {count}: classes are 0 to {count - 1}",
                f"--num_labels {max(outside) + 1}, or mend the row" if min(outside) >= 0 else "mend the row",
            )
        if len(set(target.tolist())) < len(target):
            return f"label [{shown}] has a class twice", "list the numbers of its classes, not 0 and 1 for each"
        return None

    # Computation

    def targets(self, samples: Sequence[EncodedRow]) -> torch.Tensor:
        """int64[texts] for one class; float32[texts, n]: 1 for each of several classes, or scores."""
        import torch

        known = [sample.target for sample in samples if sample.target is not None]
        if self.options.problem_type == SINGLE:
            return torch.tensor([int(target[0]) for target in known], dtype=torch.int64)
        rows = torch.zeros(len(known), self.options.num_labels)
        for row, target in zip(rows, known, strict=True):
            values = torch.from_numpy(np.array(target))
            if self.options.problem_type == SCORES:
                row.copy_(values)
            else:
                row[values.long()] = 1
        return rows

    def forward(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The classifier's logits."""
        return model(**inputs, **without_cache(model)).logits

    def computation(self, model: Any, trained: int) -> TextComputation:
        """Logits, and the loss of the problem."""
        from swift.objectives import objectives
        from swift.tasks.examples import TextComputation

        objective = objectives.get(self.config.train.loss_type or self.options.problem_type)
        return TextComputation(self.forward, objective, self.measure)

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """The figures of the problem."""
        from swift.tasks.measures import multi_label_figures, regression_figures, single_label_figures

        problem = self.options.problem_type
        figures = {SINGLE: single_label_figures, MULTI: multi_label_figures, SCORES: regression_figures}[problem]
        return figures(outputs, targets)

    def told(self, outputs: np.ndarray) -> dict[str, Any]:
        """The class with the probability of each, the classes, or the scores."""
        (row,) = outputs.astype(np.float64)
        if self.options.problem_type == SCORES:
            return {"response": float(row[0]) if len(row) == 1 else row.tolist()}
        if self.options.problem_type == MULTI:
            chosen = [self._name(int(at)) for at in np.flatnonzero(row > 0)]
            return {"response": chosen, "probs": (1 / (1 + np.exp(-row))).tolist()}
        chances = np.exp(row - row.max())
        return {"response": self._name(int(row.argmax())), "probs": (chances / chances.sum()).tolist()}

    def _name(self, number: int) -> int | str:
        return self.class_names[number] if self.class_names else number


def facts_of(labels: Sequence[Any]) -> dict[str, Any]:
    """What labels are (`kind`, of `KINDS`), `names` of classes, and how many `classes` and `scores` there are."""
    lists = any(isinstance(label, list) for label in labels)
    rows = [label if isinstance(label, list) else [label] for label in labels]
    parts = [part for row in rows for part in row]
    names = sorted({part for part in parts if isinstance(part, str)})
    numbers = [part for part in parts if not isinstance(part, str)]
    kind = "name" if names else "score" if any(isinstance(part, float) for part in numbers) else "class"
    several = {"name": "names", "score": "scores", "class": "classes"}
    return {
        "kind": several[kind] if lists else kind,
        "names": names,
        "classes": int(max(numbers, default=-1)) + 1,
        "scores": max(map(len, rows), default=0),
    }


def _of_classifier(model: dict[str, Any]) -> dict[str, Any]:
    """What the config.json of a classifier says about its classes; nothing for other models."""
    if not any(name.endswith("ForSequenceClassification") for name in model.get("architectures") or []):
        return {}
    # Two classes without names are the default that transformers does not write.
    labels = model.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    names = [labels[key] for key in sorted(labels, key=int)]
    own = any(name != f"LABEL_{at}" for at, name in enumerate(names))
    return {"num_labels": len(names), "problem_type": model.get("problem_type"), "names": names if own else []}
