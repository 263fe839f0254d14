"""Proposals for a machine: the largest micro-batch that fits, the fastest first, and the command line of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from swift.cli.main import main
from swift.plan.memory import CUDA_WORKSPACE, TracedBatch
from swift.plan.propose import Kind, Machine, Proposal, proposals
from swift.plan.trace import StepTrace
from tests.tiny import save_tiny

GIB = 2**30


def kind(name: str = "full", weights: int = 10, plain: int = 8, saving: int = 2, chunked: bool = True) -> Kind:
    """A model of so many GiB whose micro-batch of one sample holds so many GiB of activations."""

    def traced(activations: int) -> TracedBatch:
        peak = {"weights": weights * GIB, "gradients": 0, "activations": activations * GIB, "logits": GIB}
        return TracedBatch(StepTrace(peak), [("w", GIB // 2, torch.float32)], "cuda", ())

    return Kind(name, "sgd", {False: traced(plain), True: traced(saving)}, 8, chunked)


def found(machine: Machine, samples: int = 16, **changes: int) -> list[Proposal]:
    return proposals([kind(**changes)], machine, samples)


def test_the_micro_batch_is_the_largest_power_of_two_that_fits() -> None:
    # 85 % of 80 GiB are 68: 10 of weights, 1 of logits, 2 of gradients, and the rest for activations.
    plain, saving = found(Machine(1, 80 * GIB, "cuda"))
    assert (plain.gradient_checkpointing, plain.micro_batch, plain.accumulation) == (False, 4, 4)
    assert (saving.gradient_checkpointing, saving.micro_batch, saving.accumulation) == (True, 16, 1)
    assert plain.memory.total == (10 + 4 * 8 + 1 + 2) * GIB + CUDA_WORKSPACE
    assert plain.speed > saving.speed


def test_samples_are_shared_out_over_the_devices() -> None:
    for each in found(Machine(8, 80 * GIB, "cuda")):
        assert (each.micro_batch, each.accumulation, each.spread) == (2, 1, False)


def test_layers_go_over_all_devices_only_where_none_holds_a_copy() -> None:
    for each in found(Machine(4, 12 * GIB, "cuda")):
        assert each.spread and each.fits
        assert each.memory.parts["weights"] == 10 * GIB / 4
        assert each.memory.parts["logits"] == GIB


def test_logits_grow_with_the_samples_where_they_lie_in_memory_whole() -> None:
    [plain, _] = proposals([kind(chunked=False)], Machine(1, 80 * GIB, "cuda"), 4)
    assert plain.memory.parts["logits"] == plain.micro_batch * GIB


def test_what_needs_least_is_told_where_nothing_fits() -> None:
    [only] = found(Machine(2, GIB, "cuda"))
    assert not only.fits and only.gradient_checkpointing and only.spread


@pytest.fixture(scope="module")
def config_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's config, without weights."""
    folder = save_tiny(tmp_path_factory.mktemp("plan") / "tiny")
    (folder / "model.safetensors").unlink()
    return folder


def test_a_config_is_enough(config_alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--model", str(config_alone), "--gpus", "2x1", "--train_type", "full", "lora"]
    assert main([*words, "--max_length", "64", "--lora_rank", "4", "--format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["train_type"] for line in lines] == ["full", "full", "lora", "lora"]
    best = lines[2]
    assert best["per_device_train_batch_size"] == 8 and best["gradient_accumulation_steps"] == 1
    assert best["command"].startswith("NPROC_PER_NODE=2 swift sft --model ") and "--lora_rank 4" in best["command"]
    assert sum(best["parts"].values()) == best["memory"] < best["available"] == GIB
    assert main([*words[:3], "--max_length", "64", "--train_type", "lora"]) == 0
    out = capsys.readouterr().out
    assert "1 ×" in out and "swift sft --model" in out and "NPROC" not in out


def test_commands_take_over_how_the_model_is_read(
    config_alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    words = ["plan", "--model", str(config_alone), "--gpus", "1", "--train_type", "lora", "--max_length", "64"]
    assert (
        main([*words, "--chat_template", str(file), "--enable_thinking", "false", "--trust_remote_code", "true"]) == 0
    )
    wanted = f"--trust_remote_code true --chat_template {file} --enable_thinking false --dataset YOUR_ROWS"
    assert wanted in capsys.readouterr().out
    assert main([*words, "--chat_template", str(tmp_path / "no.jinja")]) == 2
    assert "--chat_template" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["8x", "x80", "0x80", "many", "8x0"])
def test_a_machine_that_cannot_be_read(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", "demo", "--gpus", value]) == 2
    assert "must be NUMBERxGIB, such as 8x80" in capsys.readouterr().err
