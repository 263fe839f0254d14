"""What a run gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class SftResult:
    """What a run left.

    Attributes:
        run_folder: its folder; None after a dry run.
        checkpoint: its last checkpoint.
        steps: optimizer steps in all.
        log: the logged steps, oldest first.
        planned: planned peak memory in bytes.
        measured: measured peak memory in bytes.
        whole: all steps are done.
        status: exit status: 0, or 130 and 143 after an interrupt.
        remarks: what was left out while the run went on, and counted warnings.
    """

    run_folder: Path | None = None
    checkpoint: Path | None = None
    steps: int = 0
    log: list[dict[str, float]] = field(default_factory=list)
    planned: int | None = None
    measured: int | None = None
    whole: bool = True
    status: int = 0
    remarks: list[str] = field(default_factory=list)
