from __future__ import annotations

from pathlib import Path

import pytest

from swift.plan import fits
from swift.plan.fits import available_memory, choose_checkpointing
from swift.plan.memory import MemoryPlan

MIB = 1 << 20
NO_LIMIT = 9223372036854771712


def plan_of(size: int) -> MemoryPlan:
    return MemoryPlan({"weights": size}, "forward and backward", "cpu")


@pytest.mark.parametrize(
    ("without", "with_it", "available", "chosen", "words"),
    [
        (85, 40, 100, False, "planned without it"),
        (86, 40, 100, True, "with it"),
        (200, 100, 100, True, "may not fit"),
        (200, 200, 100, False, "saves nothing"),
    ],
)
def test_checkpointing_is_chosen_only_where_it_is_needed(
    without: int, with_it: int, available: int, chosen: bool, words: str
) -> None:
    found, reason = choose_checkpointing(plan_of(without * MIB), plan_of(with_it * MIB), available * MIB)
    assert found is chosen
    assert words in reason


def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, files: dict[str, str]) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {2000 * 1024} kB\n")
    (tmp_path / "own").write_text(cgroup)
    root = tmp_path / "cgroup"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(fits, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(fits, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(fits, "CGROUP_ROOT", root)


def test_without_limits_free_ram_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, monkeypatch, "0::/a\n", {"a/memory.max": "max\n", "a/memory.current": "5"})
    assert available_memory() == 2000 * MIB


def test_the_tightest_group_above_the_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "a/memory.max": str(900 * MIB),
        "a/memory.current": str(300 * MIB),
        "a/memory.stat": f"anon 1\ninactive_file {100 * MIB}\n",
        "a/b/memory.max": "max\n",
        "a/b/memory.current": "0",
    }
    machine(tmp_path, monkeypatch, "0::/a/b\n", files)
    assert available_memory() == 700 * MIB


def test_inside_a_container_the_root_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, monkeypatch, "0::/x/y\n", {"memory.max": str(50 * MIB), "memory.current": str(10 * MIB)})
    assert available_memory() == 40 * MIB


@pytest.mark.parametrize(("limit", "expected"), [(64 * MIB, 60), (NO_LIMIT, 2000)])
def test_version_one_of_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, expected: int) -> None:
    files = {
        "memory/a/memory.limit_in_bytes": str(limit),
        "memory/a/memory.usage_in_bytes": str(4 * MIB),
    }
    machine(tmp_path, monkeypatch, "4:cpu:/a\n9:memory:/a\n", files)
    assert available_memory() == expected * MIB
