"""The speed of servers of the OpenAI protocol under the same load (`make bench-serve`).

Sides: `swift deploy`; the same requests in static batches of 8 by `model.generate`, without a server; `transformers
serve`, as it is by default and with its continuous batching; ms-swift 4.6's `swift deploy` (`--peer PYTHON`, see
train.py) and `vllm serve` (`--vllm PYTHON`), each from an environment of its own. All serve the demo model
(SmolLM2-135M-Instruct) in the same dtype and with the same number of threads; the engines that take a batch size get 8.

The load: so many clients at once (`--concurrency`), each of which sends its next request when it has its answer.
Requests are short questions that want long answers, greedy, streamed, of at most `--tokens` tokens. Output tokens are
counted by the model's tokenizer in the texts that came, alike for all sides. The time to the first token runs from
sending the request to its first piece of text, and the time between tokens from piece to piece.

Sides take turns, round after round, each server started anew; the table has medians over rounds, of latencies the
median over rounds of each round's percentile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
from processes import environment_of, find_peer, load_note, processors, table
from servers import free_port, running, swift_command
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
BATCH = 8
TOPICS = (
    "the sea", "a lighthouse keeper", "bread", "the history of Rome", "a robot that learns to paint", "mountains",
    "the moon", "a lost dog", "how rain is made", "trains", "an old library", "honey bees", "chess", "the desert",
    "a river and its fish", "winter in the north",
)  # fmt: skip
ASKS = ("Write a long story about {}.", "Explain in detail what is special about {}.", "Write a letter about {}.")


@dataclass(frozen=True)
class Work:
    """What every side is given."""

    model: str
    dtype: str
    tokens: int
    threads: int
    concurrency: list[int]
    requests: list[int]

    def prompts(self, count: int) -> list[str]:
        """So many different questions."""
        asked = [ask.format(topic) for ask in ASKS for topic in TOPICS]
        return [f"{asked[at % len(asked)]}{' Be vivid.' * (at // len(asked))}" for at in range(count)]


@dataclass
class Load:
    """What one side did under one load.

    Attributes:
        first: seconds to the first piece, of each request.
        between: seconds from piece to piece.
    """

    side: str
    concurrency: int
    requests: int
    seconds: float
    tokens: int
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float | None]:
        """The figures of the table."""
        return {
            "requests_per_second": self.requests / self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
            "first_p50": percentile(self.first, 50),
            "first_p99": percentile(self.first, 99),
            "between_p50": percentile(self.between, 50),
            "between_p99": percentile(self.between, 99),
        }


def percentile(values: list[float], percent: float) -> float | None:
    """The value below which so many percent lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] if ordered else None


async def load_with(url: str, name: str, prompts: list[str], concurrency: int, work: Work) -> Load:
    """Ask all prompts, so many at once."""
    waiting = list(reversed(prompts))
    load = Load("", concurrency, len(prompts), 0.0, 0)
    texts: list[str] = []
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as client:

        async def ask_on() -> None:
            while waiting:
                texts.append(await ask(client, name, waiting.pop(), work.tokens, load))

        began = time.perf_counter()
        await asyncio.gather(*(ask_on() for _ in range(concurrency)))
        load.seconds = time.perf_counter() - began
    tokenizer = Tokenizer.from_file(str(Path(work.model) / "tokenizer.json"))
    load.tokens = sum(len(tokenizer.encode(text).ids) for text in texts)
    return load


async def ask(client: httpx.AsyncClient, name: str, prompt: str, tokens: int, load: Load) -> str:
    """One streamed answer."""
    messages = [{"role": "user", "content": prompt}]
    body = {"model": name, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}
    text, last, sent = "", 0.0, time.perf_counter()
    async with client.stream("POST", "/v1/chat/completions", json=body) as lines:
        if lines.status_code != 200:
            raise SystemExit(f"{client.base_url}: {lines.status_code} {(await lines.aread()).decode()}")
        async for line in lines.aiter_lines():
            if not line.startswith("data: {"):
                continue
            told = json.loads(line.removeprefix("data: "))
            if "error" in told:
                raise SystemExit(f"{client.base_url}: {told['error']}")
            piece = "".join(choice["delta"].get("content") or "" for choice in told.get("choices") or ())
            if piece:
                now = time.perf_counter()
                (load.between if text else load.first).append(now - (last if text else sent))
                text, last = text + piece, now
    return text


