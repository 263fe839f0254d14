from __future__ import annotations

import json
import os
import re
from types import SimpleNamespace

import pytest

from swift.config.data import DataConfig
from swift.data import Dropped, RowSet, datasets, iter_rows, load_rows, self_cognition, split_rows
from swift.data.sources import DatasetName, parse_name
from swift.errors import SwiftError


def rows_of(count: int, prefix: str = "q") -> list[dict]:
    return [{"query": f"{prefix}{i}", "response": "a"} for i in range(count)]


def queries(rowset: RowSet) -> list[str]:
    return [row["messages"][0]["content"] for row, _ in rowset.rows]


def load(*names, seed=1, shuffle=False, **options) -> RowSet:
    return load_rows([str(name) for name in names], DataConfig(**options), seed=seed, shuffle=shuffle)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", DatasetName("a/b")),
        ("a/b#500", DatasetName("a/b", rows=500)),
        ("a/b:x/y#500", DatasetName("a/b", ("x", "y"), 500)),
        ("HF::a/b:x", DatasetName("a/b", ("x",), use_hf=True)),
        ("ms::a/b#5", DatasetName("a/b", rows=5, use_hf=False)),
        ("a/b:x@dev+test#5", DatasetName("a/b", ("x",), 5, splits=("dev", "test"))),
        ("data/*.jsonl#5", DatasetName("data/*.jsonl", rows=5)),
    ],
)
def test_names(text, expected):
    assert parse_name(text) == expected


def test_a_path_that_exists_is_not_split(jsonl):
    path = jsonl(rows_of(3), "a:b#2.jsonl")
    assert queries(load(path)) == ["q0", "q1", "q2"]
    assert queries(load(f"{path}#1")) == ["q0"]


@pytest.mark.parametrize("count", ["", "0", "x", "-1"])
def test_what_follows_the_hash_must_be_a_number(count):
    with pytest.raises(SwiftError, match="is not a number of rows"):
        load(f"a/b#{count}")


@pytest.mark.parametrize(("count", "expected"), [(2, "01"), (4, "0123"), (6, "012301"), (9, "012301230")])
def test_the_first_rows_are_taken_and_cycle(jsonl, count, expected):
    path = jsonl(rows_of(4))
    assert queries(load(f"{path}#{count}")) == [f"q{i}" for i in expected]


def test_a_shuffled_draw_has_every_row_as_often_as_it_can(jsonl):
    path = jsonl(rows_of(4))
    drawn = queries(load(f"{path}#10", shuffle=True))
    assert sorted(drawn.count(f"q{i}") for i in range(4)) == [2, 2, 3, 3]
    assert drawn == queries(load(f"{path}#10", shuffle=True))
    assert {tuple(queries(load(f"{path}#2", shuffle=True, seed=seed))) for seed in range(20)} > {("q0", "q1")}


def test_data_sets_are_laid_one_after_another_or_mixed(jsonl):
    a, b = jsonl(rows_of(5, "a"), "a.jsonl"), jsonl(rows_of(5, "b"), "b.jsonl")
    in_order = queries(load(a, b))
    assert in_order == [*(f"a{i}" for i in range(5)), *(f"b{i}" for i in range(5))]
    mixed = queries(load(a, b, shuffle=True))
    assert mixed != in_order
    assert sorted(mixed) == in_order


def test_folders_and_patterns_are_read_in_the_order_of_names(jsonl, tmp_path):
    jsonl(rows_of(1, "b"), "set/b.jsonl")
    jsonl(rows_of(1, "a"), "set/sub/a.jsonl")
    jsonl(rows_of(1, "hidden"), "set/.cache/h.jsonl")
    jsonl(["{}"], "set/dataset_infos.json")
    (tmp_path / "set" / "README.md").write_text("about")
    assert queries(load(tmp_path / "set")) == ["b0", "a0"]
    assert queries(load(f"{tmp_path}/set/**/*.jsonl#1")) == ["b0"]


def test_a_registered_data_set_goes_by_its_name(monkeypatch):
    monkeypatch.setattr(datasets, "_parts", {"mine": lambda: rows_of(3), "broken": lambda: 1 / 0})
    loaded = load("mine#2")
    assert queries(loaded) == ["q0", "q1"]
    assert str(loaded.rows[1][1]) == "mine:2"
    with pytest.raises(SwiftError, match="--dataset broken fails: ZeroDivisionError: division by zero"):
        load("broken")


@pytest.fixture
def cognition(jsonl, monkeypatch):
    path = jsonl(
        [
            {"query": "Who are you?", "response": "{{NAME}} by {{AUTHOR}}.", "tag": "en"},
            {"query": "你是谁?", "response": "我是{{NAME}}, 由{{AUTHOR}}。", "tag": "zh"},
        ]
    )
    monkeypatch.setattr(self_cognition, "TABLE", path)


