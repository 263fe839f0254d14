"""From names and values to a command's configuration, with errors that say what to write instead."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from swift.config.commands import CommandConfig, concerns, options_of
from swift.config.fields import Option, options_in, per_class, read_value
from swift.errors import SwiftError, first_line

C = TypeVar("C", bound=CommandConfig)
Given = dict[str, tuple[Any, str]]
"""Option name -> what was given and where: a flag, a file or python."""

KNOWN = Path(__file__).parent / "table" / "known_options.json"
"""Options of ms-swift by command, generated: what scripts written for it may hold."""


@cache
def known_options() -> dict[str, dict[str, dict[str, str]]]:
    """command -> option -> its type and default in ms-swift."""
    return json.loads(KNOWN.read_text(encoding="utf-8"))


def read_arguments(config: type[C], argv: Sequence[str]) -> C:
    """Read a command line: `--config FILE` first, flags over it.

    Raises:
        SwiftError: an option is unknown, given twice, not built yet, or its value does not fit.
    """
    given = read_words(config, argv)
    values: Given = {}
    if "config" in given:
        values |= read_file(given.pop("config")[0], config)
    return build(config, values | given)


def read_words(config: type[C], argv: Sequence[str]) -> Given:
    """Split words into options and the words that belong to each; dashes and underscores are the same in names."""
    names = _names(config)
    given: Given = {}
    current: str | None = None
    for word in argv:
        if word.startswith("--") and len(word) > 2:
            written, has_value, value = word[2:].partition("=")
            name = names.get(written.replace("-", "_"), written.replace("-", "_"))
            spec = options_of(config).get(name)
            if name in given and not (spec and spec.kind == "list"):
                raise SwiftError(f"--{written} is given twice", where="command line", fix="keep one of them")
            given.setdefault(name, ([], f"--{written}"))
            current = name
            if has_value:
                given[name][0].append(value)
        elif current is None:
            raise SwiftError(f"{word!r} belongs to no option", where="command line", fix="options begin with --")
        else:
            given[current][0].append(word)
    if "config" in given:
        words = given["config"][0]
        if len(words) != 1:
            raise SwiftError("--config takes one YAML file", where="command line", fix="write --config run.yaml")
        given["config"] = (words[0], "--config")
    return given


def read_file(path: str, config: type[C]) -> Given:
    """Read a YAML (or JSON) file of options; a file that another run wrote may hold options of its own version."""
    import yaml

    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SwiftError(f"--config {path}: {error.strerror}", fix="give a YAML file that exists") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or first_line(error)
        raise SwiftError(
            f"--config {path} is not YAML: {problem}",
            where=f"{path}:{mark.line + 1}" if mark else path,
            fix="write a line `option: value` for each option; quote values that hold `: `, # or quotes",
        ) from None
    if not isinstance(loaded, dict):
        raise SwiftError(
            f"--config {path} must map option names to values", where=path, fix="write it like `model: demo`"
        )
    names = _names(config)
    return {names.get(str(key).replace("-", "_"), str(key)): (value, path) for key, value in loaded.items()}


def build(config: type[C], values: Given) -> C:
    """Place each value in its concern.

    Raises:
        SwiftError: an option is unknown, not built yet, or its value does not fit.
    """
    specs, names = options_of(config), _names(config)
    lenient = "ignore_args_error" in values and values["ignore_args_error"][0] in (True, [], ["true"], "true")
    placed: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for written, (raw, place) in values.items():
        name = names.get(written.replace("-", "_"))
        if name is None:
            problem = unknown_option(config, written, place)
            if not lenient:
                raise problem
            print(f"warning: {problem.what}", file=sys.stderr)
            continue
        if raw == [] and specs[name].kind not in ("bool", "list"):
            raise SwiftError(f"{place} has no value", where="command line", fix=f"write {place} {specs[name].metavar}")
        try:
            value = read_value(specs[name], raw, place)
        except SwiftError as error:
            if not (lenient and specs[name].refused):
                raise
            print(f"warning: {error.what}", file=sys.stderr)
            continue
        if not specs[name].refused:
            placed[name], origins[name] = value, place
    return _compose(config, placed, origins)


def _compose(config: type[C], placed: dict[str, Any], origins: dict[str, str]) -> C:
    parts = {}
    for part, concern in concerns(config).items():
        own = {name: placed.pop(name) for name in options_in(concern, part) if name in placed}
        parts[part] = concern(**own)
    if placed:
        parts["train"].more = placed
    return config(origins=origins, **parts)


@per_class
def _names(config: type[CommandConfig]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, spec in options_of(config).items():
        found |= {alias: name for alias in spec.aliases}
        found[name] = name
    return found


def unknown_option(config: type[CommandConfig], written: str, place: str) -> SwiftError:
    """Say of an option that this command does not have whether it is known elsewhere, planned, or mistyped."""
    from swift.config.commands import COMMANDS

    name = written.replace("-", "_")
    where = place if not place.startswith("--") else "command line"
    elsewhere = [command for command, other in COMMANDS.items() if name in _names(other)]
    if name in known_options().get(config.command, {}):
        return SwiftError(
            f"--{written} is an option of ms-swift that this version does not have yet",
            where=where,
            fix="leave it out; docs/flags.md lists what is there",
        )
    if elsewhere:
        return SwiftError(
            f"--{written} is no option of swift {config.command}",
            where=where,
            fix=f"it belongs to swift {', swift '.join(elsewhere)}",
        )
    close = difflib.get_close_matches(name, _names(config), n=1, cutoff=0.6)
    fix = f"did you mean --{close[0]}?" if close else f"swift {config.command} --help lists the options"
    return SwiftError(f"unknown option --{written}", where=where, fix=fix)


def write_config(config: CommandConfig, path: Path, leave_out: Sequence[str] = ()) -> None:
    """Write all options by name, so that `--config` repeats the run."""
    import yaml

    values = {name: value for name, value in config.flat().items() if name not in leave_out}
    text = f"# swift {config.command} --config {path.name}\n"
    text += yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def words_of(config: CommandConfig, names: Iterable[str]) -> list[str]:
    """Those of some options that somebody gave, as the words of a command line."""
    words: list[str] = []
    values = config.flat()
    for name in names:
        if config.given(name):
            value = values[name]
            words += [f"--{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
    return words


def describe(spec: Option) -> str:
    """The option's help with its unit and default, in one line."""
    default = "" if spec.default in (None, [], {}) else f" (default: {shown(spec.default)})"
    unit = f" [{spec.unit}]" if spec.unit else ""
    return f"{spec.help}{unit}{default}"


def shown(value: Any) -> str:
    """A value as a user would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)
