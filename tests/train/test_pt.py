"""Pre-training: whole texts, from rows to a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift.config import Decisions, PtConfig
from swift.config.build import read_arguments
from swift.errors import SwiftError
from swift.tasks.choose import open_task
from swift.templates.choose import choose_template
from swift.train.assemble import Prepared, prepare, read_rows
from swift.train.result import SftResult
from swift.train.setup import open_for_training, template_of
from swift.train.sft import pt
from tests.tiny import make_model, make_tokenizer

TEXTS = ["the capital of France is Paris " * 9, "what is the colour of the sky?", "你好，世界", "<|im_end|> is text"]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture(scope="session")
def plain_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model without a chat template."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    make_model().save_pretrained(folder)
    make_tokenizer(chat_template=None).save_pretrained(folder)
    return folder


@pytest.fixture
def run(plain_base: Path, texts: Path, tmp_path: Path) -> Callable[..., SftResult]:
    def start(**options: Any) -> SftResult:
        settings = {"model": str(plain_base), "dataset": [str(texts)], "output_dir": str(tmp_path / "output")}
        return pt(**{**settings, "report_to": ["none"], "torch_dtype": "float32", "logging_steps": 1, **options})

    return start


def prepared(base: Path, rows: Path, **options: Any) -> Prepared:
    config = PtConfig.of(model=str(base), dataset=[str(rows)], dataset_shuffle=False, **options)
    decisions = Decisions()
    reader = read_rows(config)
    source = open_for_training(config, decisions)
    task = open_task(config, source, decisions)
    return prepare(config, source, template_of(config, source, task, decisions), task, reader, decisions)


def whole_ids(text: str) -> list[int]:
    """A text's tokens, in which control tokens are plain text, and the end of sequence behind them."""
    tokenizer = make_tokenizer()
    return [*tokenizer(text, split_special_tokens=True, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def test_a_text_is_trained_whole(plain_base: Path, texts: Path) -> None:
    data = prepared(plain_base, texts).train.dataset
    for text, number in zip(TEXTS, range(len(data)), strict=True):
        sample = data[number]
        assert sample.input_ids.tolist() == sample.labels.tolist() == whole_ids(text)


def test_micro_batches_come_in_as_many_shapes_as_they_have_padded_lengths(plain_base: Path, texts: Path) -> None:
    data = prepared(plain_base, texts, gradient_accumulation_steps=1)
    lengths = data.train.tokens().tolist()
    assert data.shapes(1, len(lengths)) == len(set(lengths)) > 1
    assert data.shapes(1, 1) == data.shapes(1000, len(lengths)) == 1


@pytest.mark.parametrize("length", [2, 7, 16])
def test_a_long_text_becomes_several_samples_and_no_token_is_lost(plain_base: Path, texts: Path, length: int) -> None:
    data = prepared(plain_base, texts, max_length=length, truncation_strategy="split").train.dataset
    lines = data.source_lines.tolist()
    for line, text in enumerate(TEXTS, 1):
        pieces = [data[at].input_ids.tolist() for at, each in enumerate(lines) if each == line]
        assert max(map(len, pieces)) <= length
        # The last token of a piece is the context of the next one's first trained token.
        assert [pieces[0][0], *(token for piece in pieces for token in piece[1:])] == whole_ids(text)
    assert int(data.trained.sum()) == sum(len(whole_ids(text)) - 1 for text in TEXTS)


def test_the_defaults_are_those_of_pre_training() -> None:
    template = read_arguments(PtConfig, ["--model", "demo"]).template
    assert (template.use_chat_template, template.loss_scale) == (False, "all")


@pytest.mark.parametrize(
    "options",
    [
        {"packing": True, "max_length": 64, "truncation_strategy": "split"},
        {"streaming": True, "max_length": 64, "truncation_strategy": "split"},
        {"train_type": "full", "padding_free": True},
    ],
    ids=["packing", "streaming", "full"],
)
def test_runs_of_pre_training(run: Callable[..., SftResult], options: dict[str, Any]) -> None:
    result = run(max_steps=3, learning_rate=1e-2, per_device_train_batch_size=2, **options)
    assert result.checkpoint is not None
    record = json.loads((result.checkpoint / "template.json").read_text())
    assert (record["use_chat_template"], record["loss_scale"]) == (False, "all")
    text = (result.run_folder / "config.yaml").read_text()  # type: ignore[operator]
    assert text.startswith("# swift pt --config")


def test_an_interrupted_run_says_how_to_go_on(run: Callable[..., SftResult]) -> None:
    from swift.train.outcome import again

    result = run(max_steps=1)
    assert again(PtConfig.of(model="demo"), result).startswith("swift pt --config ")
    more = run(max_steps=2, resume_from_checkpoint="latest")
    assert more.steps == 2 and more.run_folder == result.run_folder


def test_texts_may_be_rendered_by_a_chat_template(base: Path, rows: Path) -> None:
    data = prepared(base, rows, use_chat_template=True).train.dataset
    tokenizer = make_tokenizer()
    assert tokenizer.decode(data[0].input_ids).startswith("<|im_start|>user\nwhat is")
    assert (data[0].labels == data[0].input_ids).all()


def test_a_start_of_sequence_stands_before_a_text_where_the_tokenizer_puts_it() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer(chat_template=None)
    tokenizer.bos_token = "<|im_start|>"
    flags = PtConfig.of(model="demo").template
    row: Any = {"messages": [{"role": "assistant", "content": "Paris"}]}
    without = choose_template(tokenizer, flags, Decisions()).encode(row)[0].input_ids.tolist()
    special = [("<|im_start|>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=special)
    template = choose_template(tokenizer, flags, Decisions())
    assert template.encode(row)[0].input_ids.tolist() == [tokenizer.bos_token_id, *without]
    assert template.prompt([{"role": "user", "content": "Par"}])[0] == tokenizer.bos_token_id


def test_a_named_template_does_not_go_with_texts_as_they_stand(run: Callable[..., SftResult]) -> None:
    with pytest.raises(SwiftError, match="--use_chat_template false with --template chatml") as caught:
        run(template="chatml")
    assert "--use_chat_template true" in str(caught.value)
