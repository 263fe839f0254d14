"""Requests that nobody should send against `swift deploy` (`make fuzz`): schemathesis over /openapi.json, and worse.

No answer may be a 500 or anything else than JSON in OpenAI's or Anthropic's form, the server has to be there at the
end, and its memory has to stay what it was. The model has small random weights (see soak.py).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import httpx
from processes import environment_of, load_note
from servers import Running, free_port, running, swift_command
from soak import MAKE_MODEL

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize", "/detokenize")
VALUES = [
    None, True, False, 0, -1, 1, 2**31, 2**70, -(2**63), 1e308, float("nan"), float("inf"), "", "a", "\ud800", "\0", [],
    {}, [[]], [None], [1, "a"], {"a": {}}, "x" * 10_000, [1] * 3000, [{"role": "user"}],
    [{"role": "user", "content": []}], [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/x"}}}],
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}, {"regex": "(" * 99}, {"grammar": "x"},
]  # fmt: skip
GOOD = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3},
    "/v1/completions": {"prompt": "hi", "max_tokens": 3},
    "/v1/responses": {"input": "hi", "max_output_tokens": 3},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1, 2]},
}


def fields_of(url: str) -> dict[str, list[str]]:
    """The fields of each path's body, by the server's own document."""
    document = httpx.get(f"{url}/openapi.json", trust_env=False).json()
    found = {}
    for path in PATHS:
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        found[path] = list(document["components"]["schemas"][content["$ref"].rpartition("/")[2]]["properties"])
    return found


def broken_bodies(url: str, count: int) -> Counter[int]:
    """Good requests with one or two fields spoilt, and bodies that are no requests at all."""
    chance, fields, statuses = random.Random(0), fields_of(url), Counter[int]()
    raw = [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"messages": "' + b"\xc3\x28" * 99 + b'"}', b"x" * 10_000_000]
    raw.append(json.dumps({"messages": [{"role": "user", "content": "hi " * 2_500_000}]}).encode())
    headers = {"content-type": "application/json"}
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        for path in PATHS:
            for body in raw:
                note(client.post(path, content=body, headers=headers), statuses)
            for _ in range(count):
                spoilt = {name: chance.choice(VALUES) for name in chance.sample(fields[path], chance.choice((1, 1, 2)))}
                text = json.dumps({**GOOD[path], **spoilt})
                note(client.post(path, content=text, headers=headers), statuses)
    return statuses


def note(answer: httpx.Response, statuses: Counter[int]) -> None:
    """Count an answer, and stop at one that must not be."""
    statuses[answer.status_code] += 1
    streamed = answer.headers["content-type"].startswith("text/event-stream")
    if answer.status_code >= 500 or (answer.status_code >= 400 and "message" not in answer.json()["error"]):
        raise SystemExit(f"{answer.status_code} for {answer.request.content[:2000]!r}:\n{answer.text[:2000]}")
    if answer.status_code == 200 and not streamed:
        answer.json()


def schemathesis(program: str, server: Running, examples: int, folder: str) -> int:
    """Its own run; the status is 0 where it found nothing."""
    checks = "not_a_server_error,response_schema_conformance,content_type_conformance"
    words = [
        str(Path(program).absolute()),
        "run",
        f"{server.url}/openapi.json",
        "--checks",
        checks,
        "--max-examples",
        str(examples),
    ]
    words += ["--phases", "coverage,fuzzing", "--request-timeout", "120", "--seed", "1", "--no-color"]
    return subprocess.run(words, env=environment_of(ours=False), cwd=folder).returncode


def main() -> None:
    """Run both; the status is 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemathesis", help="its program; unset leaves it out")
    parser.add_argument("--examples", type=int, default=100, help="for each endpoint and check")
    parser.add_argument("--broken", type=int, default=500, help="spoilt requests for each path")
    options = parser.parse_args()
    print(load_note(), file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="swift-fuzz-") as name:
        model = str(Path(name) / "model")
        command = [sys.executable, "-c", MAKE_MODEL, model]
        subprocess.run(command, env=environment_of(ours=True), check=True, capture_output=True)
        port = free_port()
        # Answers of a random model end at the limit: a short one for requests that set none.
        words = ["--torch_dtype", "float32", "--max_new_tokens", "8", "--log_level", "error"]
        with running(swift_command(model, port, *words), port, ours=True) as server:
            broken_bodies(server.url, 20)
            before = server.memory()
            statuses = broken_bodies(server.url, options.broken)
            found = schemathesis(options.schemathesis, server, options.examples, name) if options.schemathesis else 0
            alive = httpx.get(f"{server.url}/health", trust_env=False).status_code == 200
            after = server.memory()
    print(f"spoilt requests: {sum(statuses.values())}, by status: {dict(sorted(statuses.items()))}")
    print(f"alive: {alive}; memory {before / 2**20:.0f} -> {after / 2**20:.0f} MiB")
    sys.exit(1 if found or not alive else 0)


if __name__ == "__main__":
    main()
