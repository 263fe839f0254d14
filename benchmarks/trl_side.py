"""A run of TRL's SFTTrainer: `trl_side.py REQUEST.json LOG.jsonl`, called by `train.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from data_sides import CHATML
from datasets import disable_caching, load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Log(TrainerCallback):
    """A line for each step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Append the step's loss."""
        if logs and "loss" in logs:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, "loss": float(logs["loss"])}) + "\n")


def main() -> None:
    """Train as the request says."""
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    disable_caching()
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    tokenizer.chat_template = CHATML
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=getattr(torch, given["dtype"]))
    lora = LoraConfig(r=8, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(assistant_only_loss=True, **given["settings"]),
        train_dataset=load_dataset("json", data_files=given["rows"], split="train"),
        processing_class=tokenizer,
        peft_config=lora if given["lora"] else None,
        callbacks=[Log(Path(sys.argv[2]))],
    )
    trainer.train()
    if torch.cuda.is_available():
        print(f"Memory at the peak: {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB measured")


main()
