from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from swift.config import Decisions, ModelConfig
from swift.errors import SwiftError
from swift.hub import choose_hub, modelscope, resolve, resolve_adapter, resolve_dataset
from swift.models.source import find_source

MODEL = {
    "config.json": json.dumps({"model_type": "llama"}),
    "tokenizer.json": "{}",
    "model.safetensors": b"safe",
    "pytorch_model.bin": b"pickle",
    "model.fp16.safetensors": b"half",
    "onnx/model.onnx": b"onnx",
    "tiny.Q4_0.gguf": b"gguf",
    "original/consolidated.00.pth": b"meta",
}
KEPT = {"config.json", "tokenizer.json", "model.safetensors"}
needs_modelscope = pytest.mark.skipif(not modelscope.installed(), reason="the package modelscope is not installed")
HUBS = [pytest.param("hf"), pytest.param("ms", marks=needs_modelscope)]


def files_in(folder: Path) -> set[str]:
    return {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    }


@pytest.mark.parametrize("name", HUBS)
def test_a_model_comes_without_duplicate_formats(hub: Any, name: str) -> None:
    hub.add("owner/tiny", MODEL)
    found = resolve("owner/tiny", use_hf=name == "hf")
    assert found.hub == name and found.reason == f"--use_hf {str(name == 'hf').lower()}"
    assert files_in(found.path) == KEPT
    assert (found.path / "model.safetensors").read_bytes() == b"safe"


@pytest.mark.parametrize("name", HUBS)
def test_weights_can_be_left_out(hub: Any, name: str) -> None:
    hub.add("owner/tiny", MODEL)
    found = resolve("owner/tiny", use_hf=name == "hf", download_weights=False)
    assert files_in(found.path) == KEPT - {"model.safetensors"}


@pytest.mark.parametrize("name", HUBS)
def test_bin_weights_come_where_there_is_nothing_else(hub: Any, name: str) -> None:
    hub.add("owner/old", {"config.json": "{}", "pytorch_model.bin": b"pickle", "model.h5": b"tf"})
    assert files_in(resolve(f"{name}::owner/old").path) == {"config.json", "pytorch_model.bin"}