@pytest.mark.parametrize("name", self_cognition.NAMES)
@pytest.mark.parametrize(
    ("names", "authors", "expected"),
    [
        (["Ada"], ["Lab"], ["Ada by Lab.", "我是Ada, 由Lab。"]),
        (["Ada", "艾达"], ["Lab", "实验室"], ["Ada by Lab.", "我是艾达, 由实验室。"]),
        (["艾达", "Ada"], ["实验室", "Lab"], ["Ada by Lab.", "我是艾达, 由实验室。"]),
        (["Ada", "Aida"], ["Lab"], ["Ada by Lab.", "我是Aida, 由Lab。"]),
    ],
)
def test_self_cognition_is_filled_in(cognition, name, names, authors, expected):
    loaded = load(name, model_name=names, model_author=authors)
    assert [row["messages"][1]["content"] for row, _ in loaded.rows] == expected
    assert [str(source) for _, source in loaded.rows] == ["self-cognition:1", "self-cognition:2"]


def test_self_cognition_subsets_close_the_reasoning(cognition):
    loaded = load("swift/self-cognition:qwen3#1", model_name=["Ada"], model_author=["Lab"])
    assert [turn["content"] for turn in loaded.rows[0][0]["messages"]] == [
        "Who are you? /no_think",
        "<think>\n\n</think>\n\nAda by Lab.",
    ]


def test_the_bundled_rows_are_filled_in_whole():
    loaded = load("self-cognition", model_name=["Ada"], model_author=["Lab"])
    assert len(loaded) > 100
    assert not any("{{" in turn["content"] for row, _ in loaded.rows for turn in row["messages"])


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "needs both --model_name and --model_author"),
        ({"model_name": ["Ada"]}, "needs both --model_name and --model_author"),
        ({"model_name": ["A", "b", "c"], "model_author": ["L"]}, "--model_name has 3 names"),
    ],
)
def test_self_cognition_needs_a_name_and_an_author(cognition, options, what):
    with pytest.raises(SwiftError, match=what):
        load("self-cognition", **options)


def test_all_bad_rows_are_told_in_groups_then_the_run_stops(jsonl):
    lines = ['{"query": "q", "response": "a"}', *(['{"query": 1}'] * 12), "{", '{"messages": []}']
    a, b = jsonl(lines, "a.jsonl"), jsonl(['{"messages": []}'], "b.jsonl")
    with pytest.raises(SwiftError, match="15 of 16 rows cannot be used") as error:
        load(a, b)
    text = str(error.value)
    assert text.count("columns query are no known form") == 10
    assert "… and 2 more like these" in text
    assert f"{a}:14: not JSON: Expecting property name enclosed in double quotes at column 2" in text
    assert f"{a}:15: there is no message" in text
    assert f"{b}:1: there is no message" in text


def test_without_strict_bad_rows_are_dropped_and_counted(jsonl):
    path = jsonl(['{"query": "q", "response": "a"}', "{"])
    loaded = load(path, strict=False)
    assert len(loaded) == 1
    assert [str(row) for row in loaded.dropped] == [
        f"{path}:2: not JSON: Expecting property name enclosed in double quotes at column 2"
    ]
    with pytest.raises(SwiftError, match="none of 1 rows can be used"):
        load(jsonl(["{"], "bad.jsonl"), strict=False)


def test_columns_that_no_row_has_are_an_error(jsonl):
    path = jsonl([{"ask": "q", "response": "a"}])
    assert queries(load(path, columns={"ask": "query"})) == ["q"]
    with pytest.raises(SwiftError, match="--columns: no row has asked"):
        load(path, columns={"asked": "query"})
    val = jsonl(rows_of(1), "val.jsonl")
    config = DataConfig(columns={"ask": "query"})
    assert len(load_rows([str(val)], config, seed=1, shuffle=False, option="val_dataset")) == 1


@pytest.mark.parametrize("row", [{"query": "q"}, {"messages": [{"role": "user", "content": "q"}]}])
def test_rows_without_an_answer_are_for_inference_only(jsonl, row):
    path = str(jsonl([row]))
    loaded = load_rows([path], DataConfig(), seed=1, shuffle=False, answers=False)
    assert loaded.rows[0][0] == {"messages": [{"role": "user", "content": "q"}]}
    with pytest.raises(SwiftError, match="1 of 1 rows cannot be used"):
        load(path)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("no/file.jsonl", "--dataset no/file.jsonl: no such file or folder"),
        ("./nothing", "--dataset ./nothing: no such file or folder"),
        ("no/*.jsonl", r"--dataset no/\*.jsonl: no file matches"),
    ],
)
def test_what_is_not_there(name, what):
    with pytest.raises(SwiftError, match=what):
        load(name)


