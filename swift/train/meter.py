"""Sums of losses and tokens between two logged steps, of all rows and of each channel."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swift.objectives.types import Objective, TokenLogps


class Meter:
    """Adds up micro-batches and gives averages per step; its state lives in checkpoints, so a resumed run logs the
    same figures as an unbroken one.
    """

    def __init__(self) -> None:
        self._losses: list[torch.Tensor] = []
        self._loss = 0.0
        self.last_step = 0
        self._tokens: Any = 0
        self._started = time.perf_counter()

    def add(self, loss: torch.Tensor, batch: dict[str, Any]) -> None:
        """Note a micro-batch; nothing is read from the device here."""
        self._losses.append(loss.detach().double())
        mask = batch.get("attention_mask")
        self._tokens = self._tokens + (mask.sum() if mask is not None else batch["input_ids"].numel())

    def not_finite(self) -> int | None:
        """Number of the first micro-batch since the last `drain` whose loss is no finite number, counted from 0."""
        if not self._losses:
            return None
        found = (~torch.stack(self._losses).isfinite()).nonzero()
        return int(found[0]) if len(found) else None

    def drain(self, step: int, world_size: int) -> dict[str, float]:
        """Mean loss of the steps since the last call, over all processes, and tokens per second."""
        import torch.distributed as dist

        loss = self._sum()
        seconds = max(time.perf_counter() - self._started, 1e-9)
        tokens = float(self._tokens)
        if world_size > 1:
            device = torch.accelerator.current_accelerator() if dist.get_backend() != "gloo" else None
            both = torch.tensor([loss / world_size, tokens], dtype=torch.float64, device=device or "cpu")
            dist.all_reduce(both)
            loss, tokens = both.tolist()
        steps = max(step - self.last_step, 1)
        self._loss, self._tokens, self.last_step, self._started = 0.0, 0, step, time.perf_counter()
        return {"loss": loss / steps, "tokens_per_second": tokens / seconds}

    def _sum(self) -> float:
        if self._losses:
            self._loss += float(torch.stack(self._losses).sum())
            self._losses.clear()
        return self._loss

    def save(self, path: Path) -> None:
        """Write the part that is not logged yet."""
        state = {"losses": [float(loss) for loss in self._losses], "loss": self._loss, "last_step": self.last_step}
        path.write_text(json.dumps(state), encoding="utf-8")

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self._losses = [torch.tensor(loss, dtype=torch.float64) for loss in state["losses"]]
        self._loss, self.last_step = state["loss"], state["last_step"]

    def start_at(self, step: int) -> None:
        """Go on from a step whose unlogged part is not known."""
        self.last_step = max(step, 0)


class ChannelMeter:
    """Sums the objective and the trained tokens of each channel between two logged steps; every process logs the same.

    Args:
        names: of the channels.
        objective: a sum over trained tokens.
    """

    def __init__(self, names: Sequence[str], objective: Objective) -> None:
        self.names, self.objective = list(names), objective
        self.sums: Any = np.zeros((2, len(names)))

    @torch.no_grad()
    def add(self, outputs: TokenLogps, channels: torch.Tensor) -> None:
        """Note a micro-batch; channels: int64[k], one for each trained token."""
        logps, weights = outputs.logps.detach(), outputs.weights
        found = logps.new_zeros((2, len(self.names)), dtype=torch.float64)
        for number in range(len(self.names)):
            chosen = (channels == number).nonzero().squeeze(1)
            part = TokenLogps(logps[chosen], weights[chosen] if weights is not None else None)
            found[0, number] = self.objective(part).total
            found[1, number] = len(chosen)
        self.sums = self.sums + found.cpu().numpy()

    def drain(self, world_size: int) -> dict[str, float]:
        """`loss_NAME` for each channel that had trained tokens since the last call."""
        sums = torch.from_numpy(self.sums)
        if world_size > 1:
            import torch.distributed as dist

            device = torch.accelerator.current_accelerator() if dist.get_backend() != "gloo" else None
            sums = sums.to(device or "cpu")
            dist.all_reduce(sums)
        losses, counts = sums.tolist()
        self.sums = np.zeros_like(self.sums)
        figures = zip(self.names, losses, counts, strict=True)
        return {f"loss_{name}": loss / count for name, loss, count in figures if count}

    def save(self, path: Path) -> None:
        """Write the part that is not logged yet."""
        path.write_text(json.dumps(dict(zip(self.names, self.sums.T.tolist(), strict=True))), encoding="utf-8")

    def load(self, path: Path) -> None:
        """Go on from a checkpoint's part; nothing where it has none."""
        if path.is_file():
            state = json.loads(path.read_text(encoding="utf-8"))
            self.sums = np.array([state.get(name, [0.0, 0.0]) for name in self.names]).T
