"""A back end in an environment of its own: here our own engine stands for it, in another process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swift.cli.main import main
from swift.config.commands import InferConfig
from swift.config.decisions import Decisions
from swift.engines import InferRequest, PtEngine, RequestConfig, backends
from swift.engines.backends import Backend, check_backend, choose_backend, given_options
from swift.engines.outside import OutsideEngine
from swift.environments.place import WHOLE, Environment
from swift.errors import SwiftError
from swift.models.source import find_source
from tests.tiny import ask, save_adapter, save_tiny

GREEDY = RequestConfig(8, temperature=0)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("environment")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return Environment("vllm", folder, WHOLE, "1.0")


def gone(pid: int) -> bool:
    """Whether a process, or its whole group, ends within some seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def engine(base, environment):
    engine = OutsideEngine(environment, {"model": str(base), "infer_backend": "pt"})
    yield engine
    engine.close()
    assert gone(engine.child._process.pid)


def test_the_same_answers(base, engine):
    requests = [InferRequest(ask(text)) for text in ("hi", "what is the sky?")]
    assert engine.infer(requests, GREEDY) == PtEngine(str(base)).infer(requests, GREEDY)


def test_why_it_does_not_start_is_told_in_its_own_words(environment, tmp_path):
    with pytest.raises(SwiftError) as error:
        OutsideEngine(environment, {"model": str(tmp_path), "infer_backend": "pt"})
    assert "ended with 2" in error.value.what
    assert "config.json" in error.value.what


def test_it_is_gone_when_its_parent_is_killed(base, environment):
    code = (
        "from pathlib import Path; import time\n"
        "from swift.engines.outside import OutsideEngine\n"
        "from swift.environments.place import Environment\n"
        f"environment = Environment('vllm', Path({str(environment.path)!r}), 'whole')\n"
        f"engine = OutsideEngine(environment, {{'model': {str(base)!r}, 'infer_backend': 'pt'}})\n"
        "print(engine.child._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    child = int(parent.stdout.readline())
    os.killpg(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(child)


def test_options_go_along_with_their_secrets():
    config = InferConfig.of(
        model="demo", hub_token="secret", temperature=0, val_dataset=["rows.jsonl"], vllm_max_num_seqs=4
    )
    assert given_options(config) == {"model": "demo", "hub_token": "secret", "temperature": 0, "vllm_max_num_seqs": 4}


@pytest.fixture
def no_vllm(monkeypatch, tmp_path):
    """vLLM is neither here nor in an environment."""
    monkeypatch.setenv("SWIFT_CACHE", str(tmp_path))
    monkeypatch.setattr(backends, "find_spec", lambda name: None)


def test_without_vllm_an_error_names_the_way(base, no_vllm, tmp_path, capsys):
    for command in ("infer", "deploy"):
        assert main([command, "--model", str(base), "--infer_backend", "vllm"]) == 2
        said = capsys.readouterr().err
        assert "vllm is not installed here, and its environment is absent" in said
        assert "swift env install vllm" in said


@pytest.mark.parametrize(
    ("registry", "options", "wanted"),
    [
        (None, {}, "not vllm: it is not there"),
        ('"LlamaForCausalLM": 1', {}, "vllm"),
        ('"OtherForCausalLM": 1', {}, "not vllm: it does not know LlamaForCausalLM"),
        ('"LlamaForCausalLM": 1', {"device_map": "auto"}, "not vllm: it has no --device_map"),
        ('"LlamaForCausalLM": 1', {"kind": "LOHA"}, "not vllm: vLLM runs plain LoRA adapters alone"),
    ],
)
def test_auto_takes_vllm_where_it_runs_the_model(base, tmp_path, monkeypatch, registry, options, wanted):
    monkeypatch.setattr(backends, "_registry", lambda: registry)
    monkeypatch.setattr(backends, "find_spec", lambda name: object())
    if kind := options.pop("kind", None):
        adapter = save_adapter(tmp_path / "adapter", base)
        settings = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps(settings | {"peft_type": kind}))
        options["adapters"] = [str(adapter)]
    config, decisions = InferConfig.of(model=str(base), **options), Decisions()
    source = find_source(config.model, decisions)
    found = choose_backend("auto", source, config.model, decisions)
    assert found == Backend("vllm" if wanted == "vllm" else "pt")
    decision = next(each for each in decisions if each.name == "infer_backend")
    assert wanted in f"{decision.value}, {decision.reason}"


def test_names_that_are_no_back_end():
    assert check_backend("pt") == Backend("pt")
    assert check_backend("auto") is None
    with pytest.raises(SwiftError, match="there is no such engine"):
        check_backend("nothing")


def test_a_server_is_not_served_again(base, capsys):
    assert main(["deploy", "--model", str(base), "--infer_backend", "remote"]) == 2
    assert "a server has its own model" in capsys.readouterr().err


def test_infer_asks_the_environment(base, environment, engine, monkeypatch, capsys):
    started = []
    monkeypatch.setattr("swift.infer.run.check_backend", lambda name: None)
    monkeypatch.setattr("swift.infer.run.choose_backend", lambda name, *_: found[name])
    monkeypatch.setattr("swift.infer.run.start_outside", lambda *given: started.append(given) or engine)
    found = {"vllm": Backend("vllm", environment), "pt": Backend("pt")}
    answers = []
    for name in found:
        monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
        words = ["--infer_backend", name, "--model", str(base), "--max_new_tokens", "8", "--temperature", "0"]
        assert main(["infer", *words]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != "\n"
    assert [where for where, *_ in started] == [environment]


def test_when_it_dies_the_error_says_so(engine):
    os.killpg(engine.child._process.pid, signal.SIGKILL)
    with pytest.raises(SwiftError, match="in its environment ended with -9"):
        engine.infer([InferRequest(ask("hi"))], GREEDY)
