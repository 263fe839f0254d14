"""Time and memory of attention over packs on a CPU: sample by sample, and with a mask of the whole pack.

Each run is a process of its own: a forward and a backward pass of a model's decoder layers over one pack of random
tokens, without the output embedding, whose logits would hide the difference.

    python benchmarks/segments.py --lengths 4096 16384
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from processes import environment_of, load_note, measure, table


def side(options: argparse.Namespace) -> None:
    """One run: prints one JSON object."""
    import numpy as np
    import torch

    from swift.hub import resolve
    from swift.models.load import load_model
    from swift.models.segments import attend_by_segments

    model = load_model(resolve(options.model).path, dtype="bfloat16", for_training=True).model
    model.gradient_checkpointing_enable({"use_reentrant": False})
    if options.side == "samples" and not attend_by_segments(model):
        sys.exit("this model does not attend sample by sample")
    length, random = options.lengths[0], np.random.default_rng(0)
    sizes: list[int] = []
    while sum(sizes) < length:
        sizes.append(min(int(random.lognormal(np.log(options.sample), 0.6)) + 2, length - sum(sizes)))
    positions = torch.cat([torch.arange(size) for size in sizes])[None]
    ids = torch.from_numpy(random.integers(0, 1000, (1, length)))
    started = time.perf_counter()
    hidden = model.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    hidden.float().square().mean().backward()
    print("\n" + json.dumps({"seconds": time.perf_counter() - started, "samples": len(sizes)}))


def main() -> None:
    """Run both ways at each length and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--sample", type=int, default=300, help="tokens of a sample, in the middle")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--side", choices=("samples", "mask"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side(options)
        return
    lines = []
    for length in options.lengths:
        for way in ("mask", "samples"):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, os.path.abspath(__file__), "--side", way, "--lengths", str(length)]
                command += ["--model", options.model, "--sample", str(options.sample)]
                finished = measure(command, environment_of(ours=True, threads=os.cpu_count() or 1), Path(folder))
            if finished.status:
                sys.exit(finished.output[-3000:])
            found = json.loads(finished.output.strip().splitlines()[-1])
            cells = [f"{length:,}", str(found["samples"]), way, f"{found['seconds']:.1f}"]
            lines.append([*cells, f"{finished.peak / 2**20:,.0f} MiB"])
    print(table(["pack", "samples", "attention by", "seconds", "peak memory"], lines))
    print(f"\n{load_note()}.")


if __name__ == "__main__":
    main()
