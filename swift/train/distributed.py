"""The little that a run has to know about its processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

from swift.errors import SwiftError

T = TypeVar("T")


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
    """
    found: T | SwiftError | None = None
    if is_main():
        try:
            found = function()
        except SwiftError as error:
            found = error
    found = broadcast(found)
    if isinstance(found, SwiftError):
        raise found
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
