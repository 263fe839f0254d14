"""Many streaming clients at once against `swift deploy`, each of which checks its own answers (`make soak`).

Each client asks one question after the other, greedy and streamed, and compares every answer, token for token, with
what the engine gives to the same question alone; a part of the clients leaves half way each time. Reported are answers,
wrong ones, cut ones and refusals, latency, and the server's memory. At the end the server gets SIGTERM while answers
are under way: what it has accepted has to come whole.

The model has random weights, two small layers and the real tokenizer of the demo model, so that the load falls on the
server and not on the model; `--model demo` takes the real one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from processes import environment_of, load_note
from servers import Running, free_port, running, swift_command

QUESTIONS = [f"Question {number}: what is {number} times {number + 3}, and why?" for number in range(64)]
MAKE_MODEL = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from swift.hub import resolve
tokenizer = AutoTokenizer.from_pretrained(resolve("demo").path)
torch.manual_seed(0)
config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.4,
    bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
"""
ANSWERS = """
import json, sys
from swift.engines import InferRequest, PtEngine, RequestConfig
model, tokens, questions = json.loads(sys.stdin.read())
engine = PtEngine(model, torch_dtype="float32", max_batch_size=1)
requests = [InferRequest([{"role": "user", "content": text}]) for text in questions]
config = RequestConfig(tokens, temperature=0, ignore_eos=True)
print(json.dumps([response.choices[0].token_ids for response in engine.infer(requests, config)]))
"""


@dataclass
class Seen:
    """What all clients saw."""

    counts: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


async def client(
    number: int, url: str, wanted: list[list[int]], tokens: int, end: float, leaves: float, seen: Seen
) -> None:
    """Ask until the time is over."""
    chance = random.Random(number)
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as http:
        while time.monotonic() < end:
            place = chance.randrange(len(QUESTIONS))
            goes_after = chance.randrange(tokens) if chance.random() < leaves else None
            try:
                outcome = await ask(http, place, wanted[place], tokens, goes_after, seen)
            except httpx.HTTPError as error:
                outcome = f"connection: {type(error).__name__}"
            seen.counts[outcome] += 1


async def ask(
    http: httpx.AsyncClient, place: int, wanted: list[int], tokens: int, goes_after: int | None, seen: Seen
) -> str:
    """One answer, and what is to be said of it."""
    body = {"messages": [{"role": "user", "content": QUESTIONS[place]}], "max_tokens": tokens, "temperature": 0}
    more = {"stream": True, "return_token_ids": True, "ignore_eos": True}
    got: list[int] = []
    ended, reason, sent = False, None, time.monotonic()
    async with http.stream("POST", "/v1/chat/completions", json={**body, **more}) as lines:
        if lines.status_code != 200:
            return f"status {lines.status_code}"
        async for line in lines.aiter_lines():
            ended = ended or line == "data: [DONE]"
            if not line.startswith("data: {"):
                continue
            told = json.loads(line.removeprefix("data: "))
            if "error" in told:
                return f"error: {told['error']['message']}"
            for choice in told["choices"]:
                if choice.get("token_ids") and not got:
                    seen.first.append(time.monotonic() - sent)
                got += choice.get("token_ids") or []
                reason = choice["finish_reason"] or reason
            if goes_after is not None and len(got) > goes_after:
                return "left half way" if got == wanted[: len(got)] else "WRONG"
    if not ended or reason is None:
        return "CUT"
    seen.whole.append(time.monotonic() - sent)
    return "right" if got == wanted else "WRONG"


async def storm(server: Running, options: argparse.Namespace, wanted: list[list[int]], seen: Seen) -> None:
    """All clients for the whole time, then SIGTERM in the middle of answers."""
    end = time.monotonic() + options.seconds
    clients = [
        client(number, server.url, wanted, options.tokens, end, options.leave, seen)
        for number in range(options.clients)
    ]
    await asyncio.gather(*clients)
    last = [
        asyncio.create_task(client(-number, server.url, wanted, options.tokens, time.monotonic() + 0.5, 0.0, seen))
        for number in range(8)
    ]
    await asyncio.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*last)


def prepare(options: argparse.Namespace, folder: Path) -> tuple[str, list[list[int]]]:
    """The model, and the engine's own answers."""
    environment = environment_of(ours=True)
    model = options.model or str(folder / "model")
    if options.model is None:
        subprocess.run([sys.executable, "-c", MAKE_MODEL, model], env=environment, check=True, capture_output=True)
    given = json.dumps([model, options.tokens, QUESTIONS])
    command = [sys.executable, "-c", ANSWERS]
    done = subprocess.run(command, env=environment, input=given, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return model, json.loads(done.stdout.splitlines()[-1])


def report(seen: Seen, memory: list[int]) -> str:
    """A line for each thing."""

    def at(values: list[float], percent: int) -> float:
        return sorted(values)[min(len(values) * percent // 100, len(values) - 1)] if values else 0.0

    lines = [f"{outcome}: {count}" for outcome, count in seen.counts.most_common()]
    lines.append(f"first token: p50 {at(seen.first, 50):.2f} s, p99 {at(seen.first, 99):.2f} s")
    lines.append(f"whole answer: p50 {at(seen.whole, 50):.2f} s, p99 {at(seen.whole, 99):.2f} s")
    lines.append("memory of the server: " + " -> ".join(f"{each / 2**20:.0f} MiB" for each in memory))
    return "\n".join(lines)


def main() -> None:
    """Run it; the status is 1 where an answer was wrong, cut or lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="unset means small random weights")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    parser.add_argument("--leave", type=float, default=0.2, help="share of requests whose clients leave half way")
    parser.add_argument("--max_batch_size", type=int, default=32)
    options = parser.parse_args()
    print(load_note(), file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="swift-soak-") as name:
        model, wanted = prepare(options, Path(name))
        port, seen = free_port(), Seen()
        words = ["--torch_dtype", "float32", "--max_batch_size", str(options.max_batch_size), "--log_level", "error"]
        with running(swift_command(model, port, *words), port, ours=True) as server:
            memory = [server.memory()]

            async def watched() -> None:
                work = asyncio.create_task(storm(server, options, wanted, seen))
                for _ in range(3):
                    done, _ = await asyncio.wait({work}, timeout=options.seconds / 3.2)
                    if not done:
                        memory.append(server.memory())
                await work

            asyncio.run(watched())
            status = server.process.wait(60)
    # A connection that is refused after SIGTERM was never accepted.
    kinds = set(seen.counts) - {"right", "left half way", "status 503", "connection: ConnectError"}
    print(report(seen, memory))
    print(f"exit status of the server after SIGTERM under load: {status}")
    sys.exit(1 if kinds or status else 0)


if __name__ == "__main__":
    main()
