"""What a run leaves, and what it refuses."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.cli.main import main
from swift.config import SftConfig
from swift.config.build import read_arguments
from swift.errors import SwiftError
from swift.train.result import SftResult
from swift.train.sft import sft
from tests.tiny import make_tokenizer, save_adapter, save_tiny
from tests.train.conftest import losses

Train = Callable[..., SftResult]
ROOT = Path(__file__).parents[2]


def trainable(result: SftResult) -> set[str]:
    from safetensors import safe_open

    assert result.checkpoint is not None
    with safe_open(next(result.checkpoint.glob("*model*.safetensors")), "pt") as file:
        return set(file.keys())


def test_an_adapter_loads_with_peft_alone(train: Train, base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    result = train(max_steps=3)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    before = plain(ids).logits
    after = PeftModel.from_pretrained(plain, result.checkpoint)(ids).logits
    assert not torch.allclose(before, after)
    settings = json.loads((result.checkpoint / "adapter_config.json").read_text())  # type: ignore[operator]
    assert settings["base_model_name_or_path"] == str(base)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target_modules": ["q_proj"]}, "self_attn.q_proj"),
        ({"target_regex": r".*layers\.1\.mlp\..*"}, "layers.1.mlp"),
    ],
)
def test_lora_goes_where_it_is_told(train: Train, options: dict[str, Any], expected: str) -> None:
    names = trainable(train(max_steps=1, **options))
    assert names
    assert all(expected in name for name in names)


def test_modules_to_save_are_trained_in_full(train: Train) -> None:
    names = trainable(train(max_steps=1, modules_to_save=["lm_head"], target_modules=["q_proj"]))
    assert any("lm_head" in name for name in names)


def test_freeze_changes_only_what_it_may(train: Train, base: Path) -> None:
    from safetensors.torch import load_file

    result = train(max_steps=2, train_type="freeze", trainable_parameters=["model.layers.1."])
    before = load_file(base / "model.safetensors")
    after = load_file(result.checkpoint / "model.safetensors")  # type: ignore[operator]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("model.layers.1.") for name in changed)


def test_training_goes_on_from_an_adapter(train: Train, base: Path, tmp_path: Path) -> None:
    first = train(max_steps=5)
    again = train(max_steps=1, adapters=[str(first.checkpoint)], model=None)
    assert losses(again)[1] < losses(first)[1]


def test_config_yaml_repeats_the_run(train: Train, tmp_path: Path) -> None:
    first = train(max_steps=3, lora_dropout=0.2)
    again = sft(read_arguments(SftConfig, ["--config", str(first.run_folder / "config.yaml")]))  # type: ignore[operator]
    assert again.run_folder != first.run_folder
    assert losses(again) == losses(first)


def test_latest_goes_on_in_its_folder_wherever_that_is_named_from(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = train(output_dir="here", max_steps=2)
    again = train(output_dir="here", max_steps=3, resume_from_checkpoint="latest")
    assert again.run_folder == first.run_folder
    assert sorted(losses(again)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"eval_strategy": "steps"}, "--eval_strategy steps: there are no rows"),
    ],
)
def test_names_are_checked_before_the_model(train: Train, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SwiftError, match=said):
        train(**options, model="nowhere/nothing", dataset=["nowhere.jsonl"], dry_run=True)


def test_lora_goes_into_a_model_with_a_state(train: Train, tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    tokenizer = make_tokenizer()
    sizes = MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(sizes).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    result = train(model=str(tmp_path / "mamba"), max_steps=1)
    names = json.loads((result.checkpoint / "adapter_config.json").read_text())["target_modules"]  # type: ignore[operator]
    assert sorted(name.rpartition(".")[2] for name in names) == ["dt_proj", "in_proj", "x_proj"]
    with pytest.raises(SwiftError, match="out_proj"):
        train(model=str(tmp_path / "mamba"), max_steps=1, target_modules=["out_proj"])


@pytest.mark.parametrize("kind", ["mamba", "bloom"])
def test_packing_where_samples_would_meet_is_refused_and_leaves_no_folder(
    train: Train, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig

    tokenizer = make_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "eos_token_id": 2}
    configs = {
        "mamba": lambda: MambaConfig(num_hidden_layers=2, state_size=4, **sizes),
        "bloom": lambda: BloomConfig(n_layer=2, n_head=4, **sizes),
    }
    model = AutoModelForCausalLM.from_config(configs[kind]())
    model.save_pretrained(tmp_path / kind)
    tokenizer.save_pretrained(tmp_path / kind)
    if kind == "mamba":
        monkeypatch.setattr("swift.models.load.load_as", lambda *_, **__: pytest.fail("the weights were loaded"))
    said = {"mamba": "layers, which carry one sample into the next", "bloom": "sees the one before it"}[kind]
    with pytest.raises(SwiftError, match=said):
        train(model=str(tmp_path / kind), packing=True, max_length=128)
    assert not list((tmp_path / "output").rglob("*"))


def test_a_run_in_the_folder_of_an_earlier_one(train: Train, tmp_path: Path) -> None:
    straight = {"add_version": False, "save_steps": 1}
    train(max_steps=2, **straight)
    with pytest.raises(SwiftError, match="holds checkpoints of an earlier run, up to checkpoint-2") as caught:
        train(max_steps=3, **straight)
    assert "--overwrite_output_dir true" in str(caught.value)
    assert train(max_steps=3, resume_from_checkpoint="latest", **straight).steps == 3
    result = train(max_steps=1, overwrite_output_dir=True, **straight)
    assert result.run_folder is not None
    assert sorted(path.name for path in result.run_folder.glob("checkpoint-*")) == [
        f"checkpoint-{n}" for n in (1, 2, 3)
    ]
    assert "overwrite_output_dir" not in (result.run_folder / "config.yaml").read_text()


def test_options_of_another_tuner_are_noted(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train(train_type="full", lora_rank=4, dry_run=True, format="json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (note,) = [line for line in lines if line.get("name") == "lora_rank"]
    assert (
        note["value"] == 4
        and note["reason"] == "has no effect without --train_type lora or longlora or loha or lokr or bone"
    )


def test_folders_links_and_limit(train: Train, tmp_path: Path) -> None:
    result = train(max_steps=5, save_steps=1, save_total_limit=2, add_version=False, create_checkpoint_symlink=True)
    assert result.run_folder == tmp_path / "output"
    assert sorted(path.name for path in result.run_folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
    assert (result.run_folder / "last").resolve() == result.checkpoint
    assert (result.run_folder / "images" / "loss.png").is_file()
    versions = [train(max_steps=1).run_folder.name for _ in range(2)]  # type: ignore[union-attr]
    assert [name.split("-")[0] for name in versions] == ["v0", "v1"]


def test_the_log_is_unrounded_and_numbered(train: Train) -> None:
    result = train(max_steps=4)
    lines = [json.loads(line) for line in (result.run_folder / "logging.jsonl").read_text().splitlines()]  # type: ignore[operator]
    logged = [entry for entry in lines if "loss" in entry]
    assert [entry["step"] for entry in logged] == [1, 2, 3, 4]
    assert any(len(repr(entry["loss"])) > 12 for entry in logged)


def test_evaluation_counts_tokens(train: Train) -> None:
    result = train(max_steps=2, split_dataset_ratio=0.3, eval_strategy="steps", eval_steps=1, eval_metric="acc")
    by_one = [entry for entry in result.log if "eval_loss" in entry]
    assert len(by_one) == 2
    again = train(
        max_steps=2,
        split_dataset_ratio=0.3,
        eval_strategy="steps",
        eval_steps=1,
        eval_metric="acc",
        per_device_eval_batch_size=5,
    )
    by_five = [entry for entry in again.log if "eval_loss" in entry]
    for one, five in zip(by_one, by_five, strict=True):
        assert one["eval_loss"] == pytest.approx(five["eval_loss"], rel=1e-5)
        assert one["eval_token_acc"] == pytest.approx(five["eval_token_acc"])


@pytest.mark.parametrize(
    "options",
    [
        {"save_strategy": "steps"},
        {"save_strategy": "best"},
        {"save_strategy": "steps", "load_best_model_at_end": True, "save_total_limit": 1},
    ],
)
def test_the_best_and_the_last_checkpoint(train: Train, options: dict[str, Any]) -> None:
    result = train(
        max_steps=6,
        split_dataset_ratio=0.3,
        eval_steps=1,
        save_steps=1,
        learning_rate=0.5,
        create_checkpoint_symlink=True,
        add_version=False,
        **options,
    )
    evaluated = {entry["step"]: entry["eval_loss"] for entry in result.log if "eval_loss" in entry}
    best = min(evaluated, key=lambda step: evaluated[step])
    folder = result.run_folder
    assert folder is not None and result.checkpoint is not None
    assert (folder / "best").resolve().name == f"checkpoint-{best}"
    wanted = best if options.get("load_best_model_at_end") else 6
    assert result.checkpoint.name == f"checkpoint-{wanted}"
    assert result.checkpoint.is_dir()


def test_secrets_stay_out_of_files(train: Train) -> None:
    result = train(max_steps=1, hub_token="hf_secret")
    assert result.run_folder is not None
    for file in result.run_folder.rglob("*"):
        assert not file.is_file() or b"hf_secret" not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optim": "adamwx"}, "adamwx"),
        ({"lr_scheduler_type": "zigzag"}, "zigzag"),
        ({"report_to": ["wandb"]}, "--report_to wandb"),
        ({"deepspeed": "zero3"}, "--deepspeed zero3"),
        ({"use_liger_kernel": True}, "--use_liger_kernel"),
    ],
)
def test_mistakes_leave_no_folder(train: Train, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SwiftError) as caught:
        train(**options)
    assert said in str(caught.value)
    assert not (tmp_path / "output").exists()


def test_a_dry_run_shows_and_writes_nothing(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(dry_run=True, format="json")
    assert result.run_folder is None
    assert not (tmp_path / "output").exists()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = {line["kind"] for line in lines}
    assert {"decision", "counts", "memory", "row"} <= kinds
    memory = next(line for line in lines if line["kind"] == "memory")
    assert memory["total"] == sum(memory["parts"].values())
    counts = next(line for line in lines if line["kind"] == "counts")
    assert counts["rows"] == 23
    assert counts["steps"] == result.steps == 18


def test_parts_of_a_users_own(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"""sft --external_plugins {ROOT / "examples" / "my_parts.py"} --model {base} --dataset sums#12
        --val_dataset sums#4 --train_type norms --optimizer sgd_with_momentum --loss_type focal
        --eval_metric first_digit --callbacks announce --template dialogue --max_steps 2
        --output_dir {tmp_path / "parts"} --add_version false --report_to none --torch_dtype float32"""
    assert main(words.split()) == 0
    assert "announce: 2 steps" in capsys.readouterr().out
    log = [json.loads(line) for line in (tmp_path / "parts" / "logging.jsonl").read_text().splitlines()]
    assert any("eval_even" in entry for entry in log)


BAD_ROWS = {
    "broken line": ('{"messages": [}\n', "bad.jsonl:1"),
    "no rows": ("", "bad.jsonl"),
    "wrong role": ('{"messages": [{"role": "judge", "content": "x"}]}\n', "judge"),
    "no assistant": ('{"messages": [{"role": "user", "content": "x"}]}\n', "assistant"),
    "nothing trained": (
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "loss": false}]}\n',
        "bad.jsonl:1",
    ),
}


@pytest.mark.parametrize(("text", "said"), BAD_ROWS.values(), ids=list(BAD_ROWS))
def test_bad_rows(train: Train, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(SwiftError) as caught:
        train(dataset=[str(path)])
    assert said in str(caught.value)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("lazy", [False, True])
def test_all_bad_rows_are_told_before_weights_are_looked_for(
    train: Train, base: Path, rows: Path, tmp_path: Path, lazy: bool
) -> None:
    bare, bad, held = tmp_path / "bare", tmp_path / "bad.jsonl", tmp_path / "held.jsonl"
    shutil.copytree(base, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    media = json.dumps({"query": "q", "response": "a", "images": ["x.png"]})
    bad.write_text(f"{rows.read_text()}broken\n" + ("" if lazy else media + "\n"))
    held.write_text(f"{rows.read_text()}broken\n{media}\n")
    with pytest.raises(SwiftError) as caught:
        train(model=str(bare), dataset=[str(bad)], val_dataset=[str(held)], lazy_tokenize=lazy)
    for where in (f"{bad}:24: ", f"{held}:24: ", f"{held}:25: ", *([] if lazy else [f"{bad}:25: "])):
        assert where in str(caught.value)
    assert not (tmp_path / "output").exists()


def test_bad_rows_may_be_dropped_and_are_written_down(train: Train, rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text(rows.read_text() + "broken\n")
    result = train(dataset=[str(path)], strict=False, max_steps=1)
    assert result.run_folder is not None
    (dropped,) = (result.run_folder / "dropped.jsonl").read_text().splitlines()
    line = json.loads(dropped)
    assert line["source"].endswith("mixed.jsonl:24")
    assert line["row"] == "broken"


def test_bad_models(train: Train, base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    wide = save_tiny(tmp_path / "wide", hidden_size=64)
    adapter = save_adapter(tmp_path / "adapter", base)
    for options, said in (
        ({"model": str(tmp_path / "nowhere" / "at" / "all")}, "nowhere"),
        ({"model": str(tmp_path / "empty")}, "holds no model"),
        ({"model": str(adapter)}, "adapter"),
        ({"adapters": [str(base)]}, "adapter_config.json is missing"),
        ({"model": str(wide), "adapters": [str(adapter)]}, "adapter"),
        ({"target_modules": ["q_prj"]}, "q_prj"),
        ({"target_regex": "("}, "target_regex"),
        ({"train_type": "freeze", "freeze_parameters_ratio": 1.0}, "nothing to train"),
        ({"train_type": "freeze", "freeze_parameters": ["nothing."]}, "names no parameter"),
        ({"no_cuda": True}, "--use_cpu true"),
        ({"eval_strategy": "steps"}, "no rows to evaluate on"),
        ({"chat_template": str(tmp_path / "none.jinja")}, "none.jinja"),
    ):
        with pytest.raises(SwiftError) as caught:
            train(**options)
        assert said in str(caught.value), options


def test_a_disk_that_is_full_beside_the_checkpoints(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from swift.train import hooks, plots

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(plots, "save_pictures", full)
    result = train(max_steps=1)
    assert result.status == 0 and result.checkpoint
    assert "no pictures in" in capsys.readouterr().err
    monkeypatch.setattr(hooks.LogFile, "on_log", full)
    with pytest.raises(SwiftError, match="the disk is full"):
        train(max_steps=2)


def test_a_folder_that_cannot_be_written(train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SwiftError, match="output_dir"):
        train(output_dir=str(tmp_path / "file" / "below"))


NOT_A_NUMBER = """
from swift.objectives import objective
from swift.objectives.types import Loss

