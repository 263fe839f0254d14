"""The same runs on a CUDA device: dtypes, attention of packs, exact resume, memory savers, inference and merging."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.cli.main import main
from swift.train.result import SftResult
from tests.data.test_pack_leaks import dataset as dataset  # a fixture
from tests.data.test_pack_leaks import loss_and_gradients, tiny_model
from tests.train.conftest import losses
from tests.train.test_resume import assert_same

Train = Callable[..., SftResult]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: make test-gpu")

ON_GPU = {"logging_steps": 1, "max_steps": 8}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_loss_falls_in_every_dtype(train: Train, dtype: str, kind: str) -> None:
    rate = 1e-2 if kind == "lora" else 1e-3
    result = train(train_type=kind, torch_dtype=dtype, learning_rate=rate, max_steps=24, logging_steps=1)
    found = list(losses(result).values())
    assert sum(found[-4:]) < 0.9 * sum(found[:4])


@pytest.mark.parametrize("name", ["llama", "qwen2", "windows"])
@pytest.mark.parametrize("attention", ["sdpa", "segments", "flex_attention", "flash_attention_2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_pack_gives_the_gradients_of_its_samples(name: str, attention: str, dtype: torch.dtype, dataset: Any) -> None:
    from swift.compat import flash_attention_available
    from swift.data import Collator, Layout

    if attention == "flash_attention_2" and (dtype == torch.float32 or not flash_attention_available(2)):
        pytest.skip("flash-attn is not installed, or takes no float32")
    tokens = int(dataset.trained.sum())
    borders = attention in ("segments", "flash_attention_2")
    single = Collator(dataset, None, Layout(pad_token_id=0, padding_free=False))
    packed = Collator(dataset, [[0, 1, 2], [3, 4]], Layout(pad_token_id=0, padding_free=True, borders=borders))

    def on_gpu(batch: dict[str, Any]) -> dict[str, Any]:
        return {key: value.cuda() if hasattr(value, "cuda") else value for key, value in batch.items()}

    # The kernels of flex attention want heads of 16 values.
    sizes = {"hidden_size": 64} if attention == "flex_attention" else {}
    exact = tiny_model(name, "eager", **sizes).cuda()
    _, wanted = loss_and_gradients(exact, [on_gpu(single([i])) for i in range(5)], tokens)
    model = tiny_model(name, attention, **sizes).to("cuda", dtype)
    _, found = loss_and_gradients(model, [on_gpu(packed([0, 1]))], tokens)
    limit = 1e-4 if dtype == torch.float32 else 6e-2
    for weight, gradient in found.items():
        distance = (gradient.float() - wanted[weight]).norm() / wanted[weight].norm()
        assert distance < limit, (weight, float(distance))


@pytest.mark.parametrize(
    "options",
    [
        {"torch_dtype": "bfloat16"},
        {"torch_dtype": "float16", "lora_dropout": 0.3},
        {"torch_dtype": "bfloat16", "packing": True, "packing_length": 128},
        {"torch_dtype": "bfloat16", "train_type": "full", "learning_rate": 1e-3, "gradient_checkpointing": True},
        {"torch_dtype": "bfloat16", "streaming": True, "packing": True, "packing_length": 128},
    ],
    ids=["lora", "fp16-dropout", "packed", "full", "streamed"],
)
def test_resumed_equals_unbroken(train: Train, tmp_path: Path, options: dict[str, Any]) -> None:
    common = {"max_steps": 9, "save_steps": 4, **options}
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    broken = train(output_dir=str(tmp_path / "broken"), **common)
    assert_same(whole, broken)
    assert broken.run_folder is not None
    checkpoint = broken.run_folder / "checkpoint-4"
    resumed = train(output_dir=str(tmp_path / "broken"), resume_from_checkpoint=str(checkpoint), **common)
    assert_same(whole, resumed)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"packing": True, "packing_length": 256, "gradient_checkpointing": True},
        {"optim": "adamw_torch"},
        {"train_type": "full", "optimizer": "galore", "learning_rate": 1e-3},
        {"train_type": "full", "optimizer": "muon", "learning_rate": 1e-3},
        {"dataloader_num_workers": 2, "dataloader_pin_memory": True},
        {"train_type": "full", "learning_rate": 1e-3, "torch_compile": True},
        {"split_dataset_ratio": 0.3, "eval_strategy": "steps", "eval_steps": 4, "eval_metric": "acc"},
        {"neftune_noise_alpha": 5.0},
    ],
    ids=lambda options: "-".join(options),
)
def test_it_trains(train: Train, options: dict[str, Any]) -> None:
    found = list(losses(train(**{"torch_dtype": "bfloat16", "max_steps": 16, **options})).values())
    assert found[-1] < found[0]


def test_packs_in_flex_attention(train: Train, tmp_path: Path) -> None:
    from tests.tiny import save_tiny

    model = save_tiny(tmp_path / "wide", hidden_size=64)
    options = {"attn_impl": "flex_attention", "packing": True, "packing_length": 256, "torch_dtype": "bfloat16"}
    found = list(losses(train(model=str(model), max_steps=16, **options)).values())
    assert found[-1] < found[0]


def test_liger_kernels_leave_the_loss_as_it_is(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("liger_kernel")
    common = {"torch_dtype": "float32", **ON_GPU}
    plain = train(output_dir=str(tmp_path / "plain"), **common)
    fused = train(output_dir=str(tmp_path / "fused"), use_liger_kernel=True, **common)
    assert losses(fused) == pytest.approx(losses(plain), rel=1e-3)


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion_8bit"])
def test_small_optimizers(train: Train, optim: str) -> None:
    pytest.importorskip("bitsandbytes")
    found = list(losses(train(optim=optim, torch_dtype="bfloat16", max_steps=16)).values())
    assert found[-1] < found[0]


def test_checkpointing_changes_no_loss(train: Train, tmp_path: Path) -> None:
    common = {"torch_dtype": "bfloat16", "lora_dropout": 0.3, **ON_GPU}
    plain = train(output_dir=str(tmp_path / "plain"), gradient_checkpointing=False, **common)
    saving = train(output_dir=str(tmp_path / "saving"), gradient_checkpointing=True, **common)
    assert losses(saving) == pytest.approx(losses(plain), rel=1e-3)


def test_an_adapter_is_merged_and_the_proof_passes(train: Train, tmp_path: Path) -> None:
    result = train(torch_dtype="bfloat16", max_steps=6)
    merged = tmp_path / "merged"
    assert main(["merge-lora", "--adapters", str(result.checkpoint), "--output_dir", str(merged)]) == 0
    assert json.loads((merged / "config.json").read_text())["model_type"] == "llama"


def test_the_plan_is_near_the_measured_peak(train: Train, tmp_path: Path) -> None:
    from tests.tiny import save_tiny

    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    model = save_tiny(tmp_path / "model", **sizes, initializer_range=0.02, dtype=torch.bfloat16)
    result = train(model=str(model), torch_dtype="bfloat16", train_type="full", learning_rate=1e-4, max_steps=4)
    assert result.measured is not None and result.planned is not None
    assert 0.75 < result.planned / result.measured < 1.35
