"""Our optimizers: steps that equal the papers' formulas or torch's own, exact state, exact resume, planned bytes."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from swift.config import OptimizerConfig
from swift.errors import SwiftError
from swift.plan.optimizer_step import trace_optimizer
from swift.train.result import SftResult
from swift.tuners import optimizers
from tests.tiny import make_model
from tests.train.conftest import base, losses, rows, train  # noqa: F401

ARGS = SimpleNamespace(learning_rate=1e-2, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8, seed=3)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "galore": ("galore", {"galore_rank": 4, "galore_update_proj_gap": 2}),
    "galore full": ("galore", {"galore_rank": 4, "galore_update_proj_gap": 2, "galore_proj_type": "full"}),
    "galore embedding": ("galore", {"galore_rank": 4, "galore_with_embedding": True}),
    "q-galore": (
        "galore",
        {"galore_rank": 4, "galore_update_proj_gap": 1, "galore_quantization": True, "galore_queue_size": 2},
    ),
    "apollo": ("apollo", {"apollo_rank": 4, "apollo_update_proj_gap": 2}),
    "apollo mini": ("apollo", {"apollo_scale_type": "tensor"}),
    "adam_mini": ("adam_mini", {}),
    "muon": ("muon", {}),
    "muonclip": ("muonclip", {"muonclip_tau": 1.0}),
    "badam": ("badam", {}),
    "lomo": ("lomo", {}),
    "adalomo": ("adalomo", {}),
}


def built(case: str, model: Any) -> torch.optim.Optimizer:
    name, options = CASES[case]
    return optimizers.get(name)(model, ARGS, options=OptimizerConfig(**options))


def backward(model: Any, seed: int) -> float:
    ids = torch.randint(300, (2, 12), generator=torch.Generator().manual_seed(seed))
    loss = model.train()(input_ids=ids, labels=ids).loss
    loss.backward()
    return float(loss.detach())


def steps(model: Any, optimizer: torch.optim.Optimizer, seeds: list[int]) -> list[float]:
    values = []
    for seed in seeds:
        values.append(backward(model, seed))
        optimizer.step()
        optimizer.zero_grad()
    return values


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    return sum(v.nbytes for held in optimizer.state.values() for v in held.values() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_goes_over_exactly_and_has_the_planned_size(case: str, dtype: torch.dtype) -> None:
    model = make_model().to(dtype)
    optimizer = built(case, model)
    values = steps(model, optimizer, [0] * 3)
    assert values[2] < values[0]
    planned = trace_optimizer(make_model().to(dtype).to("meta"), lambda model: built(case, model), False)
    assert planned.state == state_bytes(optimizer)
    twin = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = built(case, twin)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert steps(model, optimizer, [1, 2, 3]) == steps(twin, other, [1, 2, 3])
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_muon_equals_torchs() -> None:
    model = make_model()
    twin = copy.deepcopy(model)
    ours = built("muon", model)
    matrices = [p for name, p in twin.named_parameters() if "proj" in name]
    rest = [p for name, p in twin.named_parameters() if "proj" not in name]
    theirs = [
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.ndim > 1]},
                {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0},
            ],
            lr=1e-2,
            weight_decay=0.1,
            betas=(0.9, 0.95),
        ),
    ]
    for seed in range(3):
        backward(model, seed)
        # The same gradients: iterations in bfloat16 make much of the last bit.
        for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
            other.grad = mine.grad.clone()
        for optimizer in (ours, *theirs):
            optimizer.step()
            optimizer.zero_grad()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_galore_of_full_rank_from_both_sides_is_adam_in_rotated_coordinates() -> None:
    """With orthogonal P and Q: W <- W - lr P Adam(P^T G Q) Q^T; the first step's Adam is a sign."""
    from swift.tuners.optim.galore import project_and_step

    torch.manual_seed(0)
    weight, grad = torch.randn(6, 6), torch.randn(6, 6)
    u, _, vh = torch.linalg.svd(grad)
    group = {"lr": 0.1, "weight_decay": 0.0, "betas": (0.9, 0.95), "eps": 1e-12}
    group |= {"rank": 6, "gap": 1, "scale": 0.5, "sides": "full"}
    stepped = weight.clone()
    project_and_step(stepped, grad, {}, group)
    # P^T G Q is diagonal up to rounding, whose signs are noise; so the diagonal alone is compared.
    moved = (u.mT @ (weight - stepped) @ vh.mT).diagonal()
    torch.testing.assert_close(moved, torch.full((6,), 0.05), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("sides", "rank_of"), [("std", "columns"), ("reverse_std", "rows"), ("left", "rows")])
def test_galore_moves_within_its_projection(sides: str, rank_of: str) -> None:
    from swift.tuners.optim.galore import project_and_step

    torch.manual_seed(0)
    weight, state = torch.zeros(8, 5), {}
    group = {"lr": 1.0, "weight_decay": 0.0, "betas": (0.9, 0.95), "eps": 1e-8}
    group |= {"rank": 2, "gap": 100, "scale": 1.0, "sides": sides}
    for _ in range(4):
        project_and_step(weight, torch.randn(8, 5), state, group)
    assert torch.linalg.matrix_rank(weight) == 2
    assert state["exp_avg"].shape == ((8, 2) if rank_of == "columns" else (2, 5))


