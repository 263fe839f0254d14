"""A model prepared and trained from Python, as library scripts do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import swift
from swift import LoraConfig, Seq2SeqTrainer, Swift, Trainer, TrainingArguments
from swift.data import encode_rows
from swift.errors import SwiftError
from swift.llm import TrainArguments, get_model_tokenizer, get_template, load_dataset, sft_main
from swift.models.record import read_record
from swift.train.plots import read_log


def test_prepare_encode_train_and_load(base: Path, rows: Path, tmp_path: Path) -> None:
    model, tokenizer = get_model_tokenizer(str(base), torch_dtype=torch.float32)
    template = get_template(None, tokenizer, default_system="Be brief.")
    train_rows, held = load_dataset([str(rows)], split_dataset_ratio=0.2, seed=1, num_proc=1)
    assert held is not None
    tuned = Swift.prepare_model(model, LoraConfig(r=4, target_modules=["all-linear"], task_type="CAUSAL_LM"))
    args = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=6,
        save_steps=3,
        logging_steps=1,
        learning_rate=1e-2,
        per_device_train_batch_size=4,
        eval_strategy="steps",
        eval_steps=3,
        report_to="none",
        use_cpu=True,
    )

    def samples(part: object) -> object:
        return encode_rows(part, template, max_length=256, truncation_strategy="delete")

    trainer = Seq2SeqTrainer(
        tuned, args, train_dataset=samples(train_rows), eval_dataset=samples(held), template=template, eval_metric="acc"
    )
    trainer.train()
    log = read_log(tmp_path / "run" / "logging.jsonl")
    logged = [entry["loss"] for entry in log if "loss" in entry]
    assert len(logged) == 6
    assert logged[-1] < logged[0]
    assert any("eval_token_acc" in entry for entry in log)
    kept, others = trainer.evaluate(), trainer.evaluate(samples(train_rows), metric_key_prefix="train")
    assert trainer.evaluate(samples(held))["eval_loss"] == kept["eval_loss"] != others["train_loss"]
    with pytest.raises(SwiftError, match="tokenised samples, not RowSet"):
        trainer.evaluate(held)
    fresh, _ = get_model_tokenizer(str(base), torch_dtype=torch.float32)
    loaded = Swift.from_pretrained(fresh, tmp_path / "run" / "checkpoint-6")
    ids = torch.arange(3, 30)[None]
    torch.testing.assert_close(loaded(ids).logits, tuned.eval()(ids).logits)


def test_a_whole_model_is_saved_as_its_base(base: Path, rows: Path, tmp_path: Path) -> None:
    model, tokenizer = get_model_tokenizer(str(base), torch_dtype=torch.float32)
    template = get_template(None, tokenizer, default_system="Be brief.")
    train_rows, _ = load_dataset([str(rows)], seed=1, num_proc=1)
    samples = encode_rows(train_rows, template, max_length=256, truncation_strategy="delete")
    args = TrainingArguments(str(tmp_path / "run"), max_steps=1, report_to="none", use_cpu=True)
    trainer = Seq2SeqTrainer(model, args, train_dataset=samples, template=template)
    trainer.train()
    saved = tmp_path / "run" / "checkpoint-1"
    assert (saved / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    # The class that only transformers 5 has, or another that both have.
    assert "TokenizersBackend" not in (saved / "tokenizer_config.json").read_text()
    record = read_record(saved)
    assert record.base_model == str(base)
    assert record.template is not None
    assert record.template["system"] == "Be brief."
    again, _ = get_model_tokenizer(str(saved), torch_dtype=torch.float32)
    ids = torch.arange(3, 30)[None]
    torch.testing.assert_close(again(ids).logits, model.eval()(ids).logits)


def test_names_of_library_scripts(base: Path, rows: Path, tmp_path: Path) -> None:
    assert Trainer is Seq2SeqTrainer
    result = sft_main(
        TrainArguments(model=str(base), dataset=[str(rows)], output_dir=str(tmp_path), max_steps=1, report_to=["none"])
    )
    assert result.checkpoint is not None
    assert swift.load_tokenizer(str(base)).chat_template
    for name in swift.__all__:
        assert getattr(swift, name) is not None
