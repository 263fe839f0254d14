"""The yardstick: the same run as a plain PyTorch loop, as one would write it by hand.

It uses transformers' model with its own loss and PEFT's LoRA, and nothing of `swift`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def collate(samples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """input_ids, labels, attention_mask: int64[batch, longest], padded on the right."""
    longest = max(len(sample["input_ids"]) for sample in samples)

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([sample[name] + [fill] * (longest - len(sample[name])) for sample in samples])

    mask = torch.tensor([[int(i < len(sample["input_ids"])) for i in range(longest)] for sample in samples])
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask}


def main() -> None:
    """Train on the samples in order and write one line for each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--train_type", choices=("lora", "full"), default="lora")
    options = parser.parse_args()

    given = json.loads(options.samples.read_text(encoding="utf-8"))
    dtype = getattr(torch, given["dtype"])
    torch.manual_seed(42)
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=dtype)
    model.config.use_cache = False
    if options.train_type == "lora":
        lora = LoraConfig(r=8, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)

    with open(options.log, "w", encoding="utf-8") as log:
        for step in range(options.steps):
            batch = collate(given["samples"][step * options.batch : (step + 1) * options.batch])
            batch = {name: value.to(device) for name, value in batch.items()}
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            log.write(json.dumps({"step": step + 1, "loss": loss.item(), "time": time.time()}) + "\n")
            log.flush()
    if device == "cuda":
        print(f"Memory at the peak: {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB measured")


if __name__ == "__main__":
    main()
