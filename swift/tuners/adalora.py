"""AdaLoRA: LoRA whose ranks are shared out among the layers while it trains (Zhang et al., 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners import tuner
from swift.tuners.families import attach, peft_config

STATE = "rank_schedule.safetensors"
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What PEFT's allocator averages: importance, its smoothed value, and its uncertainty."""


@tuner("adalora")
def adalora(model: Any, config: TunerConfig) -> Any:
    """Attach AdaLoRA; its schedule ends after `adalora_total_step` steps.

    Raises:
        SwiftError: the schedule has no length, or its parts are longer than it is.
    """
    total = config.adalora_total_step
    if total is None:
        raise SwiftError("AdaLoRA cuts ranks by a schedule, and its length is not known", fix="set adalora_total_step")
    # The importance that the last cut goes by is averaged over the steps before it.
    if max(config.adalora_tinit, 1) >= total - config.adalora_tfinal:
        raise SwiftError(
            f"--adalora_tinit {config.adalora_tinit} and --adalora_tfinal {config.adalora_tfinal} leave none of the "
            f"{total} steps for cutting ranks",
            fix="lower them, or train for more steps",
        )
    if config.adalora_target_r >= config.adalora_init_r:
        raise SwiftError(
            f"--adalora_target_r {config.adalora_target_r} is not below --adalora_init_r {config.adalora_init_r}",
            fix="ranks are cut, never grown: start from a larger one",
        )
    return only_matrices(attach(model, config, peft_config(model, config)))


def only_matrices(model: Any) -> Any:
    """The divisor `ranknum` is no weight; PEFT lets it require gradients where a model has no storage."""
    for name, parameter in model.named_parameters():
        if ".ranknum." in name:
            parameter.requires_grad_(False)
    return model


def is_adalora(model: Any) -> bool:
    """Whether a model trains AdaLoRA."""
    return hasattr(getattr(model, "base_model", None), "update_and_allocate")


class RankSchedule:
    """AdaLoRA's part of a step, and its state in a checkpoint.

    Args:
        model: PEFT's model with AdaLoRA.
        cuts: whether ranks are still shared out; those of a trained adapter stay as they are.
    """

    def __init__(self, model: Any, *, cuts: bool) -> None:
        self.tuned, self.cuts = model.base_model, cuts
        self.adapter = model.peft_config["default"]

    def penalty(self) -> Any:
        """The weighted mean of ||P'P - I|| and ||QQ' - I|| over all layers (eq. 4), as PEFT computes it."""
        import torch

        parts = [self._off_orthogonal(name, weight) for name, weight in self._matrices()]
        return self.adapter.orth_reg_weight * torch.stack(parts).mean()

    @staticmethod
    def _off_orthogonal(name: str, weight: Any) -> Any:
        import torch

        square = weight @ weight.T if ".lora_A." in name else weight.T @ weight
        return torch.linalg.matrix_norm(square - torch.eye(len(square), dtype=square.dtype, device=square.device))

    def _matrices(self) -> list[tuple[str, Any]]:
        named = self.tuned.model.named_parameters()
        return [(name, weight) for name, weight in named if ".lora_A." in name or ".lora_B." in name]

    def after_step(self, step: int) -> None:
        """Weigh the layers by their gradients and cut ranks; after the optimizer's step, before gradients go.

        Args:
            step: optimizer steps done, this one among them.
        """
        if self.cuts:
            self.tuned.update_and_allocate(step)

    @contextmanager
    def acting_ranks(self) -> Iterator[None]:
        """While the adapter is saved: its ranks are those that act now.

        PEFT saves by the last cut, and between two cuts the optimizer brings back what was cut.
        """
        before = self.adapter.rank_pattern
        if self.cuts and before:
            weights = self._weights().items()
            self.adapter.rank_pattern = {
                name: (weight != 0).flatten().tolist() for name, weight in weights if ".lora_E." in name
            }
        try:
            yield
        finally:
            if self.cuts:
                self.adapter.rank_pattern = before

    def save(self, folder: Path) -> None:
        """Write the matrices at full rank, the averages and the ranks: what a run needs to go on exactly."""
        if not self.cuts:
            return
        import torch
        from safetensors.torch import save_file

        allocator = self.tuned.rankallocator
        state = {f"weight/{name}": weight for name, weight in self._weights().items()}
        for kind in AVERAGES:
            state |= {f"{kind}/{name}": value for name, value in getattr(allocator, kind).items()}
        for name, kept in (self.adapter.rank_pattern or {}).items():
            state[f"pattern/{name}"] = torch.tensor(kept, dtype=torch.bool)
        save_file({name: value.detach().contiguous().cpu() for name, value in state.items()}, folder / STATE)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        if not self.cuts:
            return
        from safetensors.torch import load_file

        weights, allocator = self._weights(), self.tuned.rankallocator
        pattern: dict[str, list[bool]] = {}
        for name, value in load_file(folder / STATE).items():
            kind, _, own = name.partition("/")
            if kind == "weight":
                weights[own].data.copy_(value)
            elif kind == "pattern":
                pattern[own] = value.tolist()
            else:
                place = next(weight.device for key, weight in weights.items() if key == own)
                getattr(allocator, kind)[own] = value.to(place)
        self.adapter.rank_pattern = pattern or None

    def _weights(self) -> dict[str, Any]:
        return {name: weight for name, weight in self.tuned.model.named_parameters() if ".lora_" in name}
