"""Runs EvalScope in its own environment: a task in, results out, both files of JSON.

It imports nothing of this package, which that environment need not have.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main(task_path: str, result_path: str) -> int:
    """Run one task and write what it found."""
    from evalscope import TaskConfig, run_task

    task = json.loads(Path(task_path).read_text(encoding="utf-8"))
    reports = run_task(TaskConfig(**task))
    folder = Path(task["work_dir"])
    told = reports if isinstance(reports, dict) else {}
    found = [result(folder, name, report, list(told)) for name, report in told.items()]
    Path(result_path).write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    return 0


def result(folder: Path, name: str, report: Any, names: list[str]) -> dict[str, Any]:
    """One data set: its figures, the score of each sample, and what could not be measured."""
    told = report.to_dict() if hasattr(report, "to_dict") else report.model_dump(mode="json")
    samples = list(reviews(folder, name, [other for other in names if other.startswith(f"{name}_")]))
    errors: dict[str, str] = {}
    for sample in samples:
        errors |= sample.pop("errors")
    main_name = metric_name(told.get("primary_metric_identity") or {})
    figures = [
        {"metric": metric_name(metric.get("identity") or {}) or metric.get("name", ""), "score": metric["score"]}
        for metric in told["metrics"]
    ]
    return {
        "dataset": name,
        "title": told.get("dataset_pretty_name") or name,
        "num": told.get("num") or len(samples),
        "metric": main_name or (figures[0]["metric"] if figures else ""),
        "figures": figures,
        "samples": samples,
        "errors": errors,
    }


def metric_name(identity: dict[str, Any]) -> str:
    """`rouge-l-recall` for what EvalScope keeps in parts."""
    parts = [identity.get("name", ""), *(str(value) for _, value in sorted(identity.get("dimensions", {}).items()))]
    return "-".join(part for part in parts if part)


def reviews(folder: Path, name: str, others: list[str]) -> Iterator[dict[str, Any]]:
    """The main score of each sample, in the order of the files; files of `others`, whose names are longer, left out."""
    for file in sorted(folder.glob(f"reviews/*/{name}_*.jsonl")):
        if any(file.stem.startswith(f"{other}_") for other in others):
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            score = json.loads(line)["sample_score"]["score"]
            key = score.get("main_score_name")
            values = score.get("value") or {}
            value = values.get(key, next(iter(values.values()), None))
            errors = {metric: text.strip() for metric, text in (score["metadata"].get("metric_errors") or {}).items()}
            index = json.loads(line)["index"]
            yield {"subset": file.stem[len(name) + 1 :], "index": index, "score": value, "errors": errors}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
