"""Rows that were left out: the same as in a list, with bounded memory."""

from __future__ import annotations

import tracemalloc

import pytest

from swift.data.drops import Dropped, DroppedRows, by_reason, stop_at
from swift.errors import SwiftError
from swift.rows import Source


def test_they_are_what_a_list_holds() -> None:
    listed = [Dropped(Source(f"file{at % 2}", at), f"reason {at}", {"at": at}) for at in range(5)]
    listed += [Dropped(None, "of no place", "text"), Dropped(None, "cannot be kept", lambda: 1)]
    kept = DroppedRows(listed)
    assert kept == listed and listed == kept and kept != listed[:-1]
    assert [each.row for each in kept[:6]] == [each.row for each in listed[:6]] and "lambda" in kept[-1].row
    assert by_reason(kept) == by_reason(listed)
    with pytest.raises(IndexError):
        kept[7]


def test_memory_does_not_grow_with_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swift.data.row_store.IN_MEMORY", 2**20)
    tracemalloc.start()
    try:
        kept = DroppedRows(Dropped(Source("file", at), f"bad {at}", "x" * 2**17) for at in range(400))
        with pytest.raises(SwiftError, match="400 of 400 rows cannot be used"):
            stop_at(kept, 400, fix="mend them")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(kept) == 400 and kept[399].row == "x" * 2**17
    assert peak < 8 * 2**20


def test_the_lines_of_all_rows_are_told() -> None:
    lines = [*range(1, 13), 15, 16, 17, 30]
    bad = [Dropped(Source("rows.jsonl", line), f"broken at {line}") for line in lines]
    bad += [Dropped(Source("more.jsonl", 3), "broken at 3")]
    with pytest.raises(SwiftError) as told:
        stop_at(bad, 40, fix="mend them")
    assert "… and 7 more like these: rows.jsonl:11-12, 15-17, 30; more.jsonl:3" in str(told.value)
