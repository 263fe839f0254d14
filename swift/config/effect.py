"""Options that somebody gave and that change nothing, by what each option says that it needs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from swift.config.build import shown
from swift.config.commands import CommandConfig, options_of
from swift.config.decisions import Decisions
from swift.config.fields import Option


def note_without_effect(config: CommandConfig, decisions: Decisions, own: Collection[str] = ()) -> None:
    """A line in the run's table for each option that was given and has no effect.

    Args:
        config: a command's configuration.
        decisions: the table.
        own: options whose value names a part of the user's own, which may read any option.
    """
    for spec, value in without_effect(config, own):
        origin = "flag" if typed(config, spec.name) else "file"
        decisions.add(spec.name, value, origin, f"has no effect without {needed(spec)}")


def without_effect(config: CommandConfig, own: Collection[str] = ()) -> Iterator[tuple[Option, Any]]:
    """Options that were given and have no effect, with their values.

    A file may hold every option, as the one that a run writes does: there only what differs from the default counts.
    """
    values = config.flat()
    for name, spec in options_of(type(config)).items():
        if not spec.needs or not config.given(name) or spec.needs[0] in own:
            continue
        value = values.get(name, "(secret)")
        if (typed(config, name) or value != spec.default) and not _met(spec, values):
            yield spec, value


def typed(config: CommandConfig, name: str) -> bool:
    """Whether an option was given on the command line or in Python, not in a file that holds them all."""
    origin = config.origins.get(name, "")
    return origin.startswith("--") or origin == "python"


def needed(spec: Option) -> str:
    """What an option needs, as a user would write it."""
    option, *wanted = spec.needs
    return f"--{option} {' or '.join(map(shown, wanted))}".rstrip()


def _met(spec: Option, values: dict[str, Any]) -> bool:
    option, *wanted = spec.needs
    value = values[option]
    if not wanted:
        return bool(value)
    return any(each in wanted for each in value) if isinstance(value, list) else value in wanted
