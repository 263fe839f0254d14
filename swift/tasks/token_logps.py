"""From a model and a micro-batch to the log-probabilities of its trained tokens."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from swift.objectives.types import TokenLogps
from swift.rows import IGNORE
from swift.tasks.head import head_logps, tapped
from swift.tasks.row_logps import row_logps
from swift.tuners.reft import note_prompts

PER_TOKEN = ("weights", "channels")
"""Values for each token that go with its log-probability."""
NOT_FOR_THE_MODEL = ("labels", "places", *PER_TOKEN)
"""Parts of a batch that are not for the model."""


def takes_logits_to_keep(model: Any) -> bool:
    """Whether the model can be asked for the logits of chosen positions only."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def virtual_tokens(model: Any) -> int:
    """Positions that prompt tuning puts before each row; a prefix has none, it stands in the cache."""
    inner = getattr(model, "module", model)
    adapter = inner.active_peft_config if hasattr(inner, "peft_config") else None
    if adapter is None or not adapter.is_prompt_learning or adapter.peft_type == "PREFIX_TUNING":
        return 0
    return int(adapter.num_virtual_tokens)


def trained_places(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Where a batch is trained; best asked before the batch goes to a GPU, which would have to be waited for.

    Args:
        batch: labels int64[b, n] not shifted, weights float32[b, n] and channels int64[b, n] or absent.

    Returns:
        columns: int64[c], the places of each row that predict something trained in some row.
        chosen: int64[k], which of the b * c places of these columns are trained; None means all of them.
        labels: int64[k], the trained tokens; weights and channels likewise, where the batch has them.
    """
    targets = batch["labels"][:, 1:]
    columns = (targets != IGNORE).any(dim=0).nonzero().squeeze(1)
    if len(columns) == 0:
        columns = columns.new_zeros(1)
    kept = {name: batch[name][:, 1:][:, columns].flatten() for name in ("labels", *PER_TOKEN) if name in batch}
    chosen: torch.Tensor | None = (kept["labels"] != IGNORE).nonzero().squeeze(1)
    if chosen is not None and len(chosen) == len(kept["labels"]):
        # Where every row is trained a copy is saved.
        chosen = None
    if chosen is not None:
        kept = {name: values[chosen] for name, values in kept.items()}
    return {"columns": columns, "chosen": chosen, **kept}


def token_logps(
    model: Any,
    batch: dict[str, torch.Tensor],
    *,
    select: bool,
    label_smoothing: float = 0.0,
    head: Any = None,
    balance: bool = False,
) -> tuple[TokenLogps, torch.Tensor | None, torch.Tensor]:
    """Log-probabilities of the trained tokens; logits exist only where some row of the micro-batch is trained.

    Args:
        model: a causal language model, wrapped or not.
        batch: input_ids int64[b, n], labels int64[b, n] not shifted, weights float32[b, n] and channels int64[b, n]
            or absent, and whatever else the model takes; `trained_places` as places, where they are known.
        select: whether the model takes `logits_to_keep`.
        label_smoothing: mixes the uniform distribution into each target (Szegedy et al., 2016, section 7).
        head: the model's `separable_head`, where logits are to be computed some tokens at a time.
        balance: also ask how evenly experts are used.

    Returns:
        The log-probabilities, with the logits float[k, vocabulary] (None with `head`) and labels int64[k] of the k
        trained tokens.
    """
    inputs = {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}
    note_prompts(model, batch["labels"])
    places: Any = batch.get("places") or trained_places(batch)
    labels = places["labels"]
    logps, logits, uneven = logps_at(
        model, inputs, places["columns"], labels, places["chosen"], select, label_smoothing, head, balance
    )
    outputs = TokenLogps(logps, places.get("weights"), channel=places.get("channels"), balance=uneven)
    return outputs, logits, labels


def logps_at(
    model: Any,
    inputs: dict[str, Any],
    columns: torch.Tensor,
    labels: torch.Tensor,
    chosen: torch.Tensor | None,
    select: bool,
    label_smoothing: float,
    head: Any,
    balance: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Log-probabilities float32[k] of labels int64[k], the logits they come from where those lie in memory, and how
    unevenly experts were used where `balance` asks for it.

    Args:
        model: a causal language model.
        inputs: what it takes.
        columns: int64[c], the places of each row that predict something trained.
        labels: int64[k].
        chosen: int64[k], which of the b * c places the labels belong to; None means all of them.
        select: whether the model takes `logits_to_keep`.
        label_smoothing: as in `token_logps`.
        head: as in `token_logps`.
        balance: as in `token_logps`.
    """
    # Virtual tokens of prompt tuning stand before each row and have logits too.
    columns = columns + virtual_tokens(model)
    extra: dict[str, Any] = {"logits_to_keep": columns} if select else {}
    if balance:
        extra["output_router_logits"] = True
    tap: AbstractContextManager[list[torch.Tensor]] = tapped(head) if head is not None else nullcontext([])
    with tap as hidden:
        output = model(**inputs, use_cache=False, **extra)
    places = hidden[0] if head is not None else output.logits
    if not select:
        places = places[:, columns]
    places = places.flatten(0, 1)
    if chosen is not None:
        places = places.index_select(0, chosen)
    rows = (
        row_logps(places, labels, label_smoothing)
        if head is None
        else head_logps(head, places, labels, label_smoothing)
    )
    if not len(labels):
        # A process without samples in this micro-batch still takes part in the backward pass of the others.
        rows = rows + 0.0 * places.sum()
    return rows, places if head is None else None, output.aux_loss if balance else None
