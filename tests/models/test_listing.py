from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from swift.cli.main import main
from swift.models.listing import EXPECTED, NOT_YET, PROVED, REMOTE, TABLE, models

MODELS = list(models())
BY_ID = {model["id"]: model for model in MODELS}
SWEEP = json.loads((TABLE / "sweep.json").read_text())


def test_the_table_is_large_and_whole():
    assert len(BY_ID) == len(MODELS), "an id stands twice"
    assert sum(not model["multimodal"] for model in MODELS) >= 600
    assert sum(model["multimodal"] for model in MODELS) >= 300
    for model in MODELS:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", model["id"]), model
        assert model["architectures"] and all(name.isidentifier() for name in model["architectures"]), model
        assert set(model["hubs"]) <= {"hf", "ms"} and model["hubs"], model
        assert model["support"] in (PROVED, EXPECTED, REMOTE, NOT_YET)


def test_proved_is_what_the_sweep_ran():
    proved = {result["architecture"] for result in SWEEP["results"].values() if result["proved"]}
    assert len(proved) > 100
    for result in SWEEP["results"].values():
        if result["proved"]:
            assert result["generated"] > 0 and result["adapters"] > result["idle_adapters"]
            assert result["loss"][1] < result["loss"][0]
        else:
            assert result["error"]
    for model in MODELS:
        if model["support"] == PROVED:
            assert not model["multimodal"]
            assert proved & set(model["classes"])


@pytest.mark.parametrize(
    ("name", "support", "multimodal"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", PROVED, False),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", EXPECTED, False),
        ("Qwen/Qwen-7B-Chat", REMOTE, False),
        ("Qwen/Qwen2-VL-7B-Instruct", NOT_YET, True),
        ("Qwen/Qwen-VL-Chat", NOT_YET, True),
        ("answerdotai/ModernBERT-base", NOT_YET, False),
        ("Qwen/Qwen2.5-Math-RM-72B", NOT_YET, False),
    ],
)
def test_support(name, support, multimodal):
    assert (BY_ID[name]["support"], BY_ID[name]["multimodal"]) == (support, multimodal)


def test_expected_is_what_writes_text():
    classes = {name for model in MODELS if model["support"] == EXPECTED for name in model["classes"]}
    assert not [name for name in classes if not name.endswith(("ForCausalLM", "LMHeadModel"))]


def test_the_command_prints_a_line_for_each(capsys):
    assert main(["models", "--search", "qwen2.5-7b", "--format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["id"] for line in lines} == {name for name in BY_ID if "qwen2.5-7b" in name.lower()}
    assert all(line["transformers"] == SWEEP["transformers"] for line in lines)
    assert main(["models", "--search", "qwen3"]) == 0
    ids = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    by_id = ["qwen3" in name.lower() for name in ids]
    assert by_id == sorted(by_id, reverse=True) and not all(by_id) and any(by_id)
    assert main(["models"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(MODELS)
    assert main(["models", "--search", "no such model"]) == 2
    assert "--search no such model" in capsys.readouterr().err


def test_data_sets_are_listed(capsys, tmp_path):
    own = tmp_path / "own.json"
    own.write_text('[{"name": "mine-kto", "path": "mine.jsonl"}]')
    assert main(["datasets", "--search", "kto", "--custom_dataset_info", str(own), "--format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["id"] for line in lines][:1] == ["mine-kto"]
    assert "trl-lib/kto-mix-14k" in {line["hf_id"] for line in lines}
    assert main(["datasets"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 150
    assert main(["datasets", "--search", "no such set"]) == 2


@pytest.mark.parametrize("command", ["models", "datasets"])
def test_the_lists_import_nothing_heavy(command):
    code = (
        f"import sys; from swift.cli.main import main; main(['{command}']); "
        "sys.exit(', '.join(sys.modules.keys() & {'torch', 'transformers', 'datasets', 'pandas', 'pyarrow'}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
