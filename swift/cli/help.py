"""The help pages, made from the options themselves."""

from __future__ import annotations

import difflib
import shutil
import textwrap
from itertools import groupby

from swift.config.build import describe
from swift.config.commands import COMMANDS, CommandConfig, options_of
from swift.config.effect import needed
from swift.config.fields import Option
from swift.errors import SwiftError

EXAMPLES = {
    "pt": "swift pt --model demo --dataset texts.jsonl --packing true --max_length 2048 --truncation_strategy split",
    "sft": "swift sft --model demo --dataset self-cognition --model_name Robin --model_author 'the team'",
    "infer": "swift infer --adapters output/demo/v0-.../checkpoint-20",
    "eval": "swift eval --model demo --eval_dataset gsm8k --eval_limit 20",
    "deploy": "swift deploy --model demo --adapters robin=output/demo/v0-.../checkpoint-20",
    "rollout": "swift rollout --model demo --allowed_update_path output",
    "app": "swift app --model demo --lang en",
    "prepare": "swift prepare --model demo --dataset rows.jsonl --output_dir output/prepared",
    "merge-lora": "swift merge-lora --adapters output/demo/v0-.../checkpoint-20 --output_dir merged",
    "models": "swift models --search qwen3",
    "datasets": "swift datasets --search dpo",
    "plan": "swift plan --model demo --gpus 8x80",
    "template": "swift template --model demo --row rows.jsonl --format json",
    "doctor": "swift doctor",
    "env": "swift env install vllm",
}


def overview() -> str:
    """What `swift --help` prints."""
    lines = ["swift COMMAND --option value ...", "", "Fine-tune, run and serve any language model.", ""]
    for command, config in COMMANDS.items():
        lines.append(f"  {command:<12} {(config.__doc__ or '').splitlines()[0]}")
    lines += ["", "Try:", *(f"  {line}" for line in EXAMPLES.values())]
    lines += ["", "swift COMMAND --help lists its options; swift COMMAND --help WORD those that contain the word."]
    return "\n".join(lines)


def command(config: type[CommandConfig], words: list[str]) -> str:
    """What `swift COMMAND --help [WORD]` prints: options by concern; those of transformers by name only.

    Raises:
        SwiftError: no option has to do with the words.
    """
    options = _asked(config, words) if words else [spec for spec in options_of(config).values() if not spec.refused]
    lines = [f"swift {config.command} --option value ...", "", (config.__doc__ or "").splitlines()[0], ""]
    for group, members in groupby(options, key=lambda spec: spec.group):
        if group == "transformers" and not words:
            names = " ".join(f"--{spec.name}" for spec in members)
            lines += ["transformers' TrainingArguments, by their own names:", _wrapped(names, 2), ""]
        else:
            lines += [f"{group}:", *(_entry(spec) for spec in members), ""]
    lines += [
        "  --config FILE.yaml",
        _wrapped("Options from a file; flags go over it. Every run writes its own as config.yaml.", 8),
    ]
    return "\n".join([*lines, "", "Example:", f"  {EXAMPLES[config.command]}"])


def _asked(config: type[CommandConfig], words: list[str]) -> list[Option]:
    """The options with one of the words in their names, else those with one in their help."""
    options = options_of(config).values()
    words = [word.lstrip("-").replace("-", "_").lower() for word in words]
    named = [spec for spec in options if any(word in name for word in words for name in (spec.name, *spec.aliases))]
    found = named or [spec for spec in options if any(word in spec.help.lower() for word in words)]
    if not found:
        names = [name for spec in options for name in (spec.name, *spec.aliases)]
        close = [name for word in words for name in difflib.get_close_matches(word, names, n=3)]
        raise SwiftError(
            f"no option of swift {config.command} has to do with {' or '.join(words)}",
            fix=f"the closest: --{', --'.join(close)}" if close else f"swift {config.command} --help lists them all",
        )
    return found


def _entry(spec: Option) -> str:
    aliases = "".join(f", --{alias}" for alias in spec.aliases)
    text = describe(spec) or "As in transformers' TrainingArguments."
    if spec.refused:
        text = f"Refused: {spec.refused}."
    elif spec.needs:
        text += f" Only with {needed(spec)}."
    return f"  --{spec.name}{aliases} {spec.metavar}\n{_wrapped(text, 8)}"


def _wrapped(text: str, indent: int) -> str:
    width = min(shutil.get_terminal_size((100, 20)).columns, 120)
    pad = " " * indent
    return textwrap.fill(text, width, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False)
