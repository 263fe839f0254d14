"""Options as dataclass fields: how they are declared, listed, and read from text."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Callable, Collection
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from swift.errors import SwiftError

WITH_UNIT = "must be a number with KB, MB, GB or TB, such as 5GB"

F = TypeVar("F", bound=Callable[..., Any])


def per_class(function: F) -> F:
    """Remember what a function of a class gave; classes hash by identity, which type checkers deny for dataclasses."""
    return cast(F, cache(function))


def option(
    default: Any = None,
    help: str = "",
    *,
    factory: Callable[[], Any] | None = None,
    aliases: tuple[str, ...] = (),
    unit: str | None = None,
    why: str | None = None,
    check: Callable[[Any], str | None] | None = None,
    secret: bool = False,
    needs: tuple[Any, ...] = (),
) -> Any:
    """Declare one option of a concern.

    Args:
        default: its value when nobody sets it.
        help: what it does, in one sentence.
        factory: makes the default where it is a list or a dict.
        aliases: other names that users know it by.
        unit: the unit of its value.
        why: why the default differs from ms-swift's.
        check: takes the value and returns what is wrong with it, or None.
        secret: keep the value out of files.
        needs: the option that this one has no effect without, and the values it must have: `("train_type", "lora")`;
            a name alone means that it must be set to something. `swift.config.effect` reads it.
    """
    metadata = {"help": help, "aliases": aliases, "unit": unit, "why": why, "check": check, "secret": secret}
    metadata["needs"] = needs
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def named(value: Any) -> str | None:
    """A check that a name, or each of several, is not empty: an empty path would mean the current directory."""
    names = value if isinstance(value, list) else [value]
    return None if all(str(name).strip() for name in names) else "must not be empty"


def one_of(names: Callable[[], Collection[str]], besides: str = "") -> Callable[[Any], str | None]:
    """A check that a name, or each of several, is a known one.

    Args:
        names: gives the known ones; it is asked when there is a value to check.
        besides: what stands in names of another kind, which are not checked.
    """

    def wrong(value: Any) -> str | None:
        known = names()
        given = value if isinstance(value, list) else [value]
        unknown = next((name for name in given if name not in known and not (besides and besides in name)), None)
        if unknown is None:
            return None
        close = difflib.get_close_matches(unknown, known, n=3)
        return f"must be a known name; did you mean {' or '.join(close)}?" if close else f"must be {', '.join(known)}"

    return wrong


def file_size(value: str) -> str | None:
    """A check that a size of files has a unit, as safetensors' splitting takes it."""
    return None if re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]B", value.strip().upper()) else WITH_UNIT


def at_least(low: float) -> Callable[[Any], str | None]:
    """A check that a number is not below `low`."""
    return lambda value: None if value is None or value >= low else f"must be at least {low}"


def above(low: float) -> Callable[[Any], str | None]:
    """A check that a number is more than `low`."""
    return lambda value: None if value is None or value > low else f"must be more than {low}"


def between(low: float, high: float) -> Callable[[Any], str | None]:
    """A check that a number lies in [low, high]."""
    return lambda value: None if value is None or low <= value <= high else f"must lie between {low} and {high}"


@dataclass(frozen=True)
class Option:
    """One option as the command line, the YAML file and the reference page see it."""

    name: str
    kind: str
    """bool, int, float, str, list, dict or any."""
    default: Any
    help: str
    group: str
    choices: tuple[Any, ...] = ()
    aliases: tuple[str, ...] = ()
    item: str = "str"
    """What a list holds; `choices` are then those of each."""
    optional: bool = False
    text_or_dict: bool = False
    unit: str | None = None
    why: str | None = None
    check: Callable[[Any], str | None] | None = None
    secret: bool = False
    needs: tuple[Any, ...] = ()
    refused: str | None = None
    """Why a run takes no value but the default."""

    @property
    def metavar(self) -> str:
        """The value as `--help` shows it."""
        several = " ..." if self.kind == "list" else ""
        if self.choices:
            names = (str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in self.choices)
            return "|".join(names) + several
        if several:
            return self.item.upper() + several
        return {"bool": "true|false", "dict": "JSON", "any": "VALUE"}.get(self.kind, self.kind.upper())


@per_class
def options_in(concern: type, group: str) -> dict[str, Option]:
    """The options that the dataclass `concern` declares, by name."""
    hints = get_type_hints(concern)
    return {f.name: _option_of(f, hints[f.name], group) for f in fields(concern) if "help" in f.metadata}


