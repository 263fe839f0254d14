"""Runs in the peer's environment: what its registered templates make of conversations.

Reads `{"folder", "families": [{"name", "template", "tokenizer"}], "rows": {name: row}}` as JSON and writes the text or
the error of each, by the peer's documented Python calls.
"""

from __future__ import annotations

import copy
import json
import sys
from typing import Any


def texts_of(family: dict[str, str], rows: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The text of each conversation under one registered template, or what it says in refusing it."""
    from swift import get_processor, get_template

    try:
        processor = get_processor(family["tokenizer"], model_type="llama")
        template = get_template(processor, template_type=family["template"])
        template.set_mode("train")
    except Exception as error:
        return {name: {"error": f"{type(error).__name__}: {error}"} for name in rows}
    found: dict[str, dict[str, str]] = {}
    for name, row in rows.items():
        try:
            ids = template.encode(copy.deepcopy(row))["input_ids"]
            found[name] = {"text": processor.decode(ids)}
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    return found


def main() -> None:
    """Answer the job in the file named first into the file named second."""
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    answers = {family["name"]: texts_of(family, job["rows"]) for family in job["families"]}
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main()
