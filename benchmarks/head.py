"""Logits of some tokens at a time against logits of all: time and memory of the head and the loss alone, on the CPU.

python benchmarks/head.py [--repeats 3] prints a table in Markdown. Sizes are the demo model's: 576 hidden values and
49,152 words. Both ways take turns, and the fastest of each counts. Memory is the most that tensors made on the way hold
at once, hidden states and weights aside.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

HIDDEN, VOCABULARY = 576, 49152
MIB = 1 << 20


def step(head: Any, hidden: Any, labels: Any, chunked: bool) -> float:
    """Seconds of forward and backward."""
    from swift.tasks.head import head_logps
    from swift.tasks.row_logps import row_logps

    head.zero_grad()
    hidden.grad = None
    start = time.perf_counter()
    logps = head_logps(head, hidden, labels, 0.0) if chunked else row_logps(head(hidden), labels)
    (-logps.sum()).backward()
    return time.perf_counter() - start


def peak(head: Any, hidden: Any, labels: Any, chunked: bool) -> int:
    """Bytes."""
    from swift.plan.trace import LiveBytes

    head.zero_grad()
    hidden.grad = None
    with LiveBytes() as live:
        for tensor in (head.weight, hidden, labels):
            live.note(tensor, "weights")
        step(head, hidden, labels, chunked)
    return sum(live.peak.values()) - live.peak["weights"]


def main() -> None:
    """Print a line for each number of tokens, frozen and trained head."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("| head | dtype | tokens | all at once, ms | some at a time, ms | MiB | MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for trained in (False, True):
        for dtype in (torch.float32, torch.bfloat16):
            for tokens in (64, 512, 2048):
                head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False, dtype=dtype).requires_grad_(trained)
                hidden = torch.randn(tokens, HIDDEN, dtype=dtype, requires_grad=True)
                labels = torch.randint(VOCABULARY, (tokens,))
                seconds: dict[bool, list[float]] = {False: [], True: []}
                for _ in range(arguments.repeats):
                    for chunked, found in seconds.items():
                        found.append(step(head, hidden, labels, chunked))
                times = [f"{min(found) * 1000:.0f}" for found in seconds.values()]
                sizes = [f"{peak(head, hidden, labels, chunked) / MIB:.0f}" for chunked in seconds]
                name = "trained" if trained else "frozen"
                print(f"| {name} | {str(dtype)[6:]} | {tokens} | {' | '.join(times + sizes)} |", flush=True)


if __name__ == "__main__":
    main()