def test_q_galore_renews_less_often_where_projections_stay_alike() -> None:
    from swift.tuners.optim.galore import project_and_step

    torch.manual_seed(0)
    weight, same, state = torch.zeros(8, 6), torch.randn(8, 6), {}
    group = {"lr": 0.1, "weight_decay": 0.0, "betas": (0.9, 0.95), "eps": 1e-8, "rank": 2, "gap": 1, "scale": 1.0}
    group |= {"sides": "std", "bits": 4, "group_size": 16, "threshold": 0.4, "gamma": 2, "queue": 2}
    renewed = []
    for step in range(12):
        before = state.get("renew_at", 0)
        project_and_step(weight, same, state, group)
        if state["renew_at"] != before:
            renewed.append(step)
    assert renewed == [0, 1, 2, 4, 6, 10]


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_values_are_half_a_step_off_at_most(bits: int) -> None:
    from swift.tuners.optim.packed import pack, unpack

    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    packed = pack(values, bits, 8)
    assert packed.values.numel() == 40 * bits // 8
    step = packed.scale.repeat_interleave(8)[:35].view(7, 5)
    assert ((unpack(packed) - values).abs() <= step * 0.5001).all()


def test_apollo_of_full_rank_stretches_channels_as_adam_does() -> None:
    """With one row the projection is a number, so the first factor is |sign| / |g| for each channel."""
    from swift.tuners.optim.apollo import scale_and_step

    weight, grad = torch.zeros(1, 4), torch.tensor([[3.0, -0.5, 0.1, 2.0]])
    group = {"lr": 1.0, "weight_decay": 0.0, "betas": (0.9, 0.95), "eps": 0.0, "rank": 1, "gap": 9, "seed": 0}
    projection = torch.randn(1, 1, generator=torch.Generator().manual_seed(0)).abs()
    scale_and_step(weight, grad, {}, group | {"scale": 1.0, "by_tensor": False})
    torch.testing.assert_close(weight, -grad.sign() / projection, rtol=1e-4, atol=1e-5)


def test_adam_mini_has_one_second_moment_a_head_and_a_row() -> None:
    model = make_model()
    optimizer = built("adam_mini", model)
    steps(model, optimizer, [0])
    shapes = {name: optimizer.state[p]["exp_avg_sq"].numel() for name, p in model.named_parameters()}
    layer = {name.split("layers.0.")[1]: count for name, count in shapes.items() if "layers.0." in name}
    assert layer["self_attn.q_proj.weight"] == 4 and layer["self_attn.k_proj.weight"] == 2
    assert layer["self_attn.v_proj.weight"] == 16 and layer["mlp.up_proj.weight"] == 64
    assert layer["input_layernorm.weight"] == 1
    assert shapes["model.embed_tokens.weight"] == model.config.vocab_size


def test_muonclip_brings_logits_back_to_tau() -> None:
    from swift.tuners.optim.muonclip import largest_logits

    for kv_heads in (2, 4):
        model = make_model(num_key_value_heads=kv_heads)
        optimizer = built("muonclip", model)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        before = {}
        handle = _watch_logits(model, before, largest_logits)
        backward(model, 0)
        optimizer.step()
        after: dict[int, torch.Tensor] = {}
        before, handle = dict(before), (handle(), _watch_logits(model, after, largest_logits))[1]
        optimizer.zero_grad()
        backward(model, 0)
        handle()
        # The first layer's inputs stay as they were; those of later ones follow what it gives.
        assert (before[0] > 1.5).any()
        torch.testing.assert_close(after[0], before[0].clamp(max=1.0), rtol=1e-4, atol=1e-5)


def test_muonclip_sees_the_logits_of_packs_that_are_attended_sample_by_sample() -> None:
    from swift.models.segments import attend_by_segment
    from swift.tuners.optim.muonclip import largest

    model = make_model()
    assert attend_by_segment(model)
    built("muonclip", model.train())
    ids, positions = torch.arange(1, 9)[None], torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    model(input_ids=ids, position_ids=positions, use_cache=False)
    assert all(layer.self_attn in largest for layer in model.model.layers)


def _watch_logits(model: Any, found: dict[int, torch.Tensor], largest_logits: Any) -> Callable[[], None]:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    def hook(module: Any, args: Any, kwargs: Any, _output: Any) -> None:
        hidden, shape = kwargs["hidden_states"], (2, 12, -1, module.head_dim)
        q, k = (p(hidden).view(shape).transpose(1, 2) for p in (module.q_proj, module.k_proj))
        q, k = apply_rotary_pos_emb(q, k, *kwargs["position_embeddings"])
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        logits = (q @ k.mT * module.scaling).masked_fill(~torch.ones(12, 12, dtype=torch.bool).tril(), -torch.inf)
        found[module.layer_idx] = logits.amax((0, 2, 3)).detach()

    handles = [layer.self_attn.register_forward_hook(hook, with_kwargs=True) for layer in model.model.layers]
    return lambda: [handle.remove() for handle in handles] and None


