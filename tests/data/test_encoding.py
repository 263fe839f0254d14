from __future__ import annotations

import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest

from swift.config import DataConfig
from swift.data import Dropped, EncodedDataset, RowSet, by_reason, encode_rows, load_rows, write_dropped
from swift.data.truncation import shorten
from swift.errors import SwiftError
from swift.rows import IGNORE, EncodedRow, Source
from swift.templates import load_template
from tests.tiny import ask, make_tokenizer

from .conftest import ByteTemplate


def rowset(*texts: tuple[str, str]) -> RowSet:
    rows = []
    for line, (query, response) in enumerate(texts, 1):
        turns = [{"role": "user", "content": query}, {"role": "assistant", "content": response}]
        rows.append(({"messages": turns}, Source("d.jsonl", line)))
    return RowSet(rows)


def contents(dataset: EncodedDataset):
    return [
        (s.input_ids.tolist(), s.labels.tolist(), str(s.source), None if s.weights is None else s.weights.tolist())
        for s in (dataset[i] for i in range(len(dataset)))
    ]


def encode(rows: RowSet, template=None, **changes) -> EncodedDataset:
    options = {"max_length": None, "truncation_strategy": "delete"} | changes
    return encode_rows(rows, template or ByteTemplate(), **options)


def test_samples_keep_their_tokens_labels_and_sources():
    dataset = encode(rowset(("ab", "c"), ("d", "ef")))
    assert contents(dataset) == [
        ([97, 98, 99], [IGNORE, IGNORE, 99], "d.jsonl:1", None),
        ([100, 101, 102], [IGNORE, 101, 102], "d.jsonl:2", None),
    ]
    assert (dataset.lengths.tolist(), dataset.trained.tolist(), dataset.rows) == ([3, 3], [1, 2], 2)
    assert dataset.lengths.dtype == dataset.trained.dtype == dataset.ids.dtype == np.int32


@pytest.mark.parametrize("num_proc", [2, 3])
@pytest.mark.parametrize("strategy", ["delete", "split"])
def test_more_processes_change_nothing(num_proc, strategy):
    rows = rowset(*[("q" * (i % 7 + 1), ("!" if i % 11 == 5 else "#" if i % 5 == 3 else "r") * 3) for i in range(200)])
    one, several = ByteTemplate(), ByteTemplate()
    options = {"max_length": 8, "truncation_strategy": strategy, "strict": False}
    expected, dataset = encode(rows, one, **options), encode(rows, several, num_proc=num_proc, **options)
    assert contents(dataset) == contents(expected)
    assert dataset.dropped == expected.dropped
    assert (dataset.rows, dataset.weighted) == (200, True)
    assert several.notes == one.notes == {"rows": 182}


def test_samples_without_weights_weigh_one_beside_those_with_some():
    dataset = encode(rowset(("a", "b"), ("c", "#"), ("d", "e")))
    assert [weights for *_, weights in contents(dataset)] == [[1, 1], [0.5, 0.5], [1, 1]]


def test_the_store_survives_pickling_and_its_arrays_are_about_the_tokens_size():
    dataset = encode(rowset(*[("q" * 50, "r" * 50)] * 200))
    assert contents(pickle.loads(pickle.dumps(dataset))) == contents(dataset)
    assert len(pickle.dumps(dataset)) < 200 * 100 * 8 * 1.1
    with pytest.raises(IndexError):
        dataset[200]


LONG = EncodedRow(np.arange(1, 8, dtype=np.int32), np.array([IGNORE, IGNORE, 3, 4, 5, 6, 7], np.int32))


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("delete", []),
        ("raise", []),
        ("left", [[5, 6, 7]]),
        ("right", [[1, 2, 3]]),
        ("split", [[1, 2, 3], [3, 4, 5], [5, 6, 7]]),
    ],
)
def test_truncation(strategy, expected):
    pieces = shorten(LONG, 3, strategy)
    assert [piece.input_ids.tolist() for piece in pieces] == expected
    assert all(len(piece.labels) == piece.length for piece in pieces)
    assert shorten(LONG, 7, strategy) == shorten(LONG, None, strategy) == [LONG]


