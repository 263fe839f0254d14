"""The little that a run has to know about its processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar, cast

from swift.errors import SwiftError

T = TypeVar("T")

BEAT_SECONDS = 20.0
"""Between the signs of life of process 0; a process group waits for minutes."""


def world_size() -> int:
    """Number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number; 0 writes and prints."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes and prints."""
    return rank() == 0


def start(backend: str | None) -> None:
    """Join the process group, over gloo where there is no accelerator; nothing to do for a single process."""
    import torch
    import torch.distributed as dist

    if world_size() == 1 or dist.is_initialized():
        return
    on_cpu = not torch.accelerator.is_available()
    if not on_cpu:
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend or ("gloo" if on_cpu else None))


def broadcast(value: T) -> T:
    """Give every process what process 0 has."""
    import torch.distributed as dist

    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_main(function: Callable[[], T]) -> T:
    """Call a function in process 0 alone and give every process what it returned, or the mistake that it raised.

    Raises:
        SwiftError: the function raised it.
        RuntimeError: in the other processes, where it raised something else.
    """
    return _shared(_outcome(function) if is_main() else None)


def from_main_at_length(function: Callable[[], T]) -> T:
    """`from_main` for what may take longer than a process group waits: process 0 says that it is still at work.

    Raises:
        SwiftError: as `from_main`.
        RuntimeError: as `from_main`.
    """
    if world_size() == 1:
        return function()
    with ThreadPoolExecutor(1, thread_name_prefix="swift-main") as pool:
        work = pool.submit(_outcome, function) if is_main() else None
        while True:
            if work is not None:
                wait([work], BEAT_SECONDS)
            if broadcast(work is not None and work.done()):
                return _shared(work.result() if work is not None else None)


def _outcome(function: Callable[[], T]) -> T | Exception:
    try:
        return function()
    except Exception as error:
        return error


def _shared(own: T | Exception | None) -> T:
    failed = isinstance(own, Exception) and not isinstance(own, SwiftError)
    found = broadcast(RuntimeError(f"process 0 failed: {own!r}") if failed else own)
    if isinstance(found, Exception):
        raise own if isinstance(own, Exception) else found
    return cast(T, found)


def gather(value: T) -> list[T]:
    """What every process has, in their order, for process 0; nothing for the others."""
    import torch.distributed as dist

    if world_size() == 1:
        return [value]
    values: list[T] | None = [value] * world_size() if is_main() else None
    dist.gather_object(value, values, dst=0)
    return values or []


def all_gather(value: T) -> list[T]:
    """What every process has, in their order, for each of them."""
    import torch.distributed as dist

    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def any_process(flag: bool) -> bool:
    """Whether the flag is up in some process."""
    import torch
    import torch.distributed as dist

    if world_size() == 1:
        return flag
    device = torch.accelerator.current_accelerator() if dist.get_backend() != "gloo" else None
    up = torch.tensor([int(flag)], device=device or "cpu")
    dist.all_reduce(up)
    return bool(up.item())


def barrier() -> None:
    """Wait for every process."""
    import torch.distributed as dist

    if world_size() > 1:
        dist.barrier()


def stop() -> None:
    """Wait for every process and leave the group: a process that ends inside it may abort the others' threads."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
