"""The `swift` command: finds the sub-command, prints errors in a few lines, and imports nothing heavy by itself."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from swift import __version__
from swift.cli.launch import launch, processes_wanted, report_error, report_pid, worker_status
from swift.compat import quiet_imports
from swift.config.build import known_options, read_arguments
from swift.config.commands import COMMANDS
from swift.errors import SwiftError

RUNS = {
    "pt": "swift.train.sft:main",
    "sft": "swift.train.sft:main",
    "infer": "swift.infer.run:main",
    "deploy": "swift.serve.run:main",
    "rollout": "swift.serve.run:main",
    "app": "swift.ui.app:main",
    "eval": "swift.evaluate.run:main",
    "prepare": "swift.train.prepare:main",
    "merge-lora": "swift.export.merge:main",
    "template": "swift.show.template:main",
    "plan": "swift.train.propose:main",
    "models": "swift.models.listing:main",
    "datasets": "swift.data.listing:main",
    "doctor": "swift.cli.doctor:main",
    "env": "swift.environments.run:main",
}
"""Sub-command -> the function that takes its configuration and returns an exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status: 2 for a user's mistake, 130 and 143 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    quiet_imports()
    try:
        report_pid()
        return worker_status(run(words))
    except SwiftError as error:
        if not report_error(error):
            print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run(words: list[str]) -> int:
    """Find the sub-command, read its options and run it."""
    from swift.cli import help as pages

    if not words or words[0] in ("--help", "-h", "help"):
        print(pages.overview())
        return 0
    if words[0] in ("--version", "-V", "version"):
        print(f"swift {__version__}")
        return 0
    words = _by_other_name(words)
    name = words[0].replace("_", "-")
    if name not in COMMANDS:
        raise unknown_command(words[0])
    asked = next((place for place, word in enumerate(words) if word in ("--help", "-h")), None)
    if asked is not None:
        print(pages.command(COMMANDS[name], words[asked + 1 :]))
        return 0
    config = read_arguments(COMMANDS[name], words[1:])
    if RUNS[name] == RUNS["sft"] and processes_wanted():
        return launch(words)
    module, _, function = RUNS[name].partition(":")
    return getattr(import_module(module), function)(config)


def _by_other_name(words: list[str]) -> list[str]:
    """`swift export --to_cached_dataset true` is ms-swift's name of `swift prepare`; `swift env` takes plain words."""
    if words[:2] == ["env", "install"]:
        return ["env", "--install", *words[2:]]
    if words[:2] == ["env", "list"]:
        return ["env", *words[2:]]
    flag = "--to_cached_dataset"
    if words[0] != "export" or flag not in words:
        return words
    at = words.index(flag)
    given = words[at + 1 : at + 2]
    named = bool(given) and not given[0].startswith("--")
    if named and given[0].lower() not in ("true", "1"):
        return words
    return ["prepare", *words[1:at], *words[at + 1 + named :]]


def unknown_command(word: str) -> SwiftError:
    """Say of a sub-command that is not there whether it is planned or mistyped."""
    if word in known_options():
        return SwiftError(
            f"swift {word} is a command of ms-swift that this version does not have yet",
            fix=f"there are: {', '.join(COMMANDS)}",
        )
    close = difflib.get_close_matches(word, COMMANDS, n=1)
    fix = f"did you mean swift {close[0]}?" if close else f"there are: {', '.join(COMMANDS)}"
    return SwiftError(f"unknown command {word!r}", fix=fix)


if __name__ == "__main__":
    sys.exit(main())
