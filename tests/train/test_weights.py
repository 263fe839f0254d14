"""A loss with weights: their sum over the trained tokens, divided by the number of trained tokens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.train.sft import SftResult
from tests.tiny import make_tokenizer
from tests.train.conftest import losses

Train = Callable[..., SftResult]
TABLE = {"Paris": 3, r"\d+$": 0.25, " ": 0}
ONE_STEP: dict[str, Any] = {"max_steps": 2, "train_type": "full", "learning_rate": 1e-3}
SPLITS: dict[str, dict[str, Any]] = {
    "two by two": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 12},
    "end to end": {"per_device_train_batch_size": 23, "gradient_accumulation_steps": 1, "padding_free": True},
    "packed": {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 23,
        "packing": True,
        "packing_length": 128,
    },
    "cut": {
        "per_device_train_batch_size": 9,
        "gradient_accumulation_steps": 9,
        "max_length": 24,
        "truncation_strategy": "split",
    },
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scale") / "weights.json"
    path.write_text(json.dumps(TABLE))
    return path


def weights_of(answer: str) -> list[float]:
    """The weight of each token of an answer and of its stop."""
    chars = [1.0] * len(answer)
    for pattern, weight in TABLE.items():
        for match in re.finditer(pattern, answer):
            chars[match.start() : match.end()] = [float(weight)] * len(match[0])
    offsets = make_tokenizer()(answer, return_offsets_mapping=True, add_special_tokens=False).offset_mapping
    return [*(chars[start] for start, _ in offsets), 1.0]


def cut_off(ids: list[int], length: int | None) -> list[tuple[list[int], int]]:
    """Pieces and their places, as `split` makes them."""
    step = (length or len(ids) + 1) - 1
    return [(ids[start : start + step + 1], start) for start in range(0, len(ids) - 1, step)]


@pytest.fixture(scope="module")
def by_hand(base: Path, rows: Path) -> Callable[[int | None], float]:
    """The loss of all rows, with no more context than a sample of that length has."""
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), make_tokenizer()

    def loss(length: int | None) -> float:
        total, count = 0.0, 0
        for line in rows.read_text().splitlines():
            messages = json.loads(line)["messages"]
            prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
            before = tokenizer(prompt, add_special_tokens=False).input_ids
            answer = tokenizer(messages[1]["content"] + "<|im_end|>", add_special_tokens=False).input_ids
            weights = [0.0] * len(before) + weights_of(messages[1]["content"])
            assert len(weights) == len(before) + len(answer)
            for ids, start in cut_off([*before, *answer], length):
                logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
                for place in range(1, len(ids)):
                    weight = weights[start + place]
                    total -= weight * float(logps[place - 1, ids[place]].detach())
                    count += weight != 0
        return total / count

    return loss


@pytest.mark.parametrize("split", SPLITS.values(), ids=list(SPLITS))
def test_the_same_for_every_split(
    train: Train, table: Path, split: dict[str, Any], by_hand: Callable[[int | None], float], tmp_path: Path
) -> None:
    result = train(**ONE_STEP, **split, loss_scale=str(table))
    assert losses(result)[1] == pytest.approx(by_hand(split.get("max_length")), rel=1e-5)
    if "max_length" not in split:
        whole = train(
            **ONE_STEP,
            per_device_train_batch_size=23,
            gradient_accumulation_steps=1,
            loss_scale=str(table),
            output_dir=str(tmp_path / "whole"),
        )
        assert losses(result)[2] == pytest.approx(losses(whole)[2], rel=1e-4)


def test_the_same_for_two_processes(
    base: Path, rows: Path, table: Path, tmp_path: Path, by_hand: Callable[[int | None], float]
) -> None:
    command = f"""sft --model {base} --dataset {rows} --output_dir {tmp_path / "two"} --max_steps 1 --train_type full
        --learning_rate 1e-3 --per_device_train_batch_size 2 --gradient_accumulation_steps 6 --logging_steps 1
        --report_to none --torch_dtype float32 --add_version false --use_cpu true --packing true --packing_length 128
        --loss_scale {table}"""
    done = subprocess.run(
        [sys.executable, "-m", "swift", *command.split()],
        env={**os.environ, "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "two" / "logging.jsonl").read_text().splitlines()]
    assert log[0]["loss"] == pytest.approx(by_hand(None), rel=1e-5)
