"""The command line: pages, exit statuses, and that nothing heavy is imported before it is needed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from swift.cli.main import _by_other_name, main
from swift.config.build import read_arguments
from swift.config.commands import COMMANDS

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "peft", "datasets", "numpy", "accelerate", "gradio", "matplotlib", "rich")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["--version"]])
def test_pages_of_the_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "swift" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_page_with_an_example_that_is_read(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    example = shlex.split(capsys.readouterr().out.partition("Example:\n")[2])
    assert example[:2] == ["swift", command]
    assert read_arguments(COMMANDS[command], _by_other_name(example[1:])[1:])


def test_a_command_by_its_other_name_has_its_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--to_cached_dataset", "true", "--help"]) == 0
    assert "swift prepare --option value" in capsys.readouterr().out


def test_help_on_a_word_that_is_nowhere_names_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sft", "--help", "zzz"]) == 2
    assert "no option of swift sft has to do with zzz" in capsys.readouterr().err
    assert main(["sft", "--help", "lora_rnak"]) == 2
    assert "the closest: --lora_rank" in capsys.readouterr().err
    assert main(["sft", "--model", "demo", "--help"]) == 0
    assert "--lora_rank" in capsys.readouterr().out


def test_help_on_a_word_shows_options_of_transformers_too(capsys: pytest.CaptureFixture[str]) -> None:
    main(["sft", "--help", "neftune"])
    assert "--neftune_noise_alpha FLOAT" in capsys.readouterr().out
    main(["sft", "--help", "fsdp"])
    assert "Refused: FSDP is not there yet." in capsys.readouterr().out
    main(["sft", "--help"])
    assert "--fsdp" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stf"], "did you mean swift sft?"),
        (["rlhf"], "does not have yet"),
        (["sft", "--modle", "demo"], "did you mean --model?"),
        (["sft"], "--model is missing"),
        (["sft", "--model", "demo"], "--dataset is missing"),
        (["sft", "--model", "demo", "--dataset", "nowhere.jsonl"], "nowhere.jsonl"),
        (["sft", "--model", "demo", "--dataset", "x", "--train_type", "lroa"], "there is no such tuner"),
        (["sft", "--model", "demo", "--dataset", "x", "--label_names", "y"], "no effect here"),
        (["merge-lora"], "--adapters"),
    ],
)
def test_mistakes_end_with_2_and_one_message(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert printed.err.startswith("error: ")


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "sft --help",
        "infer --help",
        "--version",
        "sft --modle x",
        "sft --model a --dataset no.jsonl",
        "sft --model a --dataset no.jsonl --deepspeed zero2",
        "infer --model ./no/model",
        "infer --adapters ./no/adapter",
        "infer --model FOLDER --val_dataset no.jsonl",
        "infer --model FOLDER --val_dataset FOLDER/broken.jsonl",
        "merge-lora --adapters FOLDER",
        "sft --model ./no/model --dataset FOLDER/whole.jsonl",
        "sft --model FOLDER --dataset FOLDER/whole.jsonl --optim adamw_trch",
        "sft --model FOLDER --dataset FOLDER/whole.jsonl --attn_impl sdp",
        "deploy --model FOLDER --adapters FOLDER",
        "deploy --model FOLDER --adapters robin=FOLDER",
        "deploy --model FOLDER --host 256.1.1.1",
        "plan --model ./no/model",
    ],
)
def test_nothing_heavy_is_imported(words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "broken.jsonl").write_text("{\n")
    (tmp_path / "whole.jsonl").write_text('{"query": "a", "response": "b"}\n')
    words = words.replace("FOLDER", str(tmp_path))
    code = (
        "import sys\nfrom swift.cli.main import main\n"
        f"main({words.split()!r})\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    last = done.stdout.splitlines()[-1]
    allowed = "[]" if words.partition("--")[2].split()[0] in ("help", "version", "modle") else "['numpy']"
    assert last in ("HEAVY []", f"HEAVY {allowed}"), done.stdout + done.stderr


@pytest.mark.parametrize("words", [[], ["--dry_run", "true", "--format", "json"]], ids=["text", "json"])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_does_not_begin_in_silence(
    words: list[str], terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert main(["sft", "--model", "demo", "--dataset", "nowhere.jsonl", *words]) == 2
    assert capsys.readouterr().err.startswith("checking options and rows" if terminal and not words else "error: ")


def test_import_swift_loads_no_torch() -> None:
    code = "import sys, swift; from swift import SftConfig, sft; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
