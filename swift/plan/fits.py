"""Whether a plan fits the machine, and what that decides."""

from __future__ import annotations

from pathlib import Path

from swift.plan.memory import MemoryPlan
from swift.plan.show import human_bytes

MEMINFO = Path("/proc/meminfo")
OWN_CGROUP = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")
ROOM = 0.85
"""A plan may take this share of what is free: plans came out up to 14 % too low (benchmarks/memory.py)."""


def available_memory(device: str = "cpu") -> int:
    """Bytes that a run may take on `device` now: free RAM within every cgroup limit, or free memory of the GPU."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    return min([_free_ram(), *_cgroup_rooms()])


def choose_checkpointing(without: MemoryPlan, with_it: MemoryPlan, available: int) -> tuple[bool, str]:
    """Whether to compute activations again, and why: only where the run would not fit otherwise."""
    room = round(available * ROOM)
    have = f"{human_bytes(available)} free"
    if without.total <= room:
        return False, f"{human_bytes(without.total)} planned without it, {have}"
    if with_it.total >= without.total:
        return False, f"it saves nothing here; {human_bytes(without.total)} planned, {have}"
    if with_it.total <= room:
        return True, f"{human_bytes(without.total)} planned without it, {human_bytes(with_it.total)} with it, {have}"
    return True, f"{human_bytes(with_it.total)} planned even with it, {have}: it may not fit"


def _free_ram() -> int:
    if MEMINFO.is_file():
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    import psutil

    return int(psutil.virtual_memory().available)


def _cgroup_rooms() -> list[int]:
    """Room under each limit from this process's own cgroup (v2, or the memory controller of v1) to the root."""
    rooms = []
    for folder, limit, usage in _cgroup_folders():
        most = _number(folder / limit)
        if most is None:
            continue
        used = _number(folder / usage) or 0
        # Cached files count as used, but the kernel drops them before it refuses memory.
        rooms.append(max(0, most - used + _inactive_files(folder)))
    return rooms


def _cgroup_folders() -> list[tuple[Path, str, str]]:
    found: list[tuple[Path, str, str]] = []
    if not OWN_CGROUP.is_file():
        return found
    for line in OWN_CGROUP.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, files = CGROUP_ROOT, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, files = CGROUP_ROOT / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        own = root / path.lstrip("/")
        # Inside a container the path may be the host's; then the root is the container's own group.
        chain = [own, *own.parents] if own.is_dir() else [root]
        found += [(folder, *files) for folder in chain if folder == root or root in folder.parents]
    return found


def _number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    # Version 1 writes "no limit" as a number close to 2^63.
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None


def _inactive_files(folder: Path) -> int:
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    values = dict(line.split() for line in lines if len(line.split()) == 2)
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))
