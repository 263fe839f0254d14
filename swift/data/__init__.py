"""Rows: read, mapped, checked, tokenised, packed and laid out as batches.

Nothing here imports torch, transformers or datasets before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from swift.registry import Registry

if TYPE_CHECKING:
    from swift.data.collator import Collator as Collator
    from swift.data.collator import Layout as Layout
    from swift.data.drops import Dropped as Dropped
    from swift.data.drops import by_reason as by_reason
    from swift.data.drops import write_dropped as write_dropped
    from swift.data.encoded import EncodedDataset as EncodedDataset
    from swift.data.encoding import encode_rows as encode_rows
    from swift.data.loading import RowSet as RowSet
    from swift.data.loading import iter_rows as iter_rows
    from swift.data.loading import load_rows as load_rows
    from swift.data.loading import split_rows as split_rows
    from swift.data.pack_safety import check_layers as check_layers
    from swift.data.pack_safety import check_packing as check_packing
    from swift.data.pack_safety import probe_packing as probe_packing
    from swift.data.packing import plan_packs as plan_packs
    from swift.data.steps import RankBatches as RankBatches
    from swift.data.steps import StepPlan as StepPlan
    from swift.data.steps import UnitIndex as UnitIndex

datasets: Registry[Callable[..., Iterable[dict[str, Any]]]] = Registry("data set", "dataset")
"""Functions that give rows, by the name that `--dataset` knows them by."""

dataset = datasets.register
"""Decorator: `@dataset("name")` over a function without arguments that gives rows."""

_HOMES = {
    "Collator": "collator",
    "Dropped": "drops",
    "EncodedDataset": "encoded",
    "Layout": "collator",
    "RankBatches": "steps",
    "RowSet": "loading",
    "StepPlan": "steps",
    "UnitIndex": "steps",
    "check_layers": "pack_safety",
    "check_packing": "pack_safety",
    "encode_rows": "encoding",
    "iter_rows": "loading",
    "load_rows": "loading",
    "plan_packs": "packing",
    "probe_packing": "pack_safety",
    "by_reason": "drops",
    "split_rows": "loading",
    "write_dropped": "drops",
}

__all__ = ["dataset", "datasets", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
