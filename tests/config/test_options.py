"""Options: read from words, YAML and Python; refused by name where they do not fit."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from swift.compat import transformers_major
from swift.config import Decisions, InferConfig, SftConfig
from swift.config.build import known_options, read_arguments, write_config
from swift.config.commands import COMMANDS, PlanConfig, options_of
from swift.config.effect import note_without_effect
from swift.config.fields import read_value
from swift.config.reference import flags_page
from swift.config.training_arguments import NAMES, REFUSED, TABLE, read_installed, read_installed_names
from swift.errors import SwiftError
from tests.shared import shared_dir

ROOT = Path(__file__).parents[2]


def read(words: str) -> SftConfig:
    return read_arguments(SftConfig, words.split())


@pytest.mark.parametrize(
    ("words", "concern", "name", "value"),
    [
        ("--model demo", "model", "model", "demo"),
        ("--lora-rank 4", "tuner", "lora_rank", 4),
        ("--lora_rank=4", "tuner", "lora_rank", 4),
        ("--tuner_type full", "tuner", "train_type", "full"),
        ("--sft_type full", "tuner", "train_type", "full"),
        ("--train_type full", "tuner", "train_type", "full"),
        ("--packing", "data", "packing", True),
        ("--packing false", "data", "packing", False),
        ("--dataset a#5 b --dataset c", "data", "dataset", ["a#5", "b", "c"]),
        ('--dataset ["a","b"]', "data", "dataset", ["a", "b"]),
        ('--columns {"q":"query"}', "data", "columns", {"q": "query"}),
        ("--max_steps -1", "train", "max_steps", -1),
        ("--learning_rate 1e-4", "train", "learning_rate", 1e-4),
        ("--max_length none", "template", "max_length", None),
        ("--dtype float32", "model", "torch_dtype", "float32"),
        ("--attn_impl flash_attn", "model", "attn_impl", "flash_attn"),
    ],
)
def test_values(words: str, concern: str, name: str, value: Any) -> None:
    assert getattr(getattr(read(words), concern), name) == value


def test_inference_has_a_context_and_nothing_to_truncate() -> None:
    assert read_arguments(InferConfig, ["--max_length", "64"]).generate.max_length == 64
    with pytest.raises(SwiftError, match="--truncation_strategy"):
        read_arguments(InferConfig, ["--truncation_strategy", "left"])
    template = read("--truncation_strategy left --max_length 9").template
    assert (template.max_length, template.truncation_strategy) == (9, "left")


def test_options_of_transformers_go_through() -> None:
    assert read("--neftune_noise_alpha 5 --adam_beta1 0.8").train.more == {
        "neftune_noise_alpha": 5.0,
        "adam_beta1": 0.8,
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--modle demo", r"unknown option --modle[\s\S]*did you mean --model\?"),
        ("--lora_rank x", "--lora_rank"),
        ("--lora_rank 1.5", "whole number"),
        ("--lora_rank 0", "must be at least 1"),
        ("--lora_dropout 2", "must lie between 0 and 1"),
        ("--packing maybe", "true or false"),
        ("--torch_dtype float8", "bfloat16|float16|float32"),
        ("--model a --model b", "given twice"),
        ("--model a b", "takes one value"),
        ("--columns {broken", "broken JSON"),
        ("--ray_exp_name x", "option of ms-swift that this version does not have yet"),
        ("--result_path x", "belongs to swift infer"),
        ("demo", "belongs to no option"),
        ("--config nowhere.yaml", "--config nowhere.yaml"),
        ("--max_length 0", "must be at least 1"),
        ("--max_steps many", "takes a whole number, got 'many'"),
        ("--max_steps 0", "must be at least 1, or -1"),
        ("--max_steps -5", "must be at least 1, or -1"),
        ("--lora_alpha -1", "must be at least 1"),
        ("--num_train_epochs 0", "must be more than 0"),
        ("--save_steps 0", "must be more than 0"),
        ("--logging_steps -1", "must be more than 0"),
        ("--seed -1", "must lie between 0 and 4294967295"),
        ("--lora_rank 0", "fix: give another value or leave it out: the default is 8"),
        ("--deepspeed zero2", "--deepspeed zero2 has no effect here: DeepSpeed is not there yet"),
        ("--dataset a ''", "must not be empty"),
        ("--report_to tensorbord", r"--report_to is .*tensorbord.*did you mean tensorboard\?"),
        ("--optim adamw_trch", "--optim is 'adamw_trch'; it must be a known name; did you mean adamw_torch"),
        ("--lr_scheduler_type cosin", "--lr_scheduler_type is 'cosin'.*did you mean cosine"),
        ("--lr_scheduler_type x", "it must be constant, constant_with_warmup"),
        ("--attn_impl sdp", r"--attn_impl is 'sdp'.*did you mean sdpa\?"),
        ("--max_shard_size 5", "--max_shard_size is '5'; it must be a number with KB, MB, GB or TB"),
        ("--adapters ''", "must not be empty"),
    ],
)
def test_bad_words(words: str, said: str) -> None:
    with pytest.raises(SwiftError) as caught:
        read_arguments(SftConfig, shlex.split(words) if "''" in words else words.split())

    assert re.search(said.replace("|", r"\|"), str(caught.value)), caught.value


def test_unknown_options_may_be_let_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert read("--nonsense 1 --ignore_args_error true").plugins.ignore_args_error
    assert "unknown option --nonsense" in capsys.readouterr().err


def test_what_a_run_would_ignore_is_refused_unless_it_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert read("--deepspeed none --group_by_length false").train.more == {}
    assert read("--fsdp full_shard --ignore_args_error true").train.more == {}
    assert "warning: --fsdp full_shard has no effect here" in capsys.readouterr().err
    page = flags_page()
    assert "`--deepspeed` (DeepSpeed is not there yet)" in page and "| `--deepspeed`" not in page
    known = json.loads(TABLE.read_text())
    assert json.loads(REFUSED.read_text()).keys() <= known.keys()


def test_options_without_effect_are_noted(tmp_path: Path) -> None:
    def noted(config: SftConfig, own: tuple[str, ...] = ()) -> list[str]:
        decisions = Decisions()
        note_without_effect(config, decisions, own)
        return [" ".join(line.split()) for line in decisions.table()]

    config = read("--train_type full --lora_rank 8 --packing_length 9 --swanlab_token t --add_version false")
    assert noted(config) == [
        "packing_length 9 flag has no effect without --packing",
        "lora_rank 8 flag has no effect without --train_type lora or longlora or loha or lokr or bone",
        "swanlab_token (secret) flag has no effect without --report_to swanlab",
    ]
    assert noted(read("--train_type mine --lora_rank 8"), ("train_type",)) == []
    assert noted(read("--overwrite_output_dir true")) == [
        "overwrite_output_dir true flag has no effect without --add_version false"
    ]
    write_config(read("--lora_rank 4"), tmp_path / "config.yaml")
    assert noted(read(f"--config {tmp_path / 'config.yaml'} --train_type full")) == [
        "lora_rank 4 file has no effect without --train_type lora or longlora or loha or lokr or bone"
    ]


def test_what_an_option_needs_is_there() -> None:
    for config in COMMANDS.values():
        options = options_of(config)
        for spec in options.values():
            if spec.needs:
                other, *values = spec.needs
                for value in values:
                    read = read_value(options[other], value, "")
                    assert read == ([value] if options[other].kind == "list" else value)


def test_a_broken_file_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: demo\nsystem: a: b\n")
    with pytest.raises(SwiftError, match="not YAML: mapping values") as caught:
        read(f"--config {file}")
    assert f"{file}:2" in str(caught.value) and caught.value.fix


def test_flags_go_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: demo\nlora_rank: 4\ntuner_type: full\ndataset: [a, b]\nneftune_noise_alpha: 5\n")
    config = read(f"--config {file} --lora_rank 16")
    assert (config.model.model, config.tuner.lora_rank, config.tuner.train_type) == ("demo", 16, "full")
    assert config.data.dataset == ["a", "b"]
    assert config.origins["model"] == str(file)
    assert config.origins["lora_rank"] == "--lora_rank"


def test_a_file_with_an_unknown_key_names_itself(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("modle: demo\n")
    with pytest.raises(SwiftError) as caught:
        read(f"--config {file}")
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("line", ["model: {a: 1}", "max_steps: [1, 2]", "max_steps: {}", "learning_rate: {a: 1}"])
def test_a_file_with_a_value_of_another_kind(line: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(line)
    with pytest.raises(SwiftError, match=rf"--{line.partition(':')[0]}: takes (a|one) "):
        read(f"--config {file}")


def test_what_is_written_reads_the_same(tmp_path: Path) -> None:
    config = read('--model demo --dataset a#3 --columns {"q":"query"} --packing --adam_beta1 0.8 --system 你好')
    write_config(config, tmp_path / "config.yaml")
    assert read(f"--config {tmp_path / 'config.yaml'}").flat() == config.flat()


def test_python_takes_the_same_names() -> None:
    assert SftConfig.of(model="demo", tuner_type="full").flat() == read("--model demo --tuner_type full").flat()
    with pytest.raises(SwiftError, match="unknown option --modle"):
        InferConfig.of(modle="demo")


def test_every_option_has_a_meaning_and_a_fitting_default() -> None:
    for config in COMMANDS.values():
        for spec in options_of(config).values():
            assert spec.help or spec.group == "transformers", spec.name
            defaults = spec.default if isinstance(spec.default, list) else [spec.default]
            assert not spec.choices or {None, *spec.choices}.issuperset(defaults)


def test_every_option_of_transformers_is_known() -> None:
    """Of every supported version; where they differ the table has what the newest says."""
    table = json.loads(TABLE.read_text())
    installed = read_installed()
    assert installed.keys() <= table.keys()
    changed = {name for name, entry in installed.items() if table[name]["kind"] != entry["kind"]}
    before_5 = {"fsdp", "warmup_steps"} if transformers_major() < 5 else set()
    assert changed == before_5, "python -m swift.config.training_arguments"


def test_every_name_that_transformers_takes_is_known() -> None:
    known = json.loads(NAMES.read_text())
    for option, names in read_installed_names().items():
        assert set(names) <= set(known[option]), "python -m swift.config.training_arguments"


def test_each_of_several_choices_is_checked() -> None:
    assert read_arguments(PlanConfig, ["--train_type", "lora", "full"]).machine.train_type == ["lora", "full"]
    with pytest.raises(SwiftError, match=r"--train_type cannot be 'lroa'[\s\S]*choose one of: full\|lora\|qlora"):
        read_arguments(PlanConfig, ["--train_type", "lora", "lroa"])


def test_the_reference_page_is_fresh() -> None:
    assert (ROOT / "docs" / "flags.md").read_text() == flags_page(), "make docs"


def test_every_option_of_the_facts_is_listed() -> None:
    folder = shared_dir()
    if folder is None:
        pytest.skip("the facts about ms-swift's options are not here")
    facts = json.loads((folder / "facts" / "flags.json").read_text())
    assert {command: set(options) for command, options in facts.items()} == {
        command: set(options) for command, options in known_options().items()
    }
    sections = {part.split("\n", 1)[0]: part for part in flags_page().split("## swift ")}
    for command, options in facts.items():
        if not command.startswith("trainer_config"):
            section = sections[command]
            missing = [name for name in options if f"`{name}`" not in section and f"`--{name}`" not in section]
            assert not missing, command


@pytest.mark.parametrize("words", [["--model", "demo", "--learning_rate"], ["--learning_rate", "--model", "demo"]])
def test_an_option_without_its_value(words: list[str]) -> None:
    with pytest.raises(SwiftError, match="--learning_rate has no value") as caught:
        read_arguments(SftConfig, words)
    assert "write --learning_rate FLOAT" in str(caught.value)
    assert read_arguments(SftConfig, ["--packing", "--dataset"]).data.packing


def test_options_of_back_ends_are_named_with_their_commands() -> None:
    with pytest.raises(SwiftError, match="swift infer, swift deploy"):
        SftConfig.of(vllm_max_model_len=5)
