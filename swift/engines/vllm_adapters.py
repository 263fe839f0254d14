"""The LoRA adapters of vLLM, of which each request may name one."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from swift.engines.plain_lora import check_alone, no_adapter, rank_of
from swift.errors import SwiftError
from swift.models.adapter_files import check_adapter

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The bounds of a LoRA's rank that vLLM takes."""


class VllmAdapters:
    """The LoRA adapters by name, and the one that acts where a request names none.

    Args:
        always: folders of adapters that act on every request.

    Raises:
        SwiftError: there are several, or one that vLLM cannot run.
    """

    def __init__(self, always: list[Path]) -> None:
        check_alone(always)
        self.names: dict[str, Path] = {}
        self._ids: dict[str, int] = {}
        self._numbers = count(1)
        self._usual: Any = None
        self._empty: TemporaryDirectory[str] | None = None
        for folder in always:
            self._usual = self._made("default", folder)

    def add(self, name: str, folder: Path) -> None:
        """Know one more.

        Raises:
            SwiftError: there is one of this name, or vLLM cannot run it.
        """
        if name in self.names:
            raise SwiftError(f"there is an adapter {name} already: {self.names[name]}", fix="give it another name")
        rank_of(folder)
        self.names[name], self._ids[name] = folder, next(self._numbers)
        if self._usual is None and mixes_wrongly():
            self._empty = TemporaryDirectory(prefix="swift-adapter-")
            write_empty(folder, Path(self._empty.name))
            self._usual = self._made("none", Path(self._empty.name))

    def remove(self, name: str) -> None:
        """Forget one."""
        del self.names[name], self._ids[name]

    def request(self, name: str | None) -> Any:
        """vLLM's LoRARequest for an adapter; None where the base model answers.

        Raises:
            SwiftError: there is none of this name.
        """
        if name is None:
            return self._usual
        if name not in self.names:
            raise no_adapter(name, self.names)
        return self._made(name, self.names[name], self._ids[name])

    def _made(self, name: str, folder: Path, number: int | None = None) -> Any:
        from vllm.lora.request import LoRARequest

        return LoRARequest(name, number or next(self._numbers), str(folder))


def mixes_wrongly() -> bool:
    """Whether a row without an adapter gets that of another row in its batch.

    On the CPU it does (vLLM 0.32, vllm-project/vllm#48421): there such rows name an adapter of zeros. It can go with
    the first version that has the fix.
    """
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def write_empty(like: Path, folder: Path) -> None:
    """An adapter of rank 1 that changes nothing, on the modules of another one."""
    from safetensors import safe_open
    from safetensors.torch import save_file
    from torch import zeros

    tensors = {}
    with safe_open(like / "adapter_model.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118 - it is no dict
            rows, columns = file.get_slice(key).get_shape()
            tensors[key] = zeros(1, columns) if "lora_A" in key or "lora_embedding_A" in key else zeros(rows, 1)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = check_adapter(like) | {"r": 1, "lora_alpha": 1, "rank_pattern": {}, "alpha_pattern": {}}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")


def lora_arguments(adapters: list[Path], options: dict[str, Any]) -> dict[str, Any]:
    """Room for the adapters.

    Raises:
        SwiftError: one of them is larger than vLLM takes.
    """
    if not adapters and not options.get("enable_lora"):
        return {}
    wanted = max([options.get("max_lora_rank") or 16, *map(rank_of, adapters)])
    rank = next((rank for rank in RANKS if rank >= wanted), None)
    if rank is None:
        raise SwiftError(
            f"the adapter's rank is {wanted}; vLLM takes up to {RANKS[-1]}", fix="merge it: swift merge-lora"
        )
    slots = options.get("max_loras") or 1
    return {"enable_lora": True, "max_lora_rank": rank, "max_loras": slots + mixes_wrongly()}
