"""Representation fine-tuning: what layers give is edited in a few directions (Wu et al., 2024, arXiv 2404.03592)."""

from __future__ import annotations

import json
import re
from typing import Any

import torch
from torch import nn

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.rows import IGNORE
from swift.tuners import tuner
from swift.tuners.attached import attach_parts, attached
from swift.tuners.layers import layers_of

ARGUMENTS = {"positions": "all", "act_fn": "linear", "dropout": 0.0}
"""Keys of --reft_args and their defaults."""
FORMS = ("Noreft", "Loreft", "Consreft", "Lobireft", "Direft", "Nodireft")


class Intervention(nn.Module):
    """An edit of hidden states h in r directions, the rows of R [r, width] (section 3.3; eq. 2 and 3).

    ========  ============================  =======================
    form      edit                          rows of R
    ========  ============================  =======================
    Loreft    h + R^T (act(W h + b) - R h)  orthonormal
    Noreft    h + R^T (act(W h + b) - R h)  free
    Consreft  h + R^T (b - R h)             orthonormal
    Lobireft  h + R^T b                     orthonormal
    Direft    h + R^T act(W h + b)          orthonormal
    Nodireft  h + R^T act(W h + b)          free
    ========  ============================  =======================

    Orthonormal rows are those of a QR decomposition of trained ones. W begins as R where R h is taken away, and as zero
    elsewhere, and b as zero, so that with a linear act the model begins as it was (Consreft: without its part along R).

    Args:
        form: one of `FORMS`.
        width: values of a hidden state.
        rank: directions.
        act: the activation's name in transformers.
        dropout: of the edit.
        where: which positions are edited.
    """

    def __init__(self, form: str, width: int, rank: int, act: str, dropout: float, where: Positions) -> None:
        from transformers.activations import ACT2FN

        super().__init__()
        self.act, self.dropout, self.where = ACT2FN[act], nn.Dropout(dropout), where
        self.orthonormal = form not in ("Noreft", "Nodireft")
        self.takes_away = form in ("Noreft", "Loreft", "Consreft")
        self.rotate = nn.Parameter(nn.init.orthogonal_(torch.empty(rank, width)))
        self.bias = nn.Parameter(torch.zeros(rank))
        self.source: nn.Parameter | None = None
        if form not in ("Consreft", "Lobireft"):
            start = self.directions().detach().clone() if self.takes_away else torch.zeros(rank, width)
            self.source = nn.Parameter(start)

    def directions(self) -> torch.Tensor:
        """R, float[rank, width]."""
        if not self.orthonormal:
            return self.rotate
        # Signs that make R the trained rows themselves while those are orthonormal.
        q, r = torch.linalg.qr(self.rotate.float().T)
        return (q * torch.where(torch.diagonal(r) < 0, -1.0, 1.0)).T.to(self.rotate.dtype)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """float[rows, positions, width] -> the same shape and dtype."""
        directions = self.directions()
        state = hidden.to(directions.dtype)
        target = self.bias if self.source is None else self.act(nn.functional.linear(state, self.source, self.bias))
        if self.takes_away:
            target = target - nn.functional.linear(state, directions)
        edit = self.dropout(target @ directions)
        mask = self.where.mask
        if mask is not None:
            edit = edit * mask[..., None]
        return hidden + edit.to(hidden.dtype)


