"""Time and memory of training steps over packs, by how attention keeps the samples of a pack apart.

A Llama of random weights (by default of SmolLM2-135M's shape with fewer layers) takes forward and backward passes over
one pack of samples of different lengths. Ways:

- segments: what `--packing true` runs where the architecture lets it: SDPA sample by sample, on a GPU in one kernel
- sdpa: SDPA under a mask of the whole pack, as transformers runs it
- flex_attention, flash_attention_2: as transformers runs them, where they run

Each cell is a process of its own; a time is the median of the timed steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time

from processes import ROOT, environment_of, table

WAYS = ("segments", "sdpa", "flex_attention", "flash_attention_2")


def cell(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step and the peak of memory in bytes."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from swift.data import Collator, EncodedDataset, Layout
    from swift.models.segments import attend_by_segment
    from swift.plan.measure import MemoryMeter
    from swift.rows import EncodedRow

    [length], [way] = options.length, options.way
    heads = options.hidden // 64
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=options.layers,
        num_attention_heads=heads,
        num_key_value_heads=next(count for count in (heads // 4, heads // 3, 1) if count and heads % count == 0),
        max_position_embeddings=length,
    )
    config._attn_implementation = "sdpa" if way == "segments" else way
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(device, torch.bfloat16)
    if way == "segments" and not attend_by_segment(model):
        raise SystemExit("no segments in this architecture")
    random, lengths = np.random.RandomState(0), [0]
    while lengths[-1] < length:
        lengths.append(min(length, lengths[-1] + int(random.randint(options.shortest, options.longest + 1))))
    ids = random.randint(1, 1024, length).astype(np.int32)
    samples = [EncodedRow(ids[a:b], ids[a:b]) for a, b in itertools.pairwise(lengths)]
    layout = Layout(0, padding_free=True, borders=way in ("segments", "flash_attention_2"))
    batch = Collator(EncodedDataset(samples), [list(range(len(samples)))], layout)([0])
    batch = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
    batch.pop("labels")
    seconds = []
    meter = MemoryMeter(device).start()
    for _ in range(options.warmup + options.steps):
        started = time.perf_counter()
        model(**batch, use_cache=False, logits_to_keep=1).logits.float().square().mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[options.warmup :]), "peak": meter.stop()}


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, nargs="+", default=[4096, 16384], help="tokens of the pack")
    parser.add_argument("--way", nargs="+", choices=WAYS, default=["segments", "sdpa"])
    parser.add_argument("--shortest", type=int, default=128, help="tokens of the shortest sample (default 128)")
    parser.add_argument("--longest", type=int, default=896, help="tokens of the longest (default 896)")
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--cell", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the cells and print the table."""
    options = parse()
    if options.cell:
        print(json.dumps(cell(options)))
        return
    shared = [f"--{name}={getattr(options, name)}" for name in ("shortest", "longest", "hidden", "layers")]
    shared += [f"--{name}={getattr(options, name)}" for name in ("warmup", "steps")]
    head = ["pack", "attention", "tokens/s", "of the first", "peak memory"]
    print(table(head, []), flush=True)
    for length in options.length:
        base = None
        for way in options.way:
            command = [sys.executable, __file__, "--cell", f"--length={length}", f"--way={way}", *shared]
            done = subprocess.run(command, env=environment_of(ours=True), cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                print(f"| {length:,} | {way} | {done.stderr.strip().splitlines()[-1][:60]} | | |", flush=True)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            speed = length / found["seconds"]
            base = base or speed
            peak = f"{found['peak'] / 2**20:,.0f} MiB"
            print(f"| {length:,} | {way} | {speed:,.0f} | {speed / base:.2f} | {peak} |", flush=True)


if __name__ == "__main__":
    main()
