"""Results of evaluations: lines of a file, a table, a picture."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.errors import SwiftError
from swift.evaluate.figures import Interval, change_interval, mean_interval


@dataclass
class Result:
    """One model on one data set.

    Attributes:
        metric: the main one.
        score: its mean over samples.
        interval: of the mean; None where samples have no score of their own.
        samples: the score of each, by its subset and number.
        errors: by metric, why it was not measured.
    """

    model: str
    dataset: str
    metric: str
    score: float
    num: int
    figures: dict[str, float]
    interval: Interval | None
    samples: dict[str, float]
    errors: dict[str, str]

    @classmethod
    def of(cls, model: str, told: dict[str, Any]) -> Result:
        """From what the harness tells of a data set."""
        figures = {each["metric"]: each["score"] for each in told["figures"]}
        samples = {
            f"{each['subset']}:{each['index']}": float(each["score"])
            for each in told["samples"]
            if each["score"] is not None
        }
        if told["metric"] not in figures:
            raise SwiftError(
                f"{told['dataset']}: EvalScope tells no {told['metric'] or 'main metric'}, but {', '.join(figures)}",
                fix="see its own report in the folder of the evaluation",
            )
        score = figures[told["metric"]]
        interval = mean_interval(list(samples.values())) if samples else None
        return cls(
            model, told["dataset"], told["metric"], score, told["num"], figures, interval, samples, told["errors"]
        )

    def warn(self) -> None:
        """Say what was not measured: EvalScope counts it as 0."""
        for metric, why in self.errors.items():
            told = " ".join(why.split())[:200]
            print(
                f"warning: {self.dataset}: EvalScope could not measure {metric} and counts it as 0: {told}",
                file=sys.stderr,
            )

    def line(self) -> dict[str, Any]:
        """As a line of the file of results."""
        line: dict[str, Any] = {
            "model": self.model,
            "dataset": self.dataset,
            "metric": self.metric,
            "score": self.score,
            "num": self.num,
            "figures": self.figures,
        }
        if self.interval is not None:
            line |= {"low": self.interval.low, "high": self.interval.high}
        if self.errors:
            line["errors"] = self.errors
        return line


def append(file: Path, results: Sequence[Result]) -> None:
    """Add lines to the file of results."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S")
    with file.open("a", encoding="utf-8") as out:
        out.writelines(json.dumps({"time": when, **each.line()}, ensure_ascii=False) + "\n" for each in results)


def table(results: Sequence[Result]) -> list[str]:
    """The lines of a table; the bounds are those of 95 %."""
    rows = [("model", "data set", "samples", "metric", "score", "95 % bounds")]
    for each in results:
        bounds = f"{each.interval.low:.4f} to {each.interval.high:.4f}" if each.interval else ""
        rows.append((each.model, each.dataset, str(each.num), each.metric, f"{each.score:.4f}", bounds))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def changes(results: Sequence[Result], models: Sequence[str]) -> list[dict[str, Any]]:
    """What the second model scores more than the first, on each data set, over the samples that both answered."""
    by = {(each.model, each.dataset): each for each in results}
    told = []
    for dataset in dict.fromkeys(each.dataset for each in results):
        before, after = (by.get((model, dataset)) for model in models)
        if before is None or after is None:
            continue
        both = [sample for sample in before.samples if sample in after.samples]
        if both:
            change = change_interval([before.samples[key] for key in both], [after.samples[key] for key in both])
            told.append(
                {
                    "dataset": dataset,
                    "metric": after.metric,
                    "change": change.mean,
                    "low": change.low,
                    "high": change.high,
                    "num": len(both),
                }
            )
    return told


def plot(file: Path) -> Path:
    """A picture of the newest score of each model in a file of results, by data set, beside the file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        newest[told["model"], told["dataset"]] = told
    models = list(dict.fromkeys(model for model, _ in newest))
    datasets = list(dict.fromkeys(dataset for _, dataset in newest))
    figure, axes = pyplot.subplots(figsize=(max(4.0, 1.6 * len(datasets) + 2), 3.6), layout="constrained")
    width = 0.8 / len(models)
    for place, model in enumerate(models):
        found = [(at, newest[model, dataset]) for at, dataset in enumerate(datasets) if (model, dataset) in newest]
        heights = [told["score"] for _, told in found]
        bounds = [
            [max(0.0, told["score"] - told.get("low", told["score"])) for _, told in found],
            [max(0.0, told.get("high", told["score"]) - told["score"]) for _, told in found],
        ]
        where = [at + (place - (len(models) - 1) / 2) * width for at, _ in found]
        axes.bar(where, heights, width, yerr=bounds, capsize=3, label=model)
    axes.set_xticks(range(len(datasets)), datasets)
    axes.set_ylabel("score")
    axes.legend(fontsize="small")
    picture = file.with_suffix(".png")
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
    return picture