@dataclass(frozen=True)
class Side:
    """A server.

    Attributes:
        command: from the work and a port to a command line.
        ours: whether it needs this tree.
        model: the name in requests; None means the folder.
    """

    command: Callable[[Work, int], list[str]]
    ours: bool = False
    model: str | None = "bench"

    def loads(self, name: str, work: Work) -> list[Load]:
        """Start it and put each load on it."""
        port = free_port()
        with running(self.command(work, port), port, ours=self.ours, threads=work.threads) as server:
            model = self.model or work.model
            asyncio.run(load_with(server.url, model, work.prompts(2), 2, work))
            found = []
            for concurrency, count in zip(work.concurrency, work.requests, strict=True):
                load = asyncio.run(load_with(server.url, model, work.prompts(count), concurrency, work))
                load.side = name
                found.append(load)
            return found


@dataclass(frozen=True)
class Static:
    """Batches by `generate`; their size is the only concurrency."""

    def loads(self, name: str, work: Work) -> list[Load]:
        """Run the requests of the load that has the batch's size."""
        if BATCH not in work.concurrency:
            return []
        count = work.requests[work.concurrency.index(BATCH)]
        given = {"model": work.model, "dtype": work.dtype, "batch": BATCH, "tokens": work.tokens}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(json.dumps({**given, "prompts": work.prompts(count)}))
            file.flush()
            command = [sys.executable, str(HERE / "static.py"), file.name]
            environment = environment_of(ours=False, threads=work.threads)
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{name}:\n{done.stderr[-3000:]}")
        told = json.loads(done.stdout.splitlines()[-1])
        return [Load(name, BATCH, count, told["seconds"], told["tokens"])]


def ours(work: Work, port: int) -> list[str]:
    """`swift deploy`."""
    words = ["--torch_dtype", work.dtype, "--max_batch_size", str(BATCH), "--served_model_name", "bench"]
    return swift_command(work.model, port, *words, "--log_level", "warning")


def transformers_serve(*words: str) -> Callable[[Work, int], list[str]]:
    """`transformers serve` of this environment."""

    def command(work: Work, port: int) -> list[str]:
        start = [sys.executable, "-m", "transformers.cli.transformers", "serve", work.model]
        return [*start, "--port", str(port), "--dtype", work.dtype, *words]

    return command


def peer_deploy(python: str) -> Callable[[Work, int], list[str]]:
    """ms-swift's `swift deploy`."""

    def command(work: Work, port: int) -> list[str]:
        words = [python, "-m", "swift.cli.main", "deploy", "--model", work.model, "--port", str(port)]
        words += ["--model_type", "llama", "--template", "chatml", "--torch_dtype", work.dtype, "--attn_impl", "sdpa"]
        words += ["--infer_backend", "transformers", "--max_batch_size", str(BATCH), "--host", "127.0.0.1"]
        return [*words, "--served_model_name", "bench", "--verbose", "false"]

    return command


def vllm_serve(python: str) -> Callable[[Work, int], list[str]]:
    """`vllm serve`, by the module behind it: the command does not start in vLLM's build for the CPU (0.32)."""

    def command(work: Work, port: int) -> list[str]:
        words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", work.model, "--port", str(port)]
        words += ["--host", "127.0.0.1", "--dtype", work.dtype, "--served-model-name", "bench"]
        return [*words, "--max-num-seqs", str(BATCH), "--max-model-len", "2048"]

    return command


def ours_on_vllm(python: str) -> Callable[[Work, int], list[str]]:
    """`swift deploy` of this tree on vLLM, in its environment."""

    def command(work: Work, port: int) -> list[str]:
        words = [python, *swift_command(work.model, port)[1:], "--torch_dtype", work.dtype, "--infer_backend", "vllm"]
        words += ["--vllm_max_num_seqs", str(BATCH), "--vllm_max_model_len", "2048", "--served_model_name", "bench"]
        return [*words, "--log_level", "warning"]

    return command


