"""`swift models`: ids of public models with their architecture, and how far each is supported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from swift.config.commands import ModelsConfig
from swift.errors import SwiftError

TABLE = Path(__file__).parent / "table"

PROVED, EXPECTED, REMOTE, NOT_YET = "proved", "expected", "needs remote code", "not yet"

NO_LANGUAGE = re.compile(r"ForSequenceClassification$|ForMaskedLM$|RewardModel$|(Text|Bert)Model$")
"""Classes of models that write no text: encoders, classifiers and reward models."""

QUANTIZED = re.compile(r"awq|gptq|int[348]\b|[_-]int[48]|fp8|fp4|bnb|4bit|mxfp|autoround|aqlm|hqq|gguf|marlin", re.I)
"""Ids of quantized weights: the sweep ran whole ones."""


@cache
def _read(name: str) -> Any:
    return json.loads((TABLE / name).read_text(encoding="utf-8"))


def models() -> Iterator[dict[str, Any]]:
    """Each model of the table: id, architectures, classes, multimodal, support, hubs, tags, transformers' version.

    Support is `proved` where the sweep trained and ran the architecture of a text model, `expected` where transformers
    has the architecture, `needs remote code` where that version of transformers has it not, and `not yet` where
    `swift sft` does not train what the model is for: pictures and sounds (rows of text it takes, where transformers has
    the architecture), what encoders, classifiers and reward models give (see `--task_type`).
    """
    sweep = _read("sweep.json")
    for group in _read("models.json"):
        # Some configurations name a class that transformers has under another name.
        classes = sorted({group.get("built_as", name) for name in group["architectures"]})
        support = _support(classes, group["multimodal"], sweep)
        for hubs, ids in group["ids"].items():
            for name in ids:
                yield {
                    "id": name,
                    "architectures": group["architectures"],
                    "classes": classes,
                    "multimodal": group["multimodal"],
                    "support": EXPECTED if support == PROVED and QUANTIZED.search(name) else support,
                    "hubs": hubs.split("+"),
                    "tags": group.get("tags", []),
                    "transformers": sweep["transformers"],
                }


def _support(classes: list[str], multimodal: bool, sweep: dict[str, Any]) -> str:
    if multimodal or all(NO_LANGUAGE.search(name) for name in classes):
        return NOT_YET
    proved = {result["architecture"] for result in sweep["results"].values() if result["proved"]}
    if proved.intersection(classes):
        return PROVED
    return EXPECTED if set(sweep["known"]["text"]).intersection(classes) else REMOTE


def main(config: ModelsConfig) -> int:
    """Print the models whose id, architecture or tag holds the word.

    Raises:
        SwiftError: there is none.
    """
    word = (config.search.search or "").lower()
    found = [
        model
        for model in models()
        if any(word in text.lower() for text in (model["id"], *model["architectures"], *model["tags"]))
    ]
    if not found:
        raise SwiftError(
            f"--search {config.search.search}: no model of the table",
            fix="any model works by its id where transformers has its architecture; the table lists well-known ones",
        )
    # Ids that hold the word stand before ids of an architecture or a tag that does.
    found.sort(key=lambda model: (word not in model["id"].lower(), model["id"].lower()))
    if config.report.format == "json":
        for model in found:
            print(json.dumps(model, ensure_ascii=False))
        return 0
    wide = max(len(model["id"]) for model in found)
    for model in found:
        kind = "multimodal" if model["multimodal"] else "text"
        print(f"{model['id']:<{wide}}  {model['support']:<17}  {kind:<10}  {', '.join(model['architectures'])}")
    return 0
