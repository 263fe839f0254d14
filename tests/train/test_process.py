"""Runs in one process: each is what it is alone, and nothing of it stays behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from swift.errors import SwiftError
from swift.train.process import process_kept
from swift.train.result import SftResult
from tests.train.conftest import losses

Train = Callable[..., SftResult]


@pytest.mark.parametrize("before", [{"bf16": True}, {"full_determinism": True}, {"torch_dtype": "bfloat16"}])
def test_a_run_is_the_same_after_another(train: Train, before: dict[str, Any]) -> None:
    alone = losses(train(max_steps=2))
    train(max_steps=1, **before)
    assert losses(train(max_steps=2)) == alone


def test_nothing_of_a_run_stays_in_the_process(train: Train) -> None:
    def state() -> Any:
        backends = torch.backends
        precision = (backends.fp32_precision, backends.cuda.matmul.fp32_precision)
        flags = (backends.cudnn.deterministic, backends.cuda.cudnn_sdp_enabled())
        return dict(os.environ), torch.get_deterministic_debug_mode(), precision, flags

    before = state()
    train(max_steps=1, bf16=True, full_determinism=True)
    assert state() == before
    with pytest.raises(SwiftError, match="metric_for_best_model"):
        train(max_steps=1, bf16=True, full_determinism=True, metric_for_best_model="nothing")
    assert state() == before


def test_what_was_set_before_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.delenv("FSDP_VERSION", raising=False)
    with pytest.raises(KeyError), process_kept():
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
        os.environ["FSDP_VERSION"] = "2"
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.use_deterministic_algorithms(True)
        raise KeyError
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16" and "FSDP_VERSION" not in os.environ
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("device", "attention", "sizes", "out"),
    [
        ("cuda", "sdpa", 100, True),
        ("cuda", "sdpa", 1, False),
        ("cuda", "eager", 100, False),
        ("cpu", "sdpa", 100, False),
    ],
)
def test_attention_that_plans_for_each_size_is_kept_out(
    device: str, attention: str, sizes: int, out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swift.train import setup

    monkeypatch.setattr(setup, "count_steps", lambda *_: 10)
    data: Any = SimpleNamespace(shapes=lambda rounding, steps: sizes)
    assert setup.without_cudnn(None, data, torch.device(device), attention) is out


def test_the_attention_of_a_run_is_put_back() -> None:
    with process_kept():
        torch.backends.cuda.enable_cudnn_sdp(False)
    assert torch.backends.cuda.cudnn_sdp_enabled()
