"""An average of the trained weights over the steps, which is evaluated and saved in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

FILE = "average.safetensors"
AVERAGED, TRAINED = "averaged.", "trained."
"""What stands before the names of the weights in the file."""


class WeightAverage:
    """The exponential moving average of the trained weights, in float32 (Polyak and Juditsky, 1992).

    After step t it is d times what it was and 1 - d times the weights, d = min(decay, (1 + t) / (10 + t)): so the start
    of a run does not weigh for ever (TensorFlow, `ExponentialMovingAverage` with `num_updates`).

    Args:
        model: with exactly what is trained requiring gradients.
        decay: between 0 and 1.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.average = {name: weight.detach().float().clone() for name, weight in self.weights.items()}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the average, after the optimizer's step of this number, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, weight in self.weights.items():
            self.average[name].lerp_(weight.float(), 1 - decay)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Let the model have the average, in its own dtype; it gets the trained weights back at the end."""
        trained = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(trained)

    @torch.no_grad()
    def _put(self, values: dict[str, torch.Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(values[name])

    def save(self, folder: Path) -> None:
        """Keep both beside a checkpoint's weights, which are the average rounded."""
        from safetensors.torch import save_file

        kept = {AVERAGED + name: value for name, value in self.average.items()}
        kept |= {TRAINED + name: weight.detach() for name, weight in self.weights.items()}
        # Tied weights count once here, and parts of one storage are written apart.
        save_file({name: value.cpu().contiguous().clone() for name, value in kept.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint: the model gets the trained weights."""
        from safetensors.torch import load_file

        kept: dict[str, Any] = load_file(folder / FILE)
        for name, value in self.average.items():
            value.copy_(kept[AVERAGED + name])
        self._put({name: kept[TRAINED + name] for name in self.weights})