def test_lomo_is_sgd_and_leaves_no_gradient() -> None:
    model = make_model()
    twin = copy.deepcopy(model)
    built("lomo", model)
    backward(model, 0)
    backward(twin, 0)
    assert all(p.grad is None for p in model.parameters())
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        decay = 1 - 1e-2 * 0.1 if ours.ndim > 1 else 1.0
        torch.testing.assert_close(ours, theirs * decay - 1e-2 * theirs.grad, msg=name)


def test_adalomo_moves_by_the_weights_own_size() -> None:
    model = make_model()
    before = [p.detach().clone() for p in model.parameters()]
    built("adalomo", model)
    backward(model, 0)
    for old, new in zip(before, model.parameters(), strict=True):
        decayed = old * (1 - 1e-2 * 0.1) if old.ndim > 1 else old
        moved, size = (decayed - new).square().mean().sqrt(), old.square().mean().sqrt()
        assert moved <= 1e-2 * size * 1.001


RUNS: dict[str, dict[str, Any]] = {
    "galore": {"use_galore": True, "galore_rank": 4, "galore_update_proj_gap": 3},
    "q-galore": {
        "use_galore": True,
        "galore_rank": 4,
        "galore_update_proj_gap": 2,
        "galore_quantization": True,
        "galore_optim_per_parameter": True,
    },
    "apollo": {"optimizer": "apollo", "apollo_rank": 4, "apollo_update_proj_gap": 3},
    "adam_mini": {"optimizer": "adam_mini"},
    "muonclip": {"optimizer": "muonclip", "muonclip_tau": 2.0},
    "badam": {"optimizer": "badam", "badam_switch_interval": 3, "badam_switch_mode": "random"},
    "lomo": {"optimizer": "lomo"},
    "adalomo": {"optimizer": "adalomo"},
    "lisa": {"lisa_activated_layers": 1, "lisa_step_interval": 3},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_learns_and_resumes_exactly(train: Callable[..., SftResult], tmp_path: Path, name: str) -> None:  # noqa: F811
    from tests.train.test_resume import weights

    options = {"train_type": "full", "learning_rate": 3e-3, "gradient_accumulation_steps": None, **RUNS[name]}
    common = {"max_steps": 6, "save_steps": 3, "per_device_train_batch_size": 16, **options}
    if name not in ("lomo", "adalomo", "q-galore"):
        common |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    assert losses(whole)[6] < losses(whole)[1]
    checkpoint = whole.run_folder / "checkpoint-3"  # type: ignore[operator]
    resumed = train(output_dir=str(tmp_path / "resumed"), resume_from_checkpoint=str(checkpoint), **common)
    assert {step: loss for step, loss in losses(whole).items() if step > 3} == losses(resumed)
    ours, theirs = weights(whole), weights(resumed)
    assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in ours)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "lomo", "gradient_accumulation_steps": 2}, "gradients never add up"),
        ({"optimizer": "adalomo", "max_grad_norm": 1.0}, "before the norm of all gradients is known"),
        ({"use_galore": True, "galore_optim_per_parameter": True, "fp16": True}, "--fp16 true"),
        ({"use_galore": True, "optimizer": "muon"}, "--use_galore true with --optimizer muon"),
        ({"use_galore": True, "train_type": "lora"}, "for whole weights"),
        ({"use_galore": True, "galore_target_modules": ["qproj"]}, "--galore_target_modules qproj"),
        ({"optim": "galore_adamw"}, "--optimizer galore"),
        ({"optim": "lomo"}, "--optimizer lomo"),
        ({"optim": "sgd", "optimizer": "muon"}, "--optim sgd with --optimizer muon"),
        ({"optim": "schedule_free_adamw"}, "schedulefree is not installed"),
        ({"lisa_activated_layers": 3}, "the model has 2 layers"),
        ({"optimizer": "badam", "train_type": "freeze", "freeze_parameters_ratio": 0.5}, "both choose layers"),
    ],
)
def test_what_cannot_go_together_is_refused_before_a_run_begins(
    train: Callable[..., SftResult],  # noqa: F811
    tmp_path: Path,
    options: dict[str, Any],
    said: str,
) -> None:
    common = {"train_type": "full", "gradient_accumulation_steps": None, "max_steps": 1}
    with pytest.raises(SwiftError) as caught:
        train(**{**common, **options})
    assert said in f"{caught.value.what} {caught.value.fix}"
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit", "adamw_bnb_8bit", "paged_lion_32bit"])
def test_optimizers_of_bitsandbytes_need_it(
    train: Callable[..., SftResult],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    import importlib.util

    there: set[str] = set()
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: module in there or None)
    with pytest.raises(SwiftError, match="package bitsandbytes is not installed"):
        train(optim=name, max_steps=1)
    there.add("bitsandbytes")
    if name.startswith("paged_"):
        with pytest.raises(SwiftError, match="paged memory is a GPU's"):
            train(optim=name, max_steps=1, use_cpu=True)
