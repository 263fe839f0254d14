"""The command that prints the invariants of a run, on a tiny model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

FILE = Path(__file__).parents[2] / "benchmarks" / "invariants.py"


def test_nothing_that_must_not_changes_a_loss(base: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("invariants", FILE)
    assert spec is not None and spec.loader is not None
    invariants = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(invariants)
    runs = invariants.Runs(str(base), tmp_path)
    # The other files of this folder hold the rest.
    found = invariants.compare(runs, lambda name: name.startswith(("packed", "stopped")))
    assert len(found) == 2
    for name, (_, difference) in found.items():
        assert difference <= (0 if "gone on" in name else 2e-5), name
