"""Keys and values of a running batch: rows join it and leave it at any token, and all of them end at the same place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

SPARE = 128
"""Tokens of room that a full buffer gets at least."""


class GrowingLayer(DynamicLayer):
    """One layer's keys and values in buffers with room at their end, so that a new token copies no earlier ones.

    Sliding layers keep everything too; their mask hides what lies outside of the window.
    """

    def __init__(self, length: int = 0, keys: Any = None, values: Any = None) -> None:
        super().__init__()
        self._keys, self._values = keys, values
        if keys is not None:
            self.keys, self.values, self.is_initialized = keys[:, :, :length], values[:, :, :length], True
            self.dtype, self.device = keys.dtype, keys.device

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append [rows, heads, new, size] to both and give back all of them."""
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        self._keys, self.keys = _append(self._keys, key_states, length, end)
        self._values, self.values = _append(self._values, value_states, length, end)
        self.is_initialized, self.dtype, self.device = True, key_states.dtype, key_states.device
        return self.keys, self.values


def _append(buffer: torch.Tensor | None, new: torch.Tensor, length: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    if buffer is None or buffer.shape[-2] < end:
        room = new.new_empty(*new.shape[:2], end + max(SPARE, end // 4), new.shape[-1])
        if buffer is not None:
            room[:, :, :length] = buffer[:, :, :length]
        buffer = room
    buffer[:, :, length:end] = new
    return buffer, buffer[:, :, :end]


def new_cache() -> Cache:
    """An empty cache whose layers appear as the model fills them."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def grows(model: Any) -> bool:
    """Whether all that this model remembers of a token are keys and values, which rows can take with them."""
    if getattr(model, "_is_stateful", False) or model.config.is_encoder_decoder:
        return False
    try:
        layers = DynamicCache(config=model.config).layers
    except (TypeError, ValueError, KeyError, AttributeError):
        return False
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def length_of(cache: Cache) -> int:
    """Tokens in a cache, padding included."""
    layers: list[Any] = cache.layers
    return max((layer.get_seq_length() for layer in layers), default=0)


def join(caches: Sequence[Cache]) -> Cache:
    """One cache of all rows, each padded on the left to the longest."""
    width = max(map(length_of, caches))
    return _rebuilt(caches[0], lambda place, name: [getattr(cache.layers[place], name) for cache in caches], width)


def select(cache: Cache, rows: Sequence[int], start: int = 0, *, end: int | None = None, spare: int = SPARE) -> Cache:
    """The cache of these rows alone, in this order, of the tokens from `start` to `end`."""
    end = length_of(cache) if end is None else end

    def parts(place: int, name: str) -> list[torch.Tensor]:
        whole = getattr(cache.layers[place], name)
        return [whole[row : row + 1, :, start:end] for row in rows]

    return _rebuilt(cache, parts, end - start, spare)


def _rebuilt(like: Cache, parts: Callable[[int, str], list[torch.Tensor]], width: int, spare: int = SPARE) -> Cache:
    cache = new_cache()
    layers: list[Any] = like.layers
    for place, layer in enumerate(layers):
        # Layers that use another layer's keys and values have none of their own.
        own = layer.get_seq_length() > 0
        cache.layers.append(
            GrowingLayer(width, *(_lay(parts(place, name), width, spare) for name in ("keys", "values")))
            if own
            else GrowingLayer()
        )
    return cache


def _lay(parts: list[torch.Tensor], width: int, spare: int) -> torch.Tensor:
    """The parts below each other, ending together at `width`, in a buffer with room after it."""
    first = parts[0]
    rows = sum(part.shape[0] for part in parts)
    room = first.new_empty(rows, first.shape[1], width + spare, first.shape[-1])
    at = 0
    for part in parts:
        own = room[at : at + part.shape[0]]
        own[:, :, : width - part.shape[-2]] = 0
        own[:, :, width - part.shape[-2] : width] = part
        at += part.shape[0]
    return room
