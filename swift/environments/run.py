"""`swift env`: makes the environments of other back ends, and tells what is wrong with each."""

from __future__ import annotations

import json
from pathlib import Path

from swift.config.commands import EnvConfig
from swift.environments.install import install
from swift.environments.place import BROKEN, Environment, look_at_all


def main(config: EnvConfig) -> int:
    """Run `swift env` and return its exit status: 1 where an environment is broken.

    Raises:
        SwiftError: an environment cannot be made.
    """
    env = config.env
    found = [install(env.install, Path(env.path) if env.path else None)] if env.install else look_at_all()
    for each in found:
        print(as_json(each) if config.report.format == "json" else as_line(each))
    return 1 if any(each.state == BROKEN for each in found) else 0


def as_line(each: Environment) -> str:
    """One environment for people."""
    told = f"{each.name:<10} {each.version or '-':<10} {each.state:<7} {each.path}"
    return f"{told}\n{'':<11}{each.wrong}" if each.wrong else told


def as_json(each: Environment) -> str:
    """One environment as a line of JSON."""
    return json.dumps(
        {
            "name": each.name,
            "state": each.state,
            "version": each.version,
            "path": str(each.path),
            "wrong": each.wrong,
        }
    )