def test_a_slip_is_told_with_what_is_there(jsonl, tmp_path, monkeypatch):
    jsonl(rows_of(1), "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(datasets._parts, "sums", lambda: [])
    for name, meant in (
        ("rosw.jsonl", "rows.jsonl"),
        ("./row.jsonl", "rows.jsonl"),
        ("self-cogniton#5", "self-cognition or swift/self-cognition"),
        ("sumss", "sums"),
    ):
        with pytest.raises(SwiftError) as caught:
            load(name)
        assert f"did you mean {meant}?" in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "#5", "HF::"])
def test_an_empty_name_is_not_this_directory(name):
    with pytest.raises(SwiftError, match="names no data set"):
        load(name)


def test_a_folder_without_data(tmp_path):
    with pytest.raises(SwiftError, match=f"--dataset {re.escape(str(tmp_path))} holds no data files"):
        load(tmp_path)


def test_a_folder_that_cannot_be_read(jsonl, tmp_path, monkeypatch):
    jsonl([{"query": "q", "response": "a"}])
    (tmp_path / "more").mkdir()
    scan = os.scandir

    def refused(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(SwiftError, match=r"cannot be read: .*Permission denied: .*more"):
        load(tmp_path)


def test_rows_of_a_json_list_on_one_line_can_be_split(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"query": str(at), "response": "a"} for at in range(10)]))
    rows = load(tmp_path / "a.json")
    train, held = split_rows(rows, 0.2, seed=0)
    assert (len(train), len(held)) == (8, 2)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that resolves every id to one folder, and notes what it was asked."""
    asked: list = []

    def resolve_dataset(id, *, use_hf=None, token=None, revision=None, **_):
        asked.append((id, use_hf, token))
        return SimpleNamespace(path=tmp_path / "repo", hub="hf", reason="test")

    monkeypatch.setattr("swift.hub.resolve_dataset", resolve_dataset)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return asked


def test_hub_ids_give_their_training_split(hub, jsonl):
    jsonl(rows_of(3, "t"), "repo/train.jsonl")
    jsonl(rows_of(2, "e"), "repo/test.jsonl")
    loaded = load("HF::some/set#2")
    assert queries(loaded) == ["t0", "t1"]
    assert str(loaded.rows[0][1]) == "some/set/train:1"
    assert hub == [("some/set", True, None)]


def test_hub_subsets(hub, jsonl, tmp_path):
    jsonl(rows_of(2, "x"), "repo/x/train.jsonl")
    jsonl(rows_of(2, "y"), "repo/y/train.jsonl")
    (tmp_path / "repo" / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: x/*\n- config_name: two\n  data_files: y/*\n---\n"
    )
    assert queries(load("some/set:two")) == ["y0", "y1"]
    assert queries(load("some/set:two/one")) == ["y0", "y1", "x0", "x1"]
    with pytest.raises(SwiftError, match="--dataset some/set:three cannot be read"):
        load("some/set:three")


@pytest.mark.parametrize("option", ["dataset", "val_dataset"])
def test_a_data_set_of_a_hub_that_cannot_be_read(hub, tmp_path, option):
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "train.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(SwiftError, match=f"--{option} some/set cannot be read: .*JSON"):
        load_rows(["some/set"], DataConfig(), seed=0, shuffle=False, option=option)
    (repo / "train.jsonl").unlink()
    with pytest.raises(SwiftError, match=f"--{option} some/set cannot be read: "):
        load_rows(["some/set"], DataConfig(), seed=0, shuffle=False, option=option)


def test_a_bug_in_reading_a_hub_is_no_mistake_of_the_user(hub, monkeypatch):
    def fail(*_):
        raise AssertionError("a bug")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(AssertionError, match="a bug"):
        load("some/set")


@pytest.mark.parametrize("seed", [0, 1, None])
def test_the_split_keeps_copies_of_a_row_together(jsonl, seed):
    loaded = load(f"{jsonl(rows_of(20))}#50")
    train, val = split_rows(loaded, 0.1, seed)
    assert len(train) + len(val) == 50
    assert len(set(queries(val))) == 2
    assert not set(queries(train)) & set(queries(val))
    if seed is None:
        assert set(queries(val)) == {"q18", "q19"}


def test_a_split_of_nothing_and_of_everything(jsonl):
    loaded = load(jsonl(rows_of(3)))
    assert split_rows(loaded, 0, 1) == (loaded, RowSet())
    assert len(split_rows(loaded, 0.001, 1)[1]) == 1
    with pytest.raises(SwiftError, match="leaves no row"):
        split_rows(RowSet(loaded.rows[:1]), 0.5, 1)


def test_rows_can_be_had_one_by_one(jsonl):
    a = jsonl([*rows_of(2, "a"), {"query": 1}], "a.jsonl")
    b = jsonl(rows_of(3, "b"), "b.jsonl")
    items = list(iter_rows([f"{a}#5", f"{b}#2"], DataConfig()))
    bad = [item for item in items if isinstance(item, Dropped)]
    assert [str(item.source) for item in bad] == [f"{a}:3"]
    assert [item for item in items if item not in bad] == load(f"{a}#5", f"{b}#2", strict=False).rows
    assert isinstance(next(iter_rows([str(a), "no.jsonl"], DataConfig())), tuple)


@pytest.mark.parametrize("stopping", ["first_exhausted", "all_exhausted"])
@pytest.mark.parametrize("seed", [0, 7])
def test_data_sets_are_interleaved_as_datasets_does(jsonl, stopping, seed):
    from datasets import Dataset, interleave_datasets

    sizes, weights = {"a": 5, "b": 9, "c": 40}, [0.2, 0.3, 0.5]
    files = [jsonl(rows_of(size, name), f"{name}.jsonl") for name, size in sizes.items()]
    sets = [Dataset.from_list(rows_of(size, name)) for name, size in sizes.items()]
    expected = interleave_datasets(sets, probabilities=weights, seed=seed, stopping_strategy=stopping)["query"]
    options = {"interleave_prob": [2.0, 3.0, 5.0], "stopping_strategy": stopping}
    assert queries(load(*files, seed=seed, **options)) == list(expected)
    streamed = iter_rows([str(file) for file in files], DataConfig(**options), seed=seed)
    assert queries(RowSet(list(streamed))) == list(expected)
    mixed = load(*files, seed=seed, shuffle=True, **options)
    assert len(mixed) == len(expected)
    assert mixed == load(*files, seed=seed, shuffle=True, **options)


@pytest.mark.parametrize(
    ("weights", "what"), [([1.0], "1 weights for 2 data sets"), ([0.0, 0.0], "not all 0"), ([-1.0, 2.0], "0 or more")]
)
def test_weights_that_cannot_be_used(jsonl, weights, what):
    with pytest.raises(SwiftError, match=f"--interleave_prob.*{what}"):
        load("no/a.jsonl", "no/b.jsonl", interleave_prob=weights)


def test_bad_rows_of_a_mixture_are_all_told(jsonl):
    a, b = jsonl([*rows_of(2), "{"], "a.jsonl"), jsonl([*rows_of(3), '{"query": 1}'], "b.jsonl")
    with pytest.raises(SwiftError, match="2 of 7 rows cannot be used"):
        load(a, b, interleave_prob=[0.5, 0.5])
    assert len(load(a, b, interleave_prob=[0.5, 0.5], strict=False).dropped) == 2


def test_folders_that_save_to_disk_wrote(tmp_path):
    from datasets import Dataset, DatasetDict

    train, test = Dataset.from_list(rows_of(3, "t")), Dataset.from_list(rows_of(2, "e"))
    train.save_to_disk(tmp_path / "one", num_shards=2)
    DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "two")
    DatasetDict({"a": train, "b": test}).save_to_disk(tmp_path / "three")
    assert queries(load(tmp_path / "one")) == ["t0", "t1", "t2"]
    assert queries(load(tmp_path / "two")) == ["t0", "t1", "t2"]
    assert queries(load(f"{tmp_path}/two@test#1")) == ["e0"]
    assert queries(load(f"{tmp_path}/three@b+a")) == ["e0", "e1", "t0", "t1", "t2"]
    with pytest.raises(SwiftError, match=r"two has no split dev\n.*it has train, test"):
        load(f"{tmp_path}/two@dev")
    with pytest.raises(SwiftError, match="three has no split train, but a, b"):
        load(tmp_path / "three")
    with pytest.raises(SwiftError, match="one@train: this folder holds one data set without splits"):
        load(f"{tmp_path}/one@train")


def test_splits_of_a_folder_of_files(jsonl, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    jsonl(rows_of(2, "t"), "set/train.jsonl")
    jsonl(rows_of(1, "e"), "set/test.jsonl")
    jsonl(["about this"], "set/LICENSE.txt")
    assert queries(load(tmp_path / "set")) == ["e0", "t0", "t1"]
    assert queries(load(f"{tmp_path}/set@train")) == ["t0", "t1"]
    assert str(load(f"{tmp_path}/set@test").rows[0][1]).endswith("set/test:1")
    with pytest.raises(SwiftError, match=r"set/train\.jsonl@train: this data set has no splits"):
        load(f"{tmp_path}/set/train.jsonl@train")
    with pytest.raises(SwiftError, match="no split follows @"):
        load("a/b@")


def test_the_channel_of_a_row_is_kept(jsonl):
    path = jsonl([{**row, "channel": "math"} for row in rows_of(2)])
    assert [row["channel"] for row, _ in load(path).rows] == ["math", "math"]
