"""Keys and values of earlier conversations, from which a prompt that begins alike goes on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache

from swift.engines.cache import new_cache, select

SHORTEST = 32
"""Common tokens for which it is worth while."""
FAIR = 4
"""The part of a prompt that must be known: it is read by itself then, and not with others."""
ROOM = {"cpu": 512 * 2**20}
"""Bytes that are kept, by device; elsewhere a share of the device's memory."""
SHARE = 0.05


class Prefixes:
    """The last answered conversations, the ones longest unused forgotten first.

    Args:
        device: where the model runs.
        room: bytes to keep; None means what suits the device, 0 keeps nothing.
    """

    def __init__(self, device: torch.device, room: int | None = None) -> None:
        self.room = _room(device) if room is None else room
        self._kept: OrderedDict[tuple[Any, ...], Cache] = OrderedDict()
        self._bytes = 0

    def keep(self, adapter: str | None, tokens: Sequence[int], cache: Cache, row: int, padding: int) -> None:
        """Keep one row of a batch's cache: that of these tokens, after so much padding."""
        if len(tokens) < SHORTEST or not self.room:
            return
        key = (adapter, *tokens)
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        own = select(cache, [row], padding, spare=0)
        self._kept[key] = own
        self._bytes += _bytes(own)
        while self._bytes > self.room:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])

    def known(self, adapter: str | None, prompt: Sequence[int]) -> int:
        """Tokens of the longest beginning of a prompt that is kept, its last token left out; 0 for a short one."""
        return self._find(adapter, prompt)[0]

    def take(self, adapter: str | None, prompt: Sequence[int]) -> Cache:
        """A cache of that beginning, empty where there is none."""
        length, key = self._find(adapter, prompt)
        if key is None:
            return new_cache()
        self._kept.move_to_end(key)
        return select(self._kept[key], [0], end=length)

    def _find(self, adapter: str | None, prompt: Sequence[int]) -> tuple[int, tuple[Any, ...] | None]:
        best, found = 0, None
        least = max(SHORTEST, len(prompt) // FAIR)
        for key in self._kept:
            if key[0] == adapter and (common := _common(key, prompt)) >= max(least, best + 1):
                best, found = common, key
        return best, found

    def forget(self) -> None:
        """Drop everything: the weights have changed."""
        self._kept.clear()
        self._bytes = 0


def _common(key: tuple[Any, ...], prompt: Sequence[int]) -> int:
    most = min(len(key) - 1, len(prompt) - 1)
    return next((at for at in range(most) if key[at + 1] != prompt[at]), most)


def _bytes(cache: Cache) -> int:
    layers: list[Any] = cache.layers
    return sum(part.nbytes for layer in layers if layer.get_seq_length() for part in (layer.keys, layer.values))


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return int(SHARE * torch.cuda.get_device_properties(device).total_memory)
    return ROOM["cpu"]
