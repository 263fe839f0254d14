"""Some whole weights are trained and the others stay as they are."""

from __future__ import annotations

import difflib
import re
from typing import Any

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners import tuner


@tuner("freeze")
def freeze(model: Any, config: TunerConfig) -> Any:
    """Freeze by share (from the input side), prefix and expression; then thaw what is named as trainable.

    Raises:
        SwiftError: a prefix or expression names no parameter, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen = _first_share(model, config.freeze_parameters_ratio)
    frozen |= _matching(names, config.freeze_parameters, config.freeze_parameters_regex, "freeze_parameters")
    thawed = _matching(names, config.trainable_parameters, config.trainable_parameters_regex, "trainable_parameters")
    if thawed and not frozen:
        frozen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen or name in thawed)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SwiftError(
            "--train_type freeze leaves nothing to train",
            fix="lower --freeze_parameters_ratio or name --trainable_parameters",
        )
    return model


def _first_share(model: Any, ratio: float) -> set[str]:
    """The parameters from the input side that together hold no more than `ratio` of all values."""
    total = sum(parameter.numel() for parameter in model.parameters())
    taken, found = 0, set()
    for name, parameter in model.named_parameters():
        taken += parameter.numel()
        if taken > ratio * total:
            break
        found.add(name)
    return found


def _matching(names: list[str], prefixes: list[str], expression: str | None, option: str) -> set[str]:
    found: set[str] = set()
    for prefix in prefixes:
        hits = {name for name in names if name.startswith(prefix)}
        if not hits:
            raise SwiftError(f"--{option} {prefix} names no parameter", fix=_near(prefix, names))
        found |= hits
    if expression:
        try:
            hits = {name for name in names if re.search(expression, name)}
        except re.error as error:
            raise SwiftError(
                f"--{option}_regex {expression} is no regular expression: {error}",
                fix=f"it is searched for in names of parameters, such as {names[0]}; quote it for the shell",
            ) from None
        if not hits:
            raise SwiftError(f"--{option}_regex {expression} names no parameter", fix=_near(expression, names))
        found |= hits
    return found


def _near(wanted: str, names: list[str]) -> str:
    """The beginnings of names that look most like what was given."""
    beginnings = {".".join(parts[:count]) for parts in (name.split(".") for name in names) for count in range(1, 9)}
    close = difflib.get_close_matches(wanted, sorted(beginnings), n=3, cutoff=0.5) or names[:1]
    return f"names are like {', '.join(close)}"
