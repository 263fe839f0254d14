"""The plan equals what real tensors take, byte for byte, as far as tensors go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, MixtralConfig, Qwen3Config

from swift.errors import SwiftError
from swift.plan.memory import (
    CPU_HOLES,
    CPU_HOLES_SERVED,
    CPU_KERNEL,
    CPU_KERNELS,
    CPU_RUNTIME,
    MemoryPlan,
    optimizer_bytes,
    plan_memory,
    trainable_of,
)
from swift.plan.optimizer_step import OptimizerStep
from swift.plan.trace import HEAP_LIMIT, LiveBytes, float32_cross_entropy, trace_step

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
ROWS, LENGTH, POSITIONS = 2, 24, 20


def model_of(device: str, *, lora: bool = False, kind: Any = LlamaConfig, tied: bool = False) -> Any:
    config = kind(**SIZES, tie_word_embeddings=tied)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        if lora:
            model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1))
    return model.train()


def planned(model: Any, **changes: Any) -> MemoryPlan:
    options: dict[str, Any] = {
        "dtype": torch.bfloat16,
        "micro_batch_tokens": ROWS * LENGTH,
        "trained_positions": POSITIONS,
        "optimizer": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "autocast": True,
        "rows": ROWS,
    }
    return plan_memory(model, **(options | changes))


def real_step(model: Any, *, checkpointing: bool) -> LiveBytes:
    """A step on real tensors, counted like the trace; `live.saved` is what lies between forward and backward."""
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    with LiveBytes() as live:
        for tensor in [*model.parameters(), *model.buffers()]:
            live.note(tensor, "weights")
        ids = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
        kept = torch.zeros(POSITIONS // ROWS, dtype=torch.int64)
        targets = torch.zeros(POSITIONS, dtype=torch.int64)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = float32_cross_entropy(model, {"input_ids": ids}, kept, targets)
        live.saved = sum(live.alive.values()) - live.alive["weights"]  # type: ignore[attr-defined]
        loss.backward()
    return live


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_traced_bytes_equal_those_of_real_tensors(lora: bool, checkpointing: bool) -> None:
    trace = trace_step(
        model_of("meta", lora=lora),
        rows=ROWS,
        length=LENGTH,
        trained_positions=POSITIONS,
        device="cpu",
        autocast=torch.bfloat16,
        gradient_checkpointing=checkpointing,
        masked=False,
        accumulated=False,
    )
    live = real_step(model_of("cpu", lora=lora), checkpointing=checkpointing)
    assert trace.saved == live.saved  # type: ignore[attr-defined]
    assert sum(trace.peak.values()) == sum(live.peak.values())
    assert trace.peak["weights"] == live.peak["weights"]
    assert trace.kernels == len(live.kernels) > 0


@pytest.mark.parametrize("tied", [False, True])
def test_weights_count_once_each(tied: bool) -> None:
    model = model_of("cpu", tied=tied)
    tensors = {t.data_ptr(): t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()]}
    assert planned(model).parts["weights"] == sum(tensors.values())


def test_gradients_and_state_of_lora_are_exact() -> None:
    model = model_of("meta", lora=True)
    values = sum(p.numel() for p in model.parameters() if p.requires_grad)
    plan = planned(model, accumulated=True)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert plan.parts["gradients"] == values * 4
    assert plan.parts["optimizer"] == values * 8


def test_the_optimizer_step_is_the_fullest_moment_of_a_single_token() -> None:
    model = model_of("meta")
    values = sum(p.numel() for p in model.parameters())
    largest = max(p.numel() for p in model.parameters())
    plan = planned(model, micro_batch_tokens=1, trained_positions=1, rows=1, optimizer="adamw_torch")
    assert plan.moment == "optimizer step"
    assert plan.parts["gradients"] == 2 * values
    assert plan.parts["activations"] == 2 * 2 * largest
    assert plan.total == sum(plan.parts.values())


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("adamw_torch_fused", 2 * 4 * 100 + 2 * 2 * 10),
        ("adamw_torch", 2 * 4 * 100 + 2 * 2 * 10),
        ("adamw_8bit", 2 * 110),
        ("sgd", 0),
        ("lion_32bit", 4 * 100 + 2 * 10),
        ("something_new", 2 * 4 * 100 + 2 * 2 * 10),
    ],
)
def test_state_of_optimizers(optimizer: str, expected: int) -> None:
    trainable = [("a", 100, torch.float32), ("b", 10, torch.bfloat16)]
    assert optimizer_bytes(optimizer, trainable) == expected


def test_an_unknown_optimizer_is_noted() -> None:
    assert "something_new" in planned(model_of("meta"), optimizer="something_new").notes[0]


def test_dtypes_of_what_is_trained_are_taken_from_the_list() -> None:
    model = model_of("meta")
    wide = [(name, count, torch.float32) for name, count, _ in trainable_of(model)]
    plan = planned(model, trainable=wide, accumulated=True)
    assert plan.parts["gradients"] == 4 * sum(count for _, count, _ in wide)
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    assert plan.parts["weights"] == 4 * sum(count for _, count, _ in wide) + buffers


def test_a_parameter_that_is_not_there_is_named() -> None:
    with pytest.raises(SwiftError, match="lora_A"):
        planned(model_of("meta"), trainable=[("lora_A", 8, torch.float32)])


def test_the_model_is_left_as_it_was() -> None:
    model = model_of("cpu").eval()
    model.lm_head.requires_grad_(False)
    before = [(name, p, p.requires_grad, p.grad) for name, p in model.named_parameters()]
    planned(model, gradient_checkpointing=True, trainable=[("lm_head.weight", 64 * 32, torch.float32)])
    after = list(model.named_parameters())
    assert all(n == m and p is q and q.requires_grad == r for (n, p, r, _), (m, q) in zip(before, after, strict=True))
    assert all(p.grad is None for _, p in after)
    assert not model.training
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


# Transformers 4.57 looks into its router's choice to pick the experts to run: tensors without contents have none.
MIXTRAL = pytest.param(MixtralConfig, marks=pytest.mark.newest)


@pytest.mark.parametrize("kind", [Qwen3Config, GPTNeoXConfig, MIXTRAL])
def test_other_architectures_are_traced(kind: type) -> None:
    plain = planned(model_of("meta", kind=kind))
    saving = planned(model_of("meta", kind=kind), gradient_checkpointing=True)
    assert plain.notes == saving.notes == ()
    assert saving.parts["activations"] < plain.parts["activations"]


def test_a_model_that_reads_its_tensors_is_planned_by_formula() -> None:
    model = model_of("meta")
    model.model.register_forward_pre_hook(lambda _m, args: bool(torch.zeros(1).sum() > 0), with_kwargs=False)
    plan = planned(model)
    assert "by formula" in plan.notes[0]
    assert plan.parts["activations"] == 34 * ROWS * LENGTH * 32 * 2
    assert plan.parts["logits"] == POSITIONS * 64 * 14


def test_overhead_follows_from_the_measured_figures() -> None:
    trace = trace_step(
        model_of("meta"),
        rows=ROWS,
        length=LENGTH,
        trained_positions=POSITIONS,
        device="cpu",
        autocast=torch.bfloat16,
        gradient_checkpointing=False,
        masked=True,
        accumulated=False,
    )
    plan = planned(model_of("meta"))
    alive = plan.parts["gradients"] + plan.parts["activations"] + plan.parts["logits"]
    assert trace.mapped_peak == 0
    holes = max(CPU_HOLES * trace.heap_peak, CPU_HOLES_SERVED * trace.heap_served)
    assert plan.parts["overhead"] == CPU_RUNTIME + trace.heap_peak + round(holes) - alive


def test_kernels_of_each_shape_count_as_far_as_they_are_kept() -> None:
    def overhead(shapes: int, **changes: Any) -> int:
        return planned(model_of("meta", lora=True), shapes=shapes, **changes).parts["overhead"]

    kernels = len(real_step(model_of("cpu", lora=True), checkpointing=False).kernels)
    assert overhead(3) - overhead(1) == 2 * kernels * CPU_KERNEL
    assert overhead(10_000) - overhead(1) == (CPU_KERNELS - kernels) * CPU_KERNEL
    assert overhead(3, device="cuda") == overhead(1, device="cuda")


def test_large_blocks_are_counted_apart() -> None:
    with LiveBytes() as live:
        small = torch.zeros(1 << 20, dtype=torch.uint8)
        large = torch.zeros(HEAP_LIMIT + 1, dtype=torch.uint8)
        del small
    assert (live.heap_peak, live.mapped_peak) == (1 << 20, HEAP_LIMIT + 1)
    assert sum(live.peak.values()) == (1 << 20) + HEAP_LIMIT + 1
    assert live.alive["activations"] == large.nbytes


def test_gradients_dropped_in_the_backward_pass_do_not_add_up() -> None:
    whole, dropped = planned(model_of("meta")), planned(model_of("meta"), step=OptimizerStep(0, 0, in_backward=True))
    assert dropped.parts["optimizer"] == 0
    assert dropped.parts["gradients"] < whole.parts["gradients"] / 2


def test_a_head_some_tokens_at_a_time_holds_few_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    from swift.tasks import head as module
    from swift.tasks.token_logps import logps_at

    model = model_of("meta", lora=True, kind=lambda **sizes: LlamaConfig(**{**sizes, "vocab_size": 8192}))
    head = module.separable_head(model)
    assert head is not None
    monkeypatch.setattr(module, "CPU_ELEMENTS", head.out_features)

    def loss(model: Any, inputs: dict[str, Any], kept: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -logps_at(model, inputs, kept, targets, None, True, 0.0, head)[0].sum()

    whole, chunked = planned(model), planned(model, loss=loss)
    assert 0 < chunked.parts["logits"] < whole.parts["logits"] / 2


def test_activations_that_wait_on_the_host_do_not_grow_with_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swift.plan.trace.OFFLOADED", 64)

    def activations(layers: int, **changes: Any) -> int:
        with torch.device("meta"):
            config = LlamaConfig(**{**SIZES, "num_hidden_layers": layers})
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
        return planned(model, device="cuda", **changes).parts["activations"]

    assert activations(8) > 2.5 * activations(2)
    few, many = (activations(layers, offload=True) for layers in (2, 8))
    assert many < 1.2 * few < 0.8 * activations(2)


def test_what_lies_beside_the_weights() -> None:
    model = model_of("meta", lora=True)
    trained = sum(numel for _, numel, _ in trainable_of(model))
    plain, averaged = planned(model), planned(model, averaged=True)
    assert averaged.parts == plain.parts | {"average": 4 * trained}
    paged = planned(model, optimizer="paged_adamw_32bit", device="cuda")
    assert paged.parts["optimizer"] == 0
    assert any("of optimizer state move to the host" in note for note in paged.notes)
    assert planned(model, optimizer="paged_adamw_32bit").parts["optimizer"] > 0