def sides_of(options: argparse.Namespace) -> dict[str, Side | Static]:
    """The sides that can run here."""
    sides: dict[str, Side | Static] = {"swift deploy": Side(ours, ours=True), "generate, batches of 8": Static()}
    if find_spec("transformers.cli.serve") is not None:
        sides["transformers serve"] = Side(transformers_serve(), model=None)
        sides["… continuous batching"] = Side(transformers_serve("--continuous-batching"), model=None)
    if python := find_peer(options.peer):
        sides["ms-swift deploy"] = Side(peer_deploy(python))
    if options.vllm:
        sides["vllm serve"] = Side(vllm_serve(options.vllm))
        sides["swift deploy on vLLM"] = Side(ours_on_vllm(options.vllm), ours=True)
    return {
        name: side for name, side in sides.items() if not options.only or any(word in name for word in options.only)
    }


def summary(loads: list[Load]) -> list[dict[str, Any]]:
    """Medians over rounds for each side and load."""
    groups: dict[tuple[str, int], list[dict[str, float | None]]] = {}
    for load in loads:
        groups.setdefault((load.side, load.concurrency), []).append(load.figures())
    rows = []
    for (side, concurrency), rounds in sorted(groups.items(), key=lambda group: group[0][1]):
        known = {name: [r[name] for r in rounds if r[name] is not None] for name in rounds[0]}
        medians = {name: statistics.median(values) if values else None for name, values in known.items()}
        rows.append({"side": side, "concurrency": concurrency, **medians})
    return rows


def show(rows: list[dict[str, Any]]) -> str:
    """The table."""

    def milliseconds(value: float | None) -> str:
        return "" if value is None else f"{value * 1000:,.0f}"

    head = ["clients", "side", "requests/s", "tokens/s", "first token p50", "p99", "between tokens p50", "p99 (ms)"]
    latencies = ("first_p50", "first_p99", "between_p50", "between_p99")
    lines = [
        [
            str(row["concurrency"]),
            row["side"],
            f"{row['requests_per_second']:.2f}",
            f"{row['tokens_per_second']:.0f}",
            *(milliseconds(row[name]) for name in latencies),
        ]
        for row in rows
    ]
    return table(head, lines)


def folder_of(model: str) -> str:
    """The model's folder, found by a process of its own so that this one stays small."""
    code = "import sys; from swift.hub import resolve; print(resolve(sys.argv[1]).path)"
    command = [sys.executable, "-c", code, model]
    done = subprocess.run(command, capture_output=True, text=True, env=environment_of(ours=True))
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout.splitlines()[-1]


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--tokens", type=int, default=64, help="longest answer")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], help="clients at once")
    parser.add_argument("--requests", type=int, nargs="+", default=[8, 48, 96], help="requests of each of these loads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=processors(), help="of each server")
    parser.add_argument("--peer", metavar="PYTHON", help="interpreter of an environment with ms-swift 4.6")
    parser.add_argument("--vllm", metavar="PYTHON", help="interpreter of an environment with vLLM")
    parser.add_argument("--only", nargs="+", help="run the sides whose names hold one of these words")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    if len(options.concurrency) != len(options.requests):
        parser.error("--requests takes a number for each of --concurrency")
    work = Work(
        folder_of(options.model), options.dtype, options.tokens, options.threads, options.concurrency, options.requests
    )
    sides = sides_of(options)
    loads: list[Load] = []
    for round_number in range(options.rounds):
        for name, side in sides.items():
            print(f"round {round_number + 1}: {name} ({load_note()})", file=sys.stderr, flush=True)
            try:
                loads += side.loads(name, work)
            except SystemExit as error:
                print(f"{name} is left out of this round: {error}", file=sys.stderr)
    rows = summary(loads)
    print(json.dumps(rows, indent=2) if options.json else show(rows))


if __name__ == "__main__":
    main()
