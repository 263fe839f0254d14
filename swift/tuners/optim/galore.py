"""GaLore: gradients are projected onto few directions before Adam (Zhao et al., 2024, arXiv 2403.03507).

Q-GaLore (Zhang et al., 2024, arXiv 2407.08296) keeps the projections in few bits and makes them anew less often where
they stay alike. Its 8-bit weights are not part of this: weights keep their dtype.
"""

from __future__ import annotations

from typing import Any

import torch

from swift.config import OptimizerConfig
from swift.tuners import optimizer
from swift.tuners.optim.modules import matrix_names
from swift.tuners.optim.packed import Packed, pack, unpack
from swift.tuners.optim.rules import (
    RuleOptimizer,
    State,
    adam_direction,
    adam_options,
    adamw,
    apply,
    grouped,
    trained,
)


@optimizer("galore")
def galore(model: Any, args: Any, options: OptimizerConfig) -> RuleOptimizer:
    """Adam on projected gradients for linear modules, AdamW for all else.

    Raises:
        SwiftError: a target fits no linear module.
    """
    names = matrix_names(
        model, options.galore_target_modules, "galore_target_modules", embeddings=options.galore_with_embedding
    )
    adam = adam_options(args)
    shape: dict[str, Any] = {
        "rank": options.galore_rank,
        "gap": options.galore_update_proj_gap,
        "scale": options.galore_scale,
        "sides": options.galore_proj_type,
    }
    if options.galore_quantization:
        shape |= {
            "bits": options.galore_proj_bits if options.galore_proj_quant else None,
            "group_size": options.galore_proj_group_size,
            "threshold": options.galore_cos_threshold,
            "gamma": options.galore_gamma_proj,
            "queue": options.galore_queue_size,
        }
    return RuleOptimizer(
        [
            *grouped([(n, p) for n, p in trained(model) if n in names], args, rule="galore", **adam, **shape),
            *grouped([(n, p) for n, p in trained(model) if n not in names], args, rule="adamw", **adam),
        ],
        {"galore": project_and_step, "adamw": adamw},
        lr=args.learning_rate,
        in_backward=options.galore_optim_per_parameter,
    )


def project_and_step(parameter: torch.Tensor, grad: torch.Tensor, state: State, group: dict[str, Any]) -> None:
    """Algorithm 2 of the paper: R = P^T G, Adam on R, W <- W - lr * scale * P N."""
    step = state.get("step", 0)
    if step >= state.get("renew_at", 0):
        _renew(grad, state, group, step)
    left, right = (_read(state, side, grad) for side in ("left", "right"))
    low = grad if left is None else left.mT @ grad
    low = low if right is None else low @ right
    direction = adam_direction(low, state, group)
    direction = direction if left is None else left @ direction
    direction = direction if right is None else direction @ right.mT
    apply(parameter, direction.mul_(group["scale"]), group)


def sides_of(shape: torch.Size, sides: str) -> tuple[bool, bool]:
    """Whether a gradient is projected from the left and from the right."""
    if sides == "full":
        return True, True
    tall = shape[0] >= shape[1]
    right = {"std": tall, "reverse_std": not tall, "left": False, "right": True}[sides]
    return not right, right


def _renew(grad: torch.Tensor, state: State, group: dict[str, Any], step: int) -> None:
    """New projections: the first singular vectors of the gradient (section 4.2, eq. 12 and 13)."""
    wanted = sides_of(grad.shape, group["sides"])
    u, _, vh = torch.linalg.svd(grad.float(), full_matrices=False)
    fresh = {"left": u[:, : group["rank"]], "right": vh[: group["rank"]].mT}
    state["gap"] = state.get("gap", group["gap"])
    lazy = "threshold" in group
    for side, used in zip(fresh, wanted, strict=True):
        if not used:
            continue
        new = fresh[side].to(grad.dtype)
        if lazy:
            _note_likeness(_read(state, side, grad), new, state, group)
        _keep(state, side, new, group.get("bits"), group.get("group_size", 0))
    state["renew_at"] = step + state["gap"]


def _note_likeness(before: torch.Tensor | None, new: torch.Tensor, state: State, group: dict[str, Any]) -> None:
    """Lengthen the gap once `queue` successive projections were alike (Q-GaLore, section 3.2)."""
    if before is None:
        return
    # The sign of a singular vector is arbitrary.
    likeness = torch.nn.functional.cosine_similarity(before.float(), new.float(), dim=0).abs().mean().item()
    recent = [*state.get("likeness", []), likeness][-group["queue"] :]
    if len(recent) == group["queue"] and min(recent) >= group["threshold"]:
        state["gap"] *= group["gamma"]
        recent = []
    state["likeness"] = recent


def _keep(state: State, side: str, projection: torch.Tensor, bits: int | None, group_size: int) -> None:
    if bits is None:
        state[side] = projection.contiguous()
        return
    packed = pack(projection, bits, group_size)
    state |= {f"{side}_values": packed.values, f"{side}_scale": packed.scale, f"{side}_low": packed.low}
    state |= {f"{side}_shape": list(packed.shape), f"{side}_bits": bits}


def _read(state: State, side: str, grad: torch.Tensor) -> torch.Tensor | None:
    if f"{side}_values" not in state:
        return state.get(side)
    values, scale, low, shape, bits = (state[f"{side}_{part}"] for part in Packed._fields)
    return unpack(Packed(values, scale, low, tuple(shape), bits)).to(grad.dtype)