@pytest.mark.parametrize("name", HUBS)
def test_a_second_time_needs_no_network(hub: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("owner/tiny", MODEL)
    first = resolve("owner/tiny", use_hf=name == "hf")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:1")
    assert resolve("owner/tiny", use_hf=name == "hf").path == first.path
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve("owner/tiny", use_hf=name == "hf").path == first.path


@pytest.mark.parametrize("name", HUBS)
def test_data_sets_come_whole(hub: Any, name: str) -> None:
    hub.add("owner/rows", {"train.jsonl": b'{"a": 1}\n', "README.md": b"rows"})
    found = resolve_dataset("owner/rows", use_hf=name == "hf")
    assert files_in(found.path) == {"train.jsonl", "README.md"}
    assert found.hub == name


@pytest.mark.parametrize("name", HUBS)
@pytest.mark.parametrize("find", [resolve, resolve_dataset])
def test_no_such_repository(hub: Any, name: str, find: Any) -> None:
    with pytest.raises(SwiftError) as caught:
        find("owner/none", use_hf=name == "hf")
    text = str(caught.value)
    assert "owner/none" in text and {"hf": "Hugging Face", "ms": "ModelScope"}[name] in text
    assert f"--use_hf {str(name != 'hf').lower()}" in text


@pytest.mark.parametrize("name", HUBS)
def test_gated(hub: Any, name: str) -> None:
    hub.add("owner/tiny", MODEL)
    hub.gated.add("owner/tiny")
    with pytest.raises(SwiftError) as caught:
        resolve("owner/tiny", use_hf=name == "hf")
    assert {"hf": "HF_TOKEN", "ms": "MODELSCOPE_API_TOKEN"}[name] in str(caught.value)


@pytest.mark.parametrize("name", HUBS)
def test_no_network(hub: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(SwiftError, match="cannot be reached"):
        resolve("owner/tiny", use_hf=name == "hf")


def test_no_such_revision(hub: Any) -> None:
    hub.add("owner/tiny", MODEL)
    with pytest.raises(SwiftError, match="has no revision 'v9'"):
        resolve("HF::owner/tiny", revision="v9")


@pytest.mark.parametrize("name", HUBS)
def test_the_token_is_sent(hub: Any, name: str) -> None:
    hub.add("owner/tiny", MODEL)
    resolve("owner/tiny", use_hf=name == "hf", token="secret-1", download_weights=False)
    assert "secret-1" in hub.tokens


@pytest.mark.parametrize("name", HUBS)
def test_the_token_of_the_environment_is_sent(hub: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("owner/tiny", MODEL)
    monkeypatch.setenv("HF_TOKEN", "secret-2")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "secret-2")
    resolve("owner/tiny", use_hf=name == "hf", download_weights=False)
    assert "secret-2" in hub.tokens


@pytest.mark.parametrize(
    ("use_hf", "variable", "hub_name"), [(None, None, "ms"), (None, "1", "hf"), (False, "1", "ms"), (True, "0", "hf")]
)
def test_which_hub(use_hf: bool | None, variable: str | None, hub_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelscope, "installed", lambda: True)
    monkeypatch.delenv("USE_HF", raising=False)
    if variable is not None:
        monkeypatch.setenv("USE_HF", variable)
    assert choose_hub(use_hf)[0] == hub_name


def test_without_modelscope_the_default_is_hugging_face_and_says_why(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "modelscope" else real(name))
    hub.add("owner/tiny", MODEL)
    found = resolve("owner/tiny", download_weights=False)
    assert found.hub == "hf" and "modelscope is not installed" in found.reason
    with pytest.raises(SwiftError, match=r"pip install 'ms-swift\[modelscope\]'"):
        resolve("Ms::owner/tiny")


def test_use_hf_must_be_yes_or_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_HF", "perhaps")
    with pytest.raises(SwiftError, match="neither yes nor no"):
        choose_hub(None)


def test_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path)).path == tmp_path.resolve()


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        (None, "config.json"),
        ("adapter_config.json", "--adapters"),
        ("a.gguf", "GGUF"),
        ("whole/config.json", "a folder inside it: whole"),
    ],
)
def test_a_folder_without_a_model_is_named(tmp_path: Path, file: str | None, hint: str) -> None:
    if file:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
    with pytest.raises(SwiftError) as caught:
        resolve(str(tmp_path))
    assert str(tmp_path) in str(caught.value) and hint in str(caught.value)


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "~/none", "a b", "a/b/c", "HF::a/b/c"])
def test_what_is_neither_path_nor_id(name: str) -> None:
    with pytest.raises(SwiftError, match="id on a hub"):
        resolve(name)


@pytest.mark.parametrize("name", HUBS)
def test_an_adapter_comes_by_its_id(hub: Any, name: str, tmp_path: Path) -> None:
    files = {"adapter_config.json": "{}", "adapter_model.safetensors": b"safe", "adapter_model.bin": b"pickle"}
    hub.add("owner/adapter", files)
    found = resolve_adapter("owner/adapter", use_hf=name == "hf")
    assert files_in(found.path) == {"adapter_config.json", "adapter_model.safetensors"}
    assert resolve_adapter(str(tmp_path)).path == tmp_path
    with pytest.raises(SwiftError, match="owner/none"):
        resolve_adapter("owner/none", use_hf=name == "hf")


@pytest.mark.parametrize("name", HUBS)
def test_an_adapter_of_a_hub_brings_its_base_model(hub: Any, name: str) -> None:
    weights = save({"a.lora_A.weight": np.zeros((2, 2), np.float32)})
    settings = json.dumps({"base_model_name_or_path": "owner/tiny", "peft_type": "LORA"})
    hub.add("owner/adapter", {"adapter_config.json": settings, "adapter_model.safetensors": weights})
    hub.add("owner/tiny", MODEL)
    source = find_source(ModelConfig(adapters=["owner/adapter"], use_hf=name == "hf"), Decisions())
    assert source.base == "owner/tiny" and files_in(source.path) == KEPT
    assert [files_in(folder) for folder in source.adapters] == [{"adapter_config.json", "adapter_model.safetensors"}]


