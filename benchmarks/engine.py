"""Tokens a second of the engine beside transformers' own: a static batch of `generate`, and its `generate_batch`.

All sides answer the same prompts greedily with the same number of tokens each, in one batch and with one copy of the
weights; they take turns over the rounds, and a ratio is the median of the ratios within each round. `same` is how many
answers are those of `generate`, token for token: in bfloat16 a batch of another shape rounds otherwise.

`--queue N` asks N times as many prompts as the batch has rows, every second one with half of the tokens, as a server
has it: static batches then wait for their longest answer, and continuous ones do not.
"""

from __future__ import annotations

import argparse
import queue
import statistics
import time
from typing import Any

from processes import load_note, table

WORDS = "Tell me a story about number {} and what the people of town {} thought of it."
Answers = list[list[int]]


class Work:
    """The loaded engine and what it is asked.

    Attributes:
        prompts: token ids of each.
        limits: tokens of each answer.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        import torch

        from swift.engines import InferRequest, PtEngine

        self.engine = PtEngine(options.model, torch_dtype=options.torch_dtype, max_batch_size=options.batch)
        self.model, self.batch, self.torch = self.engine.model, options.batch, torch
        texts = [WORDS.format(number, number * 7) for number in range(options.batch * options.queue)]
        self.requests = [InferRequest([{"role": "user", "content": text}]) for text in texts]
        self.prompts = [self.engine.encode(request) for request in self.requests]
        short = options.tokens if options.queue == 1 else options.tokens // 2
        self.limits = [options.tokens if number % 2 else short for number in range(len(texts))]

    def ours(self) -> Answers:
        """The engine, as a server uses it."""
        from swift.engines import RequestConfig

        self.engine.forget()
        ends: queue.Queue[tuple[int, Any]] = queue.Queue()
        for number, (request, limit) in enumerate(zip(self.requests, self.limits, strict=True)):
            config = RequestConfig(limit, temperature=0, ignore_eos=True)
            self.engine.submit(request, config, lambda delta, number=number: ends.put((number, delta)), whole=True)
        done: dict[int, list[int]] = {}
        while len(done) < len(self.requests):
            number, delta = ends.get()
            if delta.error is not None:
                raise delta.error
            done[number] = delta.response.choices[0].token_ids
        return [done[number] for number in range(len(done))]

    def generate(self) -> Answers:
        """Static batches, padded on the left."""
        answers: Answers = []
        for start in range(0, len(self.prompts), self.batch):
            prompts, limits = self.prompts[start : start + self.batch], self.limits[start : start + self.batch]
            width = max(map(len, prompts))
            ids = self.torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
            mask = self.torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
            with self.torch.inference_mode():
                out = self.model.generate(
                    input_ids=ids.to(self.model.device),
                    attention_mask=mask.to(self.model.device),
                    do_sample=False,
                    max_new_tokens=max(limits),
                    eos_token_id=-1,
                    pad_token_id=0,
                )
            answers += [row[:limit] for row, limit in zip(out[:, width:].tolist(), limits, strict=True)]
        return answers

    def generate_batch(self) -> Answers:
        """Transformers' continuous batching; all answers have the longest length, which is counted as asked."""
        from transformers import GenerationConfig

        config = GenerationConfig(do_sample=False, max_new_tokens=max(self.limits), eos_token_id=-1)
        outputs = self.model.generate_batch(inputs=self.prompts, generation_config=config, progress_bar=False)
        by_prompt = {tuple(output.prompt_ids): output.generated_tokens for output in outputs.values()}
        found = [by_prompt[tuple(prompt)] for prompt in self.prompts]
        return [row[:limit] for row, limit in zip(found, self.limits, strict=True)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--torch_dtype", default="float32")
    parser.add_argument("--batch", type=int, default=8, help="rows of a batch (default 8)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer (default 64)")
    parser.add_argument("--queue", type=int, default=1, help="batches of prompts (default 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", nargs="+", default=["generate", "ours"], help="ours, generate, generate_batch")
    options = parser.parse_args()
    work = Work(options)
    print(load_note(), flush=True)
    speeds: dict[str, list[float]] = {side: [] for side in options.side}
    answers: dict[str, Answers] = {}
    for side in options.side:
        getattr(work, side)()  # a first one, to warm up
    for _ in range(options.rounds):
        for side in options.side:
            started = time.perf_counter()
            answers[side] = getattr(work, side)()
            speeds[side].append(sum(work.limits) / (time.perf_counter() - started))
            print(f"{side} {speeds[side][-1]:,.0f} tokens/s", flush=True)
    first = options.side[0]
    rows = []
    for side, found in speeds.items():
        ratios = [one / other for one, other in zip(found, speeds[first], strict=True)]
        same = sum(one == other for one, other in zip(answers[side], answers[first], strict=True))
        row = [
            side,
            f"{statistics.median(found):,.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{same} of {len(answers[side])}",
        ]
        rows.append(row)
    print(table(["side", "tokens/s", f"of {first}", "same"], rows))


if __name__ == "__main__":
    main()
