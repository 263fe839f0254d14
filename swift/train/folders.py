"""Where a run lives: version folders, its newest whole checkpoint, links to checkpoints."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from swift.errors import SwiftError
from swift.train.distributed import is_main

if TYPE_CHECKING:
    from swift.config import SftConfig
    from swift.config.train import TrainConfig

VERSION = re.compile(r"v(\d+)-")
STATE = "trainer_state.json"
NOTHING = ("false", "none")
"""Words for --resume_from_checkpoint that mean no checkpoint."""

LIVE = "stream.json"
"""Where the data of a run stands whose samples are made while it goes on."""


def new_run_folder(output_dir: Path, add_version: bool) -> Path:
    """Make the folder of a new run: `output_dir/vN-date` with N one above the highest, or `output_dir` itself.

    Raises:
        SwiftError: it cannot be written.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        while add_version:
            numbers = [int(found[1]) for path in output_dir.iterdir() if (found := VERSION.match(path.name))]
            folder = output_dir / f"v{max(numbers, default=-1) + 1}-{time.strftime('%Y%m%d-%H%M%S')}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
        check_writable(output_dir)
    except OSError as error:
        raise _not_writable(output_dir, error) from None
    return output_dir


def check_writable(folder: Path) -> None:
    """Find out before a run, not at its first checkpoint, that its folder cannot be written.

    Raises:
        SwiftError: neither the folder nor the nearest one above it that exists can be written.
    """
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise SwiftError(f"--output_dir {folder}: {place} is a file", fix="name a folder")
    probe = place / f".swift-write-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _not_writable(folder, error) from None


def _not_writable(folder: Path, error: OSError) -> SwiftError:
    return SwiftError(
        f"--output_dir {folder} cannot be written: {error.strerror}", fix="name a folder that you may write to"
    )


def latest_checkpoint(output_dir: Path) -> Path | None:
    """The newest whole checkpoint under `output_dir`, in it or in any of its version folders."""
    found = [*output_dir.glob("checkpoint-*"), *output_dir.glob("v*-*/checkpoint-*")]
    whole = [path for path in found if is_whole(path)]
    return max(whole, key=lambda path: ((path / STATE).stat().st_mtime_ns, step_of(path)), default=None)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be gone on from: its state reads, and weights and optimizer are there."""
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (checkpoint / "optimizer.pt").is_file() and any(checkpoint.glob("*model*.safetensors"))


def step_of(checkpoint: Path) -> int:
    """N of checkpoint-N, -1 for another name."""
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def resume_point(wanted: str | None, output_dir: Path) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` means; None where `latest` finds none.

    Raises:
        SwiftError: the named folder is no whole checkpoint.
    """
    if wanted is None or wanted.lower() in NOTHING:
        return None
    if wanted.lower() in ("latest", "true"):
        return latest_checkpoint(output_dir.resolve())
    checkpoint = Path(wanted)
    if not checkpoint.is_dir():
        newest = latest_checkpoint(output_dir.resolve())
        raise SwiftError(
            f"--resume_from_checkpoint {wanted}: no such folder",
            fix=f"the newest is {newest}" if newest else f"there is no whole checkpoint under {output_dir} either",
        )
    return checkpoint.resolve()


def check_resume(train: TrainConfig, output_dir: Path) -> None:
    """Stop where a run cannot go on from what is named, and warn where it starts anew.

    Raises:
        SwiftError: the named folder is no whole checkpoint, or there is none to take weights from.
    """
    wanted = train.resume_from_checkpoint
    if resume_point(wanted, output_dir) is not None or wanted is None or wanted.lower() in NOTHING:
        return
    if train.resume_only_model:
        raise SwiftError(
            f"--resume_from_checkpoint {wanted}: there is no whole checkpoint under {output_dir}",
            fix="name one, or leave --resume_only_model out",
        )
    if is_main():
        print(
            f"warning: --resume_from_checkpoint {wanted}: there is no whole checkpoint under {output_dir}; "
            "the run starts anew",
            file=sys.stderr,
        )


def check_earlier(config: SftConfig, output_dir: Path) -> None:
    """Stop where a new run would replace checkpoints of an earlier one.

    Raises:
        SwiftError: they lie straight in the run's folder, and nobody said that they may go.
    """
    output, train = config.output, config.train
    if output.add_version or output.overwrite_output_dir or output.dry_run:
        return
    earlier = sorted(output_dir.glob("checkpoint-*"), key=step_of)
    resume = None if train.resume_only_model else resume_point(train.resume_from_checkpoint, output_dir)
    goes_on = resume is not None and (not config.given("output_dir") or output_dir.resolve() in resume.parents)
    if earlier and not goes_on:
        raise SwiftError(
            f"--add_version false: {output_dir} holds checkpoints of an earlier run, up to {earlier[-1].name}",
            fix="--resume_from_checkpoint latest goes on with it, --overwrite_output_dir true lets equal steps be "
            "replaced; or name another --output_dir",
        )


def link_checkpoint(run_folder: Path, name: str, checkpoint: Path) -> None:
    """Point the link `name` in the run's folder to a checkpoint, replacing it in one step."""
    temporary = run_folder / f".{name}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(checkpoint.name)
    temporary.replace(run_folder / name)