@pytest.mark.parametrize("length", range(2, 9))
@pytest.mark.parametrize("max_length", range(2, 9))
def test_split_trains_every_token_once(length, max_length):
    ids = np.arange(length, dtype=np.int32)
    pieces = shorten(EncodedRow(ids, ids), max_length, "split")
    assert [label for piece in pieces for label in piece.labels[1:].tolist()] == list(range(1, length))
    assert all(1 < piece.length <= max_length for piece in pieces)


def test_rows_too_long_are_dropped_and_counted_even_when_strict():
    dataset = encode(rowset(("a", "b"), ("a" * 9, "b")), max_length=5)
    assert len(dataset) == 1
    assert dataset.dropped == [Dropped(Source("d.jsonl", 2), "10 tokens are more than --max_length 5")]


def test_samples_without_loss_are_dropped_and_counted():
    dataset = encode(rowset(("a", "b"), ("a", ""), ("abcd", "e")), max_length=3, truncation_strategy="right")
    assert [str(row) for row in dataset.dropped] == [
        "d.jsonl:2: no token that carries loss",
        "d.jsonl:3: no token that carries loss is left within --max_length 3",
    ]


def test_raise_names_the_rows_that_are_too_long():
    rows = rowset(("a", "b"), ("a" * 9, "b"), ("a" * 8, "b"))
    with pytest.raises(SwiftError, match="2 of 3 rows") as error:
        encode(rows, max_length=5, truncation_strategy="raise", strict=False)
    assert "d.jsonl:2: 10 tokens are more than --max_length 5" in str(error.value)
    assert "d.jsonl:3: 9 tokens" in str(error.value)


def test_rows_that_the_template_refuses_are_collected():
    rows = rowset(("a", "b!"), ("a", "b"), ("a!", "b"))
    with pytest.raises(SwiftError, match="2 of 3 rows") as error:
        encode(rows)
    assert "d.jsonl:1: the text holds a '!'" in str(error.value)
    assert "d.jsonl:3: the text holds a '!'" in str(error.value)
    assert [row.source.line for row in encode(rows, strict=False).dropped] == [1, 3]


def test_rows_that_cannot_be_read_are_told_with_those_that_cannot_be_encoded():
    rows = rowset(("a", "b!"), ("a", "b"), ("a" * 9, "b"))
    rows.dropped = [Dropped(Source("d.jsonl", 7), "not JSON", "{")]
    with pytest.raises(SwiftError, match="3 of 4 rows") as error:
        encode(rows, max_length=5, truncation_strategy="raise")
    for told in ("d.jsonl:7: not JSON", "d.jsonl:1: the text holds", "d.jsonl:3: 10 tokens are more", "--strict false"):
        assert told in str(error.value)
    with pytest.raises(SwiftError, match="1 of 4 rows") as error:
        encode(rows, max_length=5, truncation_strategy="raise", strict=False)
    assert "d.jsonl:3" in str(error.value) and "--strict" not in str(error.value)


def test_nothing_left_is_an_error_that_says_why():
    with pytest.raises(SwiftError, match=r"no sample is left to train on: 2 × … tokens are more than --max_length …"):
        encode(rowset(("a" * 9, "b"), ("a" * 8, "b")), max_length=5)


class Dying(ByteTemplate):
    def encode(self, row, source):
        if multiprocessing.parent_process() is not None:
            os._exit(9)
        return super().encode(row, source)


def test_a_worker_that_dies_is_an_error():
    with pytest.raises(SwiftError, match="--dataset_num_proc 2: a process that tokenises died"):
        encode(rowset(*[("a", "b")] * 20), Dying(), num_proc=2)


