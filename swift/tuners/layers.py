"""The layers of a model, and runs that train some of them at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from swift.config import OptimizerConfig
from swift.errors import SwiftError

Turns = Callable[[int], set[int]]
"""Step (the first is 0) -> numbers of the layers that it trains; it hangs on nothing else, so a resumed run draws the
same."""


def layers_of(model: Any) -> Any:
    """The list of the model's layers: of those that are as long as its config says, the one with most values.

    Raises:
        SwiftError: there is none.
    """
    import torch

    count = model.config.get_text_config().num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == count]
    if not lists:
        raise SwiftError(
            f"the model's {count} layers were not found", where=type(model).__name__, fix="choose another --train_type"
        )
    return max(lists, key=lambda layers: sum(parameter.numel() for parameter in layers.parameters()))


class LayerTurns(TrainerCallback):
    """Before each step, lets the layers whose turn it is require gradients; state of the others is dropped.

    Args:
        turns: which layers a step trains.
        rest: whether embeddings, last norm and head are trained in every step, or never.
    """

    def __init__(self, turns: Turns, rest: bool) -> None:
        self.turns, self.rest = turns, rest

    def set_step(self, model: Any, step: int) -> set[Any]:
        """Let exactly what this step trains require gradients; returns the parameters that it does not train."""
        active = self.turns(step)
        in_layers, resting = set(), set()
        for number, layer in enumerate(layers_of(model)):
            for parameter in layer.parameters():
                in_layers.add(parameter)
                parameter.requires_grad_(number in active)
                if number not in active:
                    resting.add(parameter)
        for parameter in set(model.parameters()) - in_layers:
            parameter.requires_grad_(self.rest)
            if not self.rest:
                resting.add(parameter)
        return resting

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Change turns."""
        for parameter in self.set_step(kwargs["model"], state.global_step):
            parameter.grad = None
            kwargs["optimizer"].state.pop(parameter, None)


def layer_turns(model: Any, options: OptimizerConfig, optimizer: str | None, seed: int) -> LayerTurns | None:
    """LISA's draws or BAdam's blocks, where the options ask for either.

    Raises:
        SwiftError: more layers are to be drawn than there are.
    """
    if optimizer == "badam":
        count = len(layers_of(model))
        return LayerTurns(
            block_turns(count, options.badam_switch_interval, options.badam_switch_mode, seed), rest=False
        )
    if not options.lisa_activated_layers:
        return None
    count = len(layers_of(model))
    if options.lisa_activated_layers > count:
        raise SwiftError(
            f"--lisa_activated_layers {options.lisa_activated_layers}: the model has {count} layers",
            fix=f"give {count} at most",
        )
    return LayerTurns(lisa_turns(count, options.lisa_activated_layers, options.lisa_step_interval, seed), rest=True)


def lisa_turns(layers: int, active: int, interval: int, seed: int) -> Turns:
    """Draw `active` layers anew every `interval` steps (Pan et al., 2024, arXiv 2403.17919, algorithm 1)."""

    def turns(step: int) -> set[int]:
        return set(random.Random(f"lisa {seed} {step // interval}").sample(range(layers), active))

    return turns


def block_turns(layers: int, interval: int, mode: str, seed: int) -> Turns:
    """One layer for `interval` steps, then the next (Luo et al., 2024, arXiv 2404.02827, algorithm 1).

    In random order every layer has its turn once before any has it again.
    """

    def turns(step: int) -> set[int]:
        cycle, place = divmod(step // interval, layers)
        order = list(range(layers))
        if mode == "descending":
            order.reverse()
        elif mode == "random":
            random.Random(f"badam {seed} {cycle}").shuffle(order)
        return {order[place]}

    return turns
