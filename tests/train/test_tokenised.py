"""Rows are tokenised once and found again; prepared ones are taken for what they were made for alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from survey import byte_tokenizer

from swift.config import Decisions, SftConfig
from swift.config.commands import PrepareConfig
from swift.config.effect import without_effect
from swift.data.cache import finish
from swift.errors import SwiftError
from swift.tasks.causal_lm import CausalLm
from swift.templates.template import Template
from swift.train.arguments import eval_strategy
from swift.train.assemble import check_prompts
from swift.train.channels import channels_of
from swift.train.prepare import check_options
from swift.train.tokenised import RunRows, about_of, fill, tokenise

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWIFT_DATASET_CACHE", str(tmp_path / "tokens"))
    texts = [f"answer {at}" for at in range(30)] + ["with <|im_end|> in it", "l" * 200]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"query": "q", "response": text}) + "\n" for text in texts) + "not JSON\n")
    return file


def run(rows: Path | None, **options: Any) -> Any:
    """Tokenise as `swift sft` does, and give what it read and found."""
    given = {"dataset": [str(rows)]} if rows else {}
    config = SftConfig.of(model="none", **{"strict": False, **given, **options})
    template = Template(byte_tokenizer(CHATML), loss_scale=config.template.loss_scale or "default")
    reader = RunRows(config, 0)
    decisions = Decisions()
    sets = tokenise(reader, template, CausalLm(config), config.template.max_length or 150, decisions)
    return reader, sets, template, {each.name: each for each in decisions}


def test_the_second_run_reads_no_row_and_has_all_the_first_had(rows: Path) -> None:
    first = run(rows, split_dataset_ratio=0.2)
    second = run(rows, split_dataset_ratio=0.2)
    assert first[0].found is not None and second[0].found is None
    assert "now" in first[3]["tokens"].reason and "from the cache" in second[3]["tokens"].reason
    for one, other in ((first[1].train, second[1].train), (first[1].held, second[1].held)):
        assert np.array_equal(one.ids, other.ids) and np.array_equal(one.labels, other.labels)
        assert one.dropped == other.dropped
    dropped = [*first[1].train.dropped, *first[1].held.dropped]
    assert {each.reason.split(":")[0] for each in dropped} >= {"not JSON"}
    assert any("max_length" in each.reason for each in dropped)
    assert first[2].notes == second[2].notes and sum(first[2].notes.values()) > 0
    assert first[2].fixed == second[2].fixed


def test_whatever_changes_a_token_has_a_place_of_its_own(rows: Path, tmp_path: Path) -> None:
    scale = tmp_path / "scale.json"
    options: list[dict[str, Any]] = [{}, {"loss_scale": "last_round"}, {"max_length": 60}]
    places = {run(rows, **each)[1].place for each in options}
    rows.write_text(rows.read_text().replace("answer 3", "reply 3"))
    places.add(run(rows)[1].place)
    for weight in (2.0, 3.0):
        scale.write_text(json.dumps({"answer": [weight]}))
        places.add(run(rows, loss_scale=str(scale))[1].place)
    assert len(places) == 6


def test_one_report_tells_all_failures_of_all_sets(rows: Path, tmp_path: Path) -> None:
    with rows.open("a") as file:
        file.write(json.dumps({"query": "q", "response": "a", "images": ["x.png"]}) + "\n")
    held = tmp_path / "held.jsonl"
    held.write_text(rows.read_text().replace("answer", "reply"))
    with pytest.raises(SwiftError, match="4 of 68 rows cannot be used") as caught:
        run(rows, strict=True, val_dataset=[str(held)])
    for where in (f"{rows}:33: not JSON", f"{rows}:34: ", f"{held}:33: not JSON", f"{held}:34: "):
        assert where in str(caught.value)


def test_nothing_is_kept_where_nothing_is_asked_to_be(rows: Path, tmp_path: Path) -> None:
    _, sets, _, _ = run(rows, load_from_cache_file=False)
    assert sets.place is None and len(sets.train) == 31
    assert sets.train.dropped == run(rows)[1].train.dropped
    assert int(sets.train.ids.sum()) == int(run(rows)[1].train.ids.sum())
    assert not list((tmp_path / "tokens").glob("passing-*"))


def test_a_cache_that_cannot_be_written_stops_no_run(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SWIFT_DATASET_CACHE", str(tmp_path / "file" / "below"))
    _, sets, _, decisions = run(rows)
    assert len(sets.train) == 31 and decisions["tokens"].value == "not kept"


@pytest.fixture
def prepared(rows: Path, tmp_path: Path) -> Path:
    """What `swift prepare` leaves."""
    return prepare_into(tmp_path / "prepared", rows, split_dataset_ratio=0.2)


def prepare_into(folder: Path, rows: Path, **options: Any) -> Path:
    config = PrepareConfig.of(model="none", strict=False, dataset=[str(rows)], **options)
    config.data.load_from_cache_file = False
    template, reader = Template(byte_tokenizer(CHATML)), RunRows(config, 0)
    building = folder.with_name("building")
    building.mkdir()
    kept = fill(building, reader, template, CausalLm(config), 150)
    finish(building, folder, about_of(reader, template, CausalLm(config), 150) | kept)
    return folder


@pytest.mark.parametrize("part", ["", "train"])
def test_prepared_rows_are_those_of_a_run(prepared: Path, rows: Path, part: str) -> None:
    direct = run(rows, split_dataset_ratio=0.2)[1]
    sets = run(None, cached_dataset=[str(prepared / part)])[1]
    assert np.array_equal(direct.train.ids, sets.train.ids) and np.array_equal(direct.held.ids, sets.held.ids)
    assert direct.train.dropped == sets.train.dropped


def test_prepared_rows_for_something_else_are_refused_by_name(prepared: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(SwiftError, match="loss_scale was 'default' and is 'all'"):
        run(None, cached_dataset=[str(prepared)], loss_scale="all")
    with pytest.raises(SwiftError, match="--max_length 20: a prepared sample has"):
        run(None, cached_dataset=[str(prepared)], max_length=20)
    with pytest.raises(SwiftError, match="no tokenised rows are there"):
        run(None, cached_dataset=[str(tmp_path)])
    with pytest.raises(SwiftError, match="both name rows"):
        run(rows, cached_dataset=[str(prepared)])
    with pytest.raises(SwiftError, match="--cached_val_dataset and --split_dataset_ratio both"):
        run(rows, cached_val_dataset=[str(prepared)], split_dataset_ratio=0.1)
    with pytest.raises(SwiftError, match="--truncation_strategy left: the rows were prepared with delete"):
        run(None, cached_dataset=[str(prepared)], truncation_strategy="left")
    with pytest.raises(SwiftError, match=r"--split_dataset_ratio 0.1 and --val_dataset both"):
        run(rows, val_dataset=[str(rows)], split_dataset_ratio=0.1)


def test_several_prepared_folders_follow_one_another(prepared: Path, tmp_path: Path) -> None:
    weighted = tmp_path / "weighted.jsonl"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "half", "weight": 0.5}]
    weighted.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"query": "q", "response": "l" * 300}))
    names = [str(prepared), str(prepare_into(tmp_path / "second", weighted))]
    one, other = (run(None, cached_dataset=[name])[1].train for name in names)
    sets = run(None, cached_dataset=names, cached_val_dataset=names[::-1])[1]
    assert np.array_equal(sets.train.ids, np.concatenate([one.ids, other.ids]))
    assert np.array_equal(sets.train.weights, np.concatenate([np.ones(len(one.ids), np.float32), other.weights]))
    sources = [each.source(at) for each in (one, other) for at in range(len(each))]
    assert [sets.train.source(at) for at in range(len(sets.train))] == sources
    assert sets.train.dropped == [*one.dropped, *other.dropped] and sets.train.rows == one.rows + other.rows
    held = run(None, cached_dataset=names[:1])[1].held
    assert np.array_equal(sets.held.ids, np.concatenate([other.ids, held.ids]))


def test_channels_stay_with_the_tokens(rows: Path, tmp_path: Path) -> None:
    named = [{"query": "q", "response": f"r {at}", **({"channel": "ab"[at % 2]} if at else {})} for at in range(5)]
    rows.write_text("".join(json.dumps(each) + "\n" for each in named))
    folder = [str(prepare_into(tmp_path / name, rows)) for name in ("one", "two")]
    first = channels_of(run(rows, dataset_shuffle=False)[1].train)
    assert (first.names, first.of_sample.tolist()) == (["a", "b", "none"], [2, 1, 0, 1, 0])
    reader, sets, _, _ = run(rows, dataset_shuffle=False)
    assert reader.found is None and channels_of(sets.train).of_sample.tolist() == first.of_sample.tolist()
    both = channels_of(run(None, cached_dataset=folder)[1].train)
    assert both.names == first.names and np.bincount(both.of_sample).tolist() == [4, 4, 2]


@pytest.mark.parametrize("cached", [True, False])
def test_kept_rows_are_checked_as_they_were_read(prepared: Path, rows: Path, cached: bool) -> None:
    class Changed(Template):
        def prompt(self, messages: Any, tools: Any = None, **switches: Any) -> list[int]:
            asked = [{**each, "content": each["content"].replace("q", "Q")} for each in messages]
            return super().prompt(asked, tools, **switches)

    run(rows)
    reader, _, template, _ = run(rows) if cached else run(None, cached_dataset=[str(prepared)])
    assert reader.found is None
    decisions = Decisions()
    check_prompts(template, CausalLm(reader.config), reader, decisions)
    assert [each.value for each in decisions] == ["32 samples checked"]
    with pytest.raises(SwiftError, match="message 2 is not what training puts") as caught:
        check_prompts(Changed(byte_tokenizer(CHATML)), CausalLm(reader.config), reader, decisions)
    assert "rows.jsonl:" in str(caught.value.where)


def test_no_option_around_the_cache_is_ignored(prepared: Path, rows: Path, tmp_path: Path) -> None:
    sets = run(rows, cached_val_dataset=[str(prepared)])[1]
    assert len(sets.train) == 31
    assert np.array_equal(sets.held.ids, run(None, cached_dataset=[str(prepared)])[1].held.ids)
    for options in (
        {"cached_dataset": [str(prepared)]},
        {"dataset": [str(rows)], "cached_val_dataset": [str(prepared)]},
    ):
        assert eval_strategy(SftConfig.of(**options, eval_strategy="epoch")) == "epoch"
    config = SftConfig.of(cached_dataset=[str(prepared)], split_dataset_ratio=0.1, columns={"a": "query"})
    assert {spec.name for spec, _ in without_effect(config)} == {"split_dataset_ratio", "columns"}

    def options_of_prepare(**options: Any) -> Decisions:
        decisions = Decisions()
        given = {"model": "m", "dataset": [str(rows)], "output_dir": str(tmp_path / "new"), **options}
        check_options(PrepareConfig.of(**given), decisions)
        return decisions

    assert [each.name for each in options_of_prepare(packing=True)] == ["packing"]
    with pytest.raises(SwiftError, match="--cached_val_dataset names rows that are tokenised already"):
        options_of_prepare(cached_val_dataset=[str(prepared)])
