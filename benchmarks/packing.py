"""How full packs become and how long it takes to plan them, by the number of samples.

python benchmarks/packing.py --samples 10000 100000 1000000
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from processes import table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Plan packs of each number of samples and print the table."""
    from swift.data import plan_packs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--length", type=int, default=4096, help="tokens of a pack")
    options = parser.parse_args()
    lines = []
    for count in options.samples:
        # Lengths of conversations are spread like this: most are short, some are many times as long.
        drawn = np.random.default_rng(0).lognormal(np.log(300), 0.9, count)
        lengths = drawn.astype(np.int64).clip(2, options.length)
        for strategy in ("binpack", "sequential"):
            started = time.process_time()
            packs = plan_packs(lengths, options.length, strategy)
            seconds = time.process_time() - started
            fill = lengths.sum() / (len(packs) * options.length)
            lines.append([f"{count:,}", strategy, f"{len(packs):,}", f"{fill:.2%}", f"{seconds:.2f}"])
    print(table(["samples", "strategy", "packs", "full", "CPU seconds"], lines))


if __name__ == "__main__":
    main()