def _option_of(declared: Field[Any], hint: Any, group: str) -> Option:
    default = declared.default
    if default is MISSING:
        default = declared.default_factory() if declared.default_factory is not MISSING else None
    inner = [arg for arg in get_args(hint) if arg is not type(None)] if _is_union(hint) else [hint]
    kind, item, choices = _kind(inner[0])
    meta = declared.metadata
    return Option(
        name=declared.name,
        kind=kind,
        default=default,
        help=meta["help"],
        group=group,
        choices=choices,
        aliases=meta["aliases"],
        item=item,
        optional=_is_union(hint) and type(None) in get_args(hint),
        text_or_dict=kind == "dict" and str in inner,
        unit=meta["unit"],
        why=meta["why"],
        check=meta["check"],
        secret=meta["secret"],
        needs=meta["needs"],
    )


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (typing.Union, types.UnionType)


def _kind(hint: Any) -> tuple[str, str, tuple[Any, ...]]:
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return type(choices[0]).__name__, "str", choices
    if get_origin(hint) is list:
        item, _, choices = _kind(get_args(hint)[0])
        return "list", item, choices
    if get_origin(hint) is dict or hint is dict:
        return "dict", "str", ()
    return (hint.__name__ if hint in (bool, int, float, str) else "any"), "str", ()


def read_value(spec: Option, given: Any, place: str) -> Any:
    """Turn `given` (words of a command line, or a value from YAML or Python) into the option's type.

    Raises:
        SwiftError: the value does not fit; it names the option, the value and `place`.
    """
    try:
        value = _read(spec, given)
    except (ValueError, TypeError) as error:
        raise SwiftError(f"--{spec.name}: {error}", where=place, fix=f"write --{spec.name} {spec.metavar}") from None
    for each in value if isinstance(value, list) else [value]:
        if spec.choices and each not in spec.choices and not (each is None and spec.optional):
            raise SwiftError(f"--{spec.name} cannot be {each!r}", where=place, fix=f"choose one of: {spec.metavar}")
    wrong = spec.check(value) if spec.check and value is not None else None
    if wrong:
        default = "" if spec.default in (None, [], {}) else f": the default is {spec.default}"
        raise SwiftError(
            f"--{spec.name} is {value!r}; it {wrong}", where=place, fix=f"give another value or leave it out{default}"
        )
    if spec.refused and value not in (None, spec.default):
        raise SwiftError(f"--{spec.name} {value} has no effect here: {spec.refused}", where=place, fix="leave it out")
    return value


def _read(spec: Option, given: Any) -> Any:
    if spec.kind == "list":
        return _read_list(spec, given)
    if isinstance(given, list) and len(given) <= 1:
        given = given[0] if given else ""
    elif isinstance(given, list):
        raise ValueError(f"takes one value, got {len(given)}: {' '.join(map(str, given))}")
    if given is None or (spec.optional and isinstance(given, str) and given.lower() in ("none", "null")):
        if given is None and not spec.optional and spec.default is not None:
            raise ValueError("needs a value, got nothing")
        return None
    if spec.kind == "dict":
        return _read_dict(spec, given)
    return READERS[spec.kind](given)


def _read_list(spec: Option, given: Any) -> list[Any]:
    if given is None:
        return []
    words = given if isinstance(given, (list, tuple)) else [given]
    if len(words) == 1 and isinstance(words[0], str) and words[0].startswith("["):
        words = json.loads(words[0])
    return [READERS[spec.item](word) for word in words]


def _read_dict(spec: Option, given: Any) -> Any:
    if isinstance(given, dict):
        return given
    text = str(given)
    if not text.lstrip().startswith("{"):
        if text.endswith(".json") and Path(text).is_file():
            text = Path(text).read_text(encoding="utf-8")
        elif spec.text_or_dict:
            return text
        else:
            raise ValueError(f"{text!r} is neither a JSON object nor a .json file that exists")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON: {error}") from None


def _bool(given: Any) -> bool:
    if isinstance(given, bool):
        return given
    word = str(given).lower()
    if word in ("", "true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError(f"takes true or false, got {given!r}")


def _int(given: Any) -> int:
    if isinstance(given, bool):
        raise ValueError(f"takes a whole number, got {given!r}")
    try:
        number = float(given) if not isinstance(given, str) or not given.lstrip("-").isdigit() else int(given)
        if number == int(number):
            return int(number)
    except (ValueError, TypeError, OverflowError):
        pass
    raise ValueError(f"takes a whole number, got {given!r}")


def _float(given: Any) -> float:
    try:
        return float(given)
    except (ValueError, TypeError):
        raise ValueError(f"takes a number, got {given!r}") from None


def _text(given: Any) -> str:
    if isinstance(given, (dict, list)):
        raise ValueError(f"takes a text, got {given!r}")
    return str(given)


READERS: dict[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _text,
    "any": lambda given: given,
}