@pytest.mark.parametrize("name", HUBS)
def test_a_slip_of_a_known_name_asks_no_hub(hub: Any, name: str) -> None:
    with pytest.raises(SwiftError, match="neither here nor an id") as caught:
        resolve("dmeo", use_hf=name == "hf")
    assert "did you mean demo?" in str(caught.value)
    with pytest.raises(SwiftError, match="--val_dataset self-cogniton: no such file") as caught:
        resolve_dataset("self-cogniton", use_hf=name == "hf", known=["self-cognition"], option="val_dataset")
    assert "did you mean self-cognition?" in str(caught.value)
    assert not hub.requests


@pytest.mark.parametrize("name", ["nothere", "nothere.jsonl", "data/nothere.csv", "nothere.jsonl.gz", "a/b.PARQUET"])
def test_what_looks_like_a_file_asks_no_hub(hub: Any, name: str) -> None:
    with pytest.raises(SwiftError, match=f"--val_dataset {name}: no such file or folder") as caught:
        resolve_dataset(name, use_hf=True, option="val_dataset")
    assert str(Path.cwd()) in str(caught.value)
    assert not hub.requests
    hub.add("owner/rows.json", {"train.jsonl": b'{"a": 1}\n'})
    assert resolve_dataset("HF::owner/rows.json").hub == "hf"


def test_a_plain_name_of_adapters_is_a_folder(hub: Any) -> None:
    with pytest.raises(SwiftError, match="--adapters nothere: no such folder"):
        resolve_adapter("nothere", use_hf=True)
    assert not hub.requests


@pytest.mark.parametrize("name", HUBS)
def test_a_failed_download_names_option_and_kind(hub: Any, name: str) -> None:
    for find, told in (
        (resolve, "--model owner/none: there is no model 'owner/none'"),
        (resolve_adapter, "--adapters owner/none: there is no adapter 'owner/none'"),
        (resolve_dataset, "--dataset owner/none: there is no dataset 'owner/none'"),
    ):
        with pytest.raises(SwiftError, match=told):
            find("owner/none", use_hf=name == "hf")


def test_what_is_near_a_name_that_is_nowhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output" / "first").mkdir(parents=True)
    for find in (resolve, resolve_adapter, resolve_dataset):
        for name in ("output/frist", "./output/frist"):
            with pytest.raises(SwiftError, match="there is no") as caught:
                find(name)
            assert "did you mean output/first?" in str(caught.value)


@pytest.mark.parametrize("name", HUBS)
def test_an_id_that_a_hub_lacks_is_compared_with_known_ones(hub: Any, name: str) -> None:
    with pytest.raises(SwiftError, match="there is no dataset 'swift/self-cogniton'") as caught:
        resolve_dataset("swift/self-cogniton", use_hf=name == "hf", known=["swift/self-cognition"])
    assert "did you mean swift/self-cognition? Else check the name" in str(caught.value)


@pytest.mark.parametrize("name", HUBS)
def test_without_network_it_is_told_at_once(hub: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:1")
    if name == "ms":
        import modelscope  # noqa: F401  its import alone takes seconds

    began = time.monotonic()
    with pytest.raises(SwiftError, match="cannot be reached"):
        resolve_dataset("owner/rows", use_hf=name == "hf")
    assert time.monotonic() - began < 3


def test_a_bug_in_a_download_keeps_its_traceback(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("modelscope")

    def broken(*_: Any, **__: Any) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(modelscope, "_skip", broken)
    hub.add("owner/tiny", MODEL)
    with pytest.raises(AssertionError, match="a bug"):
        resolve("MS::owner/tiny")


def test_a_data_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    assert resolve_dataset(str(file)).path == file.resolve()


def test_importing_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, swift.hub, swift.models; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
