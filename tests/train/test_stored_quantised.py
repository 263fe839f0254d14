"""Models packed by compressed-tensors: loaded as they came, an adapter trained on top, and answered with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift.engines import PtEngine
from swift.errors import SwiftError
from swift.models import load_model
from swift.train.result import SftResult
from tests.tiny import make_model, make_tokenizer
from tests.train.conftest import losses
from tests.train.test_tuner_runs import answer

pytest.importorskip("compressed_tensors")
pytestmark = pytest.mark.newest
GROUP = 32
KINDS: dict[str, dict[str, Any]] = {
    "int4": {"num_bits": 4, "strategy": "group", "group_size": GROUP},
    "int8": {"num_bits": 8, "strategy": "channel"},
}


def rounded(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights that so many bits leave, and the scales of their groups or rows."""
    most = 2 ** (bits - 1) - 1
    parts = weight.reshape(len(weight), -1, GROUP if bits == 4 else weight.shape[1])
    scales = parts.abs().amax(-1, keepdim=True) / most
    return ((parts / scales).round() * scales).reshape(weight.shape), scales.squeeze(-1)


def save_compressed(folder: Path, kind: str) -> Any:
    """Write a model with quantised linear layers; gives the same with rounded weights."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.2}
    settings = KINDS[kind]
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(type="int", symmetric=True, **settings))
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, ignore=["lm_head"], quantization_status="frozen", format="pack-quantized"
    )
    model, expected = make_model(**sizes), make_model(**sizes)
    apply_quantization_config(model, config)
    with torch.no_grad():
        for name, layer in model.named_modules():
            if hasattr(layer, "weight_scale"):
                weight, scales = rounded(layer.weight, settings["num_bits"])
                layer.weight_scale.copy_(scales.reshape(layer.weight_scale.shape))
                expected.get_submodule(name).weight.copy_(weight)
    compressor = ModelCompressor(quantization_config=config)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    make_tokenizer().save_pretrained(folder)
    return expected


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_trained_on_it(kind: str, train: Callable[..., SftResult], tmp_path: Path) -> None:
    base = tmp_path / "packed"
    expected = save_compressed(base, kind)
    ids = torch.arange(3, 27).view(2, 12)
    loaded = load_model(base, dtype="float32", device_map="cpu").model.eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(ids).logits, expected(ids).logits, rtol=1e-4, atol=1e-4)
    common = {"model": str(base), "max_steps": 4, "save_steps": 2}
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    assert losses(whole)[4] < losses(whole)[1] and whole.run_folder is not None
    part = str(whole.run_folder / "checkpoint-2")
    again = train(output_dir=str(tmp_path / "again"), resume_from_checkpoint=part, **common)
    assert whole.checkpoint is not None and again.checkpoint is not None
    ours, theirs = (load_file(run / "adapter_model.safetensors") for run in (whole.checkpoint, again.checkpoint))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert answer(PtEngine(None, adapters=[str(whole.checkpoint)]))


def test_whole_weights_are_refused(train: Callable[..., SftResult], tmp_path: Path) -> None:
    save_compressed(tmp_path / "packed", "int4")
    with pytest.raises(SwiftError, match="quantised by compressed-tensors: quantised weights cannot be trained"):
        train(model=str(tmp_path / "packed"), train_type="full")
