"""Planned against measured memory of training steps, on the CPU each cell in a process of its own.

python benchmarks/memory.py [--quick] [--device cuda] prints a row for each cell, then the median and the worst ratio.
On a GPU the measure is what PyTorch's allocator gave out at most.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SMOLLM2 = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
OTHER = {
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 2816,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
MODELS = {"smollm2": SMOLLM2, "other": OTHER}
STEPS = 3


def cells(quick: bool) -> list[dict[str, Any]]:
    shapes = [(1, 64), (1, 512), (4, 256)] if quick else [(1, 64), (4, 64), (1, 256), (1, 512), (2, 512), (4, 512)]
    found = [
        {"model": "smollm2", "train": "lora", "checkpointing": c, "rows": b, "length": n}
        for c in (False, True)
        for b, n in shapes
    ]
    found += [
        {"model": "smollm2", "train": train, "checkpointing": c, "rows": b, "length": n}
        for train in ("full16", "full32")
        for c, b, n in ([(False, 1, 256)] if quick else [(False, 1, 64), (False, 2, 256), (True, 1, 512)])
    ]
    found += [{"model": "other", "train": "lora", "checkpointing": c, "rows": 2, "length": 256} for c in (False, True)]
    return found


def build(cell: dict[str, Any]) -> Any:
    """The cell's model on the meta device, tuner attached."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    dtype = torch.float32 if cell["train"] == "full32" else torch.bfloat16
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(LlamaConfig(**MODELS[cell["model"]]), dtype=dtype)
        if cell["train"] == "lora":
            config = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear", lora_dropout=0.05)
            model = get_peft_model(model, config)
    return model


def plan(cell: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    import torch

    from swift.plan.memory import plan_memory

    tokens = cell["rows"] * cell["length"]
    found = plan_memory(
        build(cell),
        dtype=torch.bfloat16,
        micro_batch_tokens=tokens,
        trained_positions=tokens // 2,
        optimizer="adamw_torch_fused",
        gradient_checkpointing=cell["checkpointing"],
        autocast=True,
        rows=cell["rows"],
        device=device,
    )
    return {"total": found.total, "moment": found.moment, **found.parts}


def measure(cell: dict[str, Any]) -> int:
    """Run steps with random weights and return the peak above what lay in memory after the imports."""
    import transformers.models.llama.modeling_llama  # noqa: F401

    from swift.plan.measure import MemoryMeter

    build({**cell, "model": "other"})  # imports what a model's making imports
    meter = MemoryMeter().start()
    model = build(cell)
    model.to_empty(device="cpu")
    model.get_base_model().tie_weights() if cell["train"] == "lora" else model.tie_weights()
    train(model, cell)
    return meter.stop()


def measure_on_gpu(cell: dict[str, Any]) -> int:
    """The same for memory of a GPU, above what lies there before."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = build(cell).to_empty(device="cuda")
    model.get_base_model().tie_weights() if cell["train"] == "lora" else model.tie_weights()
    train(model, cell)
    return torch.cuda.max_memory_allocated() - before


def train(model: Any, cell: dict[str, Any]) -> None:
    import torch

    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data.uniform_(-0.02, 0.02)
    model.train()
    if cell["checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    for _ in range(STEPS):
        step(model, optimizer, cell["rows"], cell["length"])


def step(model: Any, optimizer: Any, rows: int, length: int) -> None:
    import torch

    ids = torch.randint(0, model.config.vocab_size, (rows, length), device=model.device)
    mask = torch.ones_like(ids) if rows > 1 else None
    if mask is not None:
        mask[1, length - 5 :] = 0
    kept = torch.arange(length // 2, length, device=model.device)
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits
    total = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, kept].flatten(), reduction="sum")
    (total / logits.shape[0]).backward()
    optimizer.step()
    optimizer.zero_grad()


def in_new_process(what: str, cell: dict[str, Any]) -> Any:
    words = [sys.executable, "-W", "ignore", __file__, what, json.dumps(cell)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cells")
    parser.add_argument("--only", default="", help="regular expression that a cell's name must match")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    ratios = []
    print(f"{'cell':<34} {'planned':>8} {'measured':>9} {'ratio':>6}   MiB by part", flush=True)
    for cell in cells(options.quick):
        name = f"{cell['model']} {cell['train']} {cell['rows']}x{cell['length']}"
        name += " checkpointing" if cell["checkpointing"] else ""
        if not re.search(options.only, name):
            continue
        if options.device == "cuda":
            planned, measured = plan(cell, "cuda"), measure_on_gpu(cell)
        else:
            planned, measured = in_new_process("plan", cell), in_new_process("measure", cell)
        ratios.append(planned["total"] / measured)
        parts = " ".join(f"{key[:5]}={value >> 20}" for key, value in planned.items() if isinstance(value, int))
        print(
            f"{name:<34} {planned['total'] >> 20:>8} {measured >> 20:>9} {ratios[-1]:>6.2f}   {parts}",
            flush=True,
        )
    worst = max(ratios, key=lambda ratio: abs(ratio - 1))
    print(f"median {statistics.median(ratios):.2f}, worst {worst:.2f}, {len(ratios)} cells")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if len(sys.argv) == 3 and sys.argv[1] in ("plan", "measure"):
        print(json.dumps({"plan": plan, "measure": measure}[sys.argv[1]](json.loads(sys.argv[2]))))
    else:
        main()