class Positions:
    """Which positions of each row are edited: all, or the first and last of the prompt (section 3.3).

    A prompt ends before the first trained token; where nobody tells (`note_prompts`), it is the whole row, as in the
    first pass of generation. Tokens that are generated later are not edited.

    Attributes:
        first: so many positions at the start of the prompt.
        last: so many at its end.
        prompts: int64[rows], lengths of the prompts of the pass to come.
        mask: bool[rows, positions] of the pass in progress; None means everywhere.
    """

    def __init__(self, positions: str) -> None:
        self.everywhere = positions == "all"
        self.first, self.last = (0, 0) if self.everywhere else read_positions(positions)
        self.prompts: torch.Tensor | None = None
        self.mask: torch.Tensor | None = None

    def begin(self, _model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        """A hook before the model's forward pass: mark the positions of its rows."""
        prompts, self.prompts = self.prompts, None
        ids = kwargs.get("input_ids")
        if ids is None:
            ids = kwargs["inputs_embeds"][..., 0]
        # transformers 5 hands the cache on as `cache`.
        past = next((kwargs[name] for name in ("past_key_values", "cache") if kwargs.get(name) is not None), None)
        if past is not None and past.get_seq_length() > 0:
            self.mask = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
            return
        real = kwargs.get("attention_mask")
        real = torch.ones(ids.shape, dtype=torch.bool, device=ids.device) if real is None else real.bool()
        place = real.long().cumsum(-1) - 1
        length = (real.sum(-1) if prompts is None else prompts)[:, None]
        inside = real & (place < length)
        self.mask = inside & ((place < self.first) | (place >= length - self.last))


def note_prompts(model: Any, labels: torch.Tensor) -> None:
    """Tell the interventions of a model where the prompts of the batch to come end.

    Args:
        model: any model, wrapped or not.
        labels: int64[rows, positions]; a prompt ends before the first that is trained.
    """
    found = attached(getattr(model, "module", model))
    if found is None or found.kind != "REFT":
        return
    trained = labels != IGNORE
    ends = torch.where(trained.any(-1), trained.int().argmax(-1), labels.shape[-1])
    where: Any = next(iter(found.parts.values())).where
    where.prompts = None if where.everywhere else ends


@tuner("reft")
def reft(model: Any, config: TunerConfig) -> Any:
    """Edit what the chosen layers give.

    Raises:
        SwiftError: there is no such layer, list of layers or argument.
    """
    arguments = read_arguments(config)
    names, count = layer_names(model, config.reft_layer_key)
    chosen = sorted(set(config.reft_layers)) or list(range(count))
    wrong = [layer for layer in chosen if not 0 <= layer < count]
    if wrong:
        raise SwiftError(f"--reft_layers {wrong[0]}: there is no such layer", fix=f"there are 0 to {count - 1}")
    settings = {
        "intervention_type": config.reft_intervention_type,
        "rank": config.reft_rank,
        "layers": [names[layer] for layer in chosen],
        **arguments,
    }
    return attach_parts(model, "REFT", settings, config.lora_dtype)


def parts_of(model: Any, settings: dict[str, Any]) -> dict[str, nn.Module]:
    """The interventions by the names of their layers."""
    where = Positions(settings["positions"])
    if not where.everywhere:
        model.register_forward_pre_hook(where.begin, with_kwargs=True)
    form = settings["intervention_type"].removesuffix("Intervention")
    width = model.config.get_text_config().hidden_size
    return {
        name: Intervention(form, width, settings["rank"], settings["act_fn"], settings["dropout"], where)
        for name in settings["layers"]
    }


def layer_names(model: Any, key: str | None) -> tuple[list[str], int]:
    """Names of the layers in the list that `--reft_layer_key` names, or in the model's own.

    Raises:
        SwiftError: there is no such list.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    found = (
        layers_of(model) if key is None else next((m for n, m in lists.items() if f".{n}".endswith(f".{key}")), None)
    )
    if found is None:
        raise SwiftError(f"--reft_layer_key {key}: no such list of layers", fix=f"there are: {', '.join(lists)}")
    name = next(name for name, module in lists.items() if module is found)
    return [f"{name}.{number}" for number in range(len(found))], len(found)


def read_positions(text: str) -> tuple[int, int]:
    """`f7+l7` -> (7, 7): the first and last positions of a prompt that are edited."""
    found = re.fullmatch(r"(?:f(\d+))?\+?(?:l(\d+))?", text)
    first, last = (int(number or 0) for number in found.groups()) if found else (0, 0)
    if not first + last:
        raise SwiftError(
            f'--reft_args: "positions" is {text!r}',
            fix="write all, or f7+l7 for the first and last seven of the prompt",
        )
    return first, last


def read_arguments(config: TunerConfig) -> dict[str, Any]:
    """`--reft_args` over its defaults.

    Raises:
        SwiftError: it is no JSON object, or a key or value is unknown.
    """
    from transformers.activations import ACT2FN

    try:
        given = json.loads(config.reft_args) if config.reft_args else {}
    except ValueError as error:
        raise SwiftError(f"--reft_args is no JSON: {error}", fix=f"write it like '{json.dumps(ARGUMENTS)}'") from None
    unknown = sorted(given.keys() - ARGUMENTS.keys()) if isinstance(given, dict) else ["no object"]
    if unknown:
        raise SwiftError(f"--reft_args: {unknown[0]}", fix=f"it takes {', '.join(ARGUMENTS)}")
    values = ARGUMENTS | given
    if values["act_fn"] not in ACT2FN:
        raise SwiftError(f'--reft_args: "act_fn" is {values["act_fn"]!r}', fix=f"one of: {', '.join(sorted(ACT2FN))}")
    if not isinstance(values["dropout"], (int, float)) or not 0 <= values["dropout"] < 1:
        raise SwiftError(f'--reft_args: "dropout" is {values["dropout"]!r}', fix="give a number from 0 to below 1")
    if values["positions"] != "all":
        read_positions(str(values["positions"]))
    return values