@objective("broken")
def broken(outputs):
    total = -outputs.logps.sum()
    return Loss(total=total * float("nan") if len(outputs.logps) > 18 else total)
"""


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_rows(train: Train, tmp_path: Path) -> None:
    plugin, rows = tmp_path / "broken.py", tmp_path / "rows.jsonl"
    plugin.write_text(NOT_A_NUMBER)
    lengths = [2, 3, 4, 2, 3, 4, 5, 20, 3, 2, 4, 3]
    messages = [[{"role": "user", "content": "say"}, {"role": "assistant", "content": "Paris " * n}] for n in lengths]
    rows.write_text("".join(json.dumps({"messages": each}) + "\n" for each in messages))
    options = {"dataset": [str(rows)], "external_plugins": [str(plugin)], "loss_type": "broken", "logging_steps": 6}
    single = {"per_device_train_batch_size": 1, "dataset_shuffle": False, "train_dataloader_shuffle": False}
    with pytest.raises(SwiftError, match="the loss of step 4 is not a finite number") as raised:
        train(max_steps=6, save_steps=2, **options, **single)
    assert str(rows) in str(raised.value) and ":8" in str(raised.value)
    assert "the last checkpoint before it is checkpoint-2" in str(raised.value)
    assert [folder.name for folder in (tmp_path / "output").rglob("checkpoint-*")] == ["checkpoint-2"]
