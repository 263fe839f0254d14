"""A package that stands for EvalScope: it asks the server and scores an answer by its length."""

from __future__ import annotations

import json
import sys
from pathlib import Path

STAND_IN = """
import json, pathlib, urllib.request
class TaskConfig(dict):
    def __init__(self, **values): super().__init__(values)
class Report:
    def __init__(self, told): self.told = told
    def to_dict(self): return self.told
def run_task(task):
    reports = {}
    for name in task["datasets"]:
        options = task["dataset_args"][name]
        rows = (pathlib.Path(options["local_path"]) / "default.jsonl").read_text().splitlines()[: task["limit"]]
        out = pathlib.Path(task["work_dir"]) / "reviews" / "m" / f"{name}_default.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for index, row in enumerate(map(json.loads, rows)):
            body = {"model": task["model"], "messages": [{"role": "user", "content": row["query"]}], "max_tokens": 8,
                    "temperature": task["generation_config"]["temperature"]}
            call = urllib.request.Request(task["api_url"] + "/chat/completions", json.dumps(body).encode(),
                                          {"content-type": "application/json"})
            said = json.loads(urllib.request.urlopen(call).read())["choices"][0]["message"]["content"]
            score = float(len(said))
            broken = {"BLEU": "LookupError: no punkt"} if index == 0 else {}
            lines.append({"index": index, "sample_score": {"score": {"value": {"length": score},
                          "main_score_name": "length", "metadata": {"metric_errors": broken}}}})
        out.write_text("".join(json.dumps(line) + "\\n" for line in lines))
        mean = sum(line["sample_score"]["score"]["value"]["length"] for line in lines) / len(lines)
        identity = {"name": "length", "dimensions": {}}
        reports[name] = Report({"dataset_pretty_name": name, "num": len(lines), "primary_metric_identity": identity,
                                "metrics": [{"identity": identity, "score": mean}]})
    return reports
"""


def make_stand_in(folder: Path) -> str:
    """An interpreter that finds the package; its path."""
    package = folder / "site" / "evalscope"
    (package / "benchmarks" / "_meta").mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    (package / "benchmarks" / "_index.json").write_text(json.dumps({"general_qa": "x", "gsm8k": "y"}))
    meta = {"meta": {"pretty_name": "General-QA", "tags": ["QA"]}}
    (package / "benchmarks" / "_meta" / "general_qa.json").write_text(json.dumps(meta))
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder / "site"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)