def test_progress_counts_rows():
    seen = []
    encode(rowset(*[("a", "b")] * 10), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    assert seen == sorted(seen)


def test_reasons_are_counted():
    dataset = encode(rowset(("a", "bcd"), ("a" * 9, "b"), ("ab", "c")), max_length=5)
    assert by_reason(dataset.dropped) == [("10 tokens are more than --max_length 5", 1)]


def test_a_dropped_row_is_kept_to_be_mended():
    dataset = encode(rowset(("a", "b"), ("a!", "b"), ("a" * 9, "b")), max_length=5, strict=False)
    assert [row.row["messages"][0]["content"] for row in dataset.dropped] == ["a" * 9, "a!"]


def test_dropped_rows_are_written(tmp_path):
    write_dropped([Dropped(Source("d", 3), "Grund: ß", "{"), Dropped(None, "x")], tmp_path / "dropped.jsonl")
    assert (tmp_path / "dropped.jsonl").read_text(encoding="utf-8").splitlines() == [
        '{"source": "d:3", "reason": "Grund: ß", "row": "{"}',
        '{"source": null, "reason": "x", "row": null}',
    ]


@pytest.mark.parametrize("mark", [{"loss": False}, {"loss": 0}, {"weight": 0}, {"loss_scale": 0.0}])
def test_labels_leave_out_the_turns_that_a_file_marks(tmp_path, mark):
    tokenizer = make_tokenizer()
    template = load_template(tokenizer)
    row = {"messages": [*ask("what is the sky?"), {"role": "assistant", "content": "blue", **mark}]}
    row["messages"] += [*ask("and France?"), {"role": "assistant", "content": "Paris"}]
    path = tmp_path / "marked.jsonl"
    path.write_text(json.dumps(row) + "\n")
    rows = load_rows([str(path)], DataConfig(), seed=0, shuffle=False)
    dataset = encode_rows(rows, template, max_length=None, truncation_strategy="delete")
    trained = dataset.labels[dataset.labels != IGNORE]
    assert tokenizer.decode(trained) == "Paris<|im_end|>"
    assert dataset.trained.tolist() == [len(trained)]
    assert not dataset.weighted


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"images": ["x.png"]}, "are not read here, and there are images"),
        ({"audios": ["x.wav"], "videos": ["x.mp4"]}, "there are videos, audios"),
        ({"query": [{"role": "user", "content": [{"type": "image", "image": "x.png"}]}]}, "there are image"),
        ({"label": False}, "the answer is not liked (label: false)"),
        ({"label": 0}, "the answer is not liked (label: 0)"),
        ({"label": "-1.5"}, "the answer is not liked (label: -1.5)"),
    ],
)
def test_media_and_answers_that_are_not_liked_are_never_trained(jsonl, columns, said):
    row = {"query": "<image>What?", "response": "A cat."}
    path = jsonl([row, row | columns, row | {"label": True}])
    rows = load_rows([str(path)], DataConfig(), seed=0, shuffle=False)
    with pytest.raises(SwiftError, match="1 of 3 rows") as error:
        encode(rows, load_template(make_tokenizer()))
    assert f"{path}:2: " in str(error.value) and said in str(error.value)
    kept = encode(rows, load_template(make_tokenizer()), strict=False)
    assert (len(kept), len(kept.dropped)) == (2, 1)


@pytest.mark.parametrize(("labels", "samples"), [([True, True], 1), ([1, 0.5], 1), ([True, False], 0), ([1, -1], 0)])
def test_steps_are_trained_where_none_is_labelled_wrong(jsonl, labels, samples):
    wrong = {"prompt": "2 + 2 + 2?", "completions": ["2 + 2 = 4.", "4 + 2 = 7."], "labels": labels}
    path = jsonl([{"query": "q", "response": "a"}, wrong])
    rows = load_rows([str(path)], DataConfig(), seed=0, shuffle=False)
    dataset = encode(rows, load_template(make_tokenizer()), strict=False)
    assert len(dataset) == 1 + samples
    assert [row.reason.partition(",")[0].startswith("step 2 of the answer") for row in dataset.dropped] == [True] * (
        1 - samples
    )
