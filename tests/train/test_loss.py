"""The loss of a step is one sum over its trained tokens, however the step is split."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift.train.result import SftResult
from tests.tiny import make_tokenizer
from tests.train.conftest import losses

Train = Callable[..., SftResult]

SPLITS: dict[str, dict[str, Any]] = {
    "one by one": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 23},
    "two by two": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 12},
    "end to end": {"per_device_train_batch_size": 23, "gradient_accumulation_steps": 1, "padding_free": True},
    "packed": {"per_device_train_batch_size": 1, "packing": True, "packing_length": 128},
    "packed by two": {"per_device_train_batch_size": 2, "packing": True, "packing_length": 128},
    "checkpointed": {"per_device_train_batch_size": 4, "gradient_checkpointing": True},
    "eager": {"per_device_train_batch_size": 1, "packing": True, "packing_length": 128, "attn_impl": "eager"},
}


def one_step(train: Train, **options: Any) -> SftResult:
    settings = {"max_steps": 2, "train_type": "full", "learning_rate": 1e-3, "gradient_accumulation_steps": 23}
    return train(**{**settings, **options})


@pytest.fixture(scope="module")
def by_hand(base: Path, rows: Path) -> float:
    """The mean over all trained tokens of all rows, from the model's own forward pass."""
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), make_tokenizer()
    total, count = 0.0, 0
    for line in rows.read_text().splitlines():
        messages = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        answer = messages[1]["content"] + "<|im_end|>"
        ids = torch.tensor([tokenizer(prompt + answer, add_special_tokens=False).input_ids])
        logps = model(ids).logits[0, :-1].log_softmax(-1)
        total -= float(logps[torch.arange(start - 1, ids.shape[1] - 1), ids[0, start:]].sum().detach())
        count += ids.shape[1] - start
    return total / count


@pytest.mark.parametrize("split", SPLITS.values(), ids=list(SPLITS))
def test_the_same_for_every_split(train: Train, split: dict[str, Any], by_hand: float, tmp_path: Path) -> None:
    whole = one_step(train, per_device_train_batch_size=23, gradient_accumulation_steps=1)
    other = one_step(train, output_dir=str(tmp_path / "other"), **split)
    assert losses(whole)[1] == pytest.approx(by_hand, rel=1e-5)
    assert losses(other)[1] == pytest.approx(by_hand, rel=1e-5)
    assert losses(other)[2] == pytest.approx(losses(whole)[2], rel=1e-4)


@pytest.mark.parametrize("processes", [2])
def test_the_same_for_several_processes(
    train: Train, base: Path, rows: Path, tmp_path: Path, processes: int, by_hand: float
) -> None:
    whole = one_step(train, per_device_train_batch_size=23, gradient_accumulation_steps=1)
    command = f"""sft --model {base} --dataset {rows} --output_dir {tmp_path / "two"} --max_steps 2 --train_type full
        --learning_rate 1e-3 --per_device_train_batch_size 2 --gradient_accumulation_steps 6 --logging_steps 1
        --report_to none --torch_dtype float32 --add_version false --use_cpu true"""
    environment = {**os.environ, "NPROC_PER_NODE": str(processes), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "swift", *command.split()],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "two" / "logging.jsonl").read_text().splitlines()]
    logged = [entry["loss"] for entry in log if "loss" in entry]
    assert logged[0] == pytest.approx(by_hand, rel=1e-5)
    assert logged[1] == pytest.approx(losses(whole)[2], rel=1e-4)
    ours = load_file(tmp_path / "two" / "checkpoint-2" / "model.safetensors")
    assert whole.checkpoint is not None
    theirs = load_file(whole.checkpoint / "model.safetensors")
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-4)


def test_the_use_of_experts_weighs_as_in_the_models_own_loss(train: Train, rows: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from tests.tiny import save_tiny

    model = save_tiny(tmp_path / "experts", "mixtral", output_router_logits=False, router_aux_loss_coef=0.5)
    row = tmp_path / "row.jsonl"
    row.write_text(rows.read_text().splitlines()[3] + "\n")
    options = {"model": str(model), "dataset": [str(row)], "max_steps": 1, "gradient_accumulation_steps": 1}
    plain = losses(train(output_dir=str(tmp_path / "plain"), **options))[1]
    found = losses(train(output_dir=str(tmp_path / "even"), router_aux_loss_coef=0.5, **options))[1]
    # What the template writes after an answer is not trained, and goes to experts all the same.
    messages, tokenizer = json.loads(row.read_text())["messages"], make_tokenizer()
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    start = text.index(messages[1]["content"])
    stop = start + len(messages[1]["content"] + "<|im_end|>")
    parts = [
        tokenizer(part, add_special_tokens=False).input_ids for part in (text[:start], text[start:stop], text[stop:])
    ]
    ids = torch.tensor([[token for part in parts for token in part]])
    labels = torch.tensor([[-100] * len(parts[0]) + parts[1] + [-100] * len(parts[2])])
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    expected = whole(input_ids=ids, labels=labels, output_router_logits=True).loss
    assert found == pytest.approx(float(expected), rel=1e-4)
    assert found > plain + 0.1


def test_the_use_of_experts_is_asked_of_models_that_tell_it(train: Train) -> None:
    from swift.errors import SwiftError

    with pytest.raises(SwiftError, match="--router_aux_loss_coef: LlamaForCausalLM does not tell"):
        train(router_aux_loss_coef=0.1)
