"""Which samples share a sequence."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Literal

import numpy as np

from swift.errors import SwiftError


def plan_packs(
    lengths: Sequence[int] | np.ndarray, capacity: int, strategy: Literal["binpack", "sequential"]
) -> list[list[int]]:
    """Lay samples into packs of at most `capacity` tokens; the same input always gives the same packs.

    Args:
        lengths: tokens of each sample.
        capacity: tokens that a pack holds.
        strategy: `binpack` is best-fit decreasing (Johnson, 1973); `sequential` keeps the order of the data and opens
            a new pack when the next sample does not fit.

    Returns:
        Sample numbers of each pack, ascending; the packs are ordered by their first sample.

    Raises:
        SwiftError: a sample is longer than a pack.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and sizes.max() > capacity:
        longest = int(sizes.argmax())
        raise SwiftError(
            f"sample {longest} has {sizes[longest]} tokens, which is more than --packing_length {capacity}",
            fix="lower --max_length or raise --packing_length",
        )
    if strategy == "sequential":
        return _next_fit(sizes.tolist(), capacity)
    packs = _best_fit_decreasing(sizes, capacity)
    for pack in packs:
        pack.sort()
    packs.sort(key=lambda pack: pack[0])
    return packs


def _next_fit(sizes: list[int], capacity: int) -> list[list[int]]:
    packs: list[list[int]] = []
    room = -1
    for index, size in enumerate(sizes):
        if size > room:
            packs.append([])
            room = capacity
        packs[-1].append(index)
        room -= size
    return packs


def _best_fit_decreasing(sizes: np.ndarray, capacity: int) -> list[list[int]]:
    """Longest first, each into the open pack that it fills best.

    Samples of one length are placed together: the pack that fits one best also fits the next best for as long as it
    has room. Open packs are found by their room in a sorted list of the rooms that occur.
    """
    order = np.argsort(-sizes, kind="stable")
    lengths, counts = np.unique(sizes, return_counts=True)
    members = order.tolist()
    packs: list[list[int]] = []
    rooms: list[int] = []
    by_room: dict[int, list[int]] = {}
    place = 0
    for length, count in zip(lengths[::-1].tolist(), counts[::-1].tolist(), strict=True):
        stop = place + count
        while place < stop:
            at = bisect_left(rooms, length)
            if at < len(rooms):
                room = rooms[at]
                pack = by_room[room].pop()
                if not by_room[room]:
                    del by_room[room], rooms[at]
            else:
                room, pack = capacity, len(packs)
                packs.append([])
            taken = min(stop - place, room // length)
            packs[pack] += members[place : place + taken]
            place += taken
            left = room - taken * length
            if left:
                if left not in by_room:
                    by_room[left] = []
                    insort(rooms, left)
                by_room[left].append(pack)
    return packs
