"""The options of transformers' TrainingArguments, and the names that some of them take, from generated tables.

`python -m swift.config.training_arguments` adds the installed version's to the tables; a test holds them to it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from swift.compat import transformers_major
from swift.config.fields import Option

TABLE = Path(__file__).parent / "table" / "training_arguments.json"

NAMES = Path(__file__).parent / "table" / "training_names.json"
"""Option -> the names that it takes."""

REFUSED = Path(__file__).parent / "table" / "refused_arguments.json"
"""Options that a run would ignore -> what takes their place, or that it is not there yet."""

OWNED = ("activation_checkpointing", "output_dir")
"""Not options of their own: one of ours has them, under this name or another."""


@cache
def training_argument_options() -> dict[str, Option]:
    """Options by name, with the reason where one is refused; values that nobody sets stay transformers' own."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    refused = json.loads(REFUSED.read_text(encoding="utf-8"))
    return {
        name: Option(
            name=name,
            kind=entry["kind"],
            default=entry["default"],
            help="",
            group="transformers",
            item=entry.get("item", "str"),
            optional=entry["default"] is None,
            text_or_dict=entry.get("text_or_dict", False),
            refused=refused.get(name),
        )
        for name, entry in table.items()
        if name not in OWNED
    }


def names_of(option: str) -> Callable[[], list[str]]:
    """A function that gives the names which an option takes."""
    return lambda: _names()[option]


@cache
def _names() -> dict[str, list[str]]:
    return json.loads(NAMES.read_text(encoding="utf-8"))


def read_installed_names() -> dict[str, list[str]]:
    """The table of names for the installed transformers."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    return {
        "lr_scheduler_type": sorted(known.value for known in SchedulerType),
        "optim": sorted(known.value for known in OptimizerNames),
        "report_to": sorted([*INTEGRATION_TO_CALLBACK, "all", "none"]),
    }


def read_installed() -> dict[str, dict[str, Any]]:
    """The table's entries for the installed transformers."""
    from transformers import TrainingArguments

    entries = {}
    for field in dataclasses.fields(TrainingArguments):
        if field.name.startswith("_"):
            continue
        hint = field.type.__name__ if isinstance(field.type, type) else str(field.type)
        entries[field.name] = _entry(hint.replace("typing.", ""), field)
    return entries


def _entry(hint: str, field: dataclasses.Field[Any]) -> dict[str, Any]:
    if field.default is not dataclasses.MISSING:
        default = field.default
    else:
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
    entry: dict[str, Any] = {"default": getattr(default, "value", default)}
    hint = hint.removeprefix("Optional[") if hint.startswith("Optional[") else hint
    if "list" in hint.lower():
        entry["kind"] = "list"
    elif "dict" in hint.lower():
        entry["kind"] = "dict"
        entry["text_or_dict"] = "str" in hint.replace("dict[str", "dict[")
    else:
        first = hint.replace("Union[", "").split("|")[0].split(",")[0].strip(" ]")
        entry["kind"] = first if first in ("bool", "int", "float", "str") else "str"
    return entry


def update() -> None:
    """Add the installed version's to the tables and write them; transformers 4 adds only options that 5 lacks."""
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    installed = read_installed()
    merged = dict(sorted((table | installed if transformers_major() >= 5 else installed | table).items()))
    names = json.loads(NAMES.read_text(encoding="utf-8")) if NAMES.exists() else {}
    all_names = {option: sorted({*known, *names.get(option, [])}) for option, known in read_installed_names().items()}
    for path, content in ((TABLE, merged), (NAMES, all_names)):
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    update()
