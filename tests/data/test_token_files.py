"""Samples in files: the same as in memory, also behind a kill at any place."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from swift.data.encoded import EncodedDataset
from swift.data.encoding import encode_rows
from swift.data.loading import RowSet
from swift.data.row_store import RowStore
from swift.data.token_files import JOURNAL, read_progress
from swift.rows import Source


def rows(count: int, bad: int = -1) -> RowSet:
    """Rows of different lengths; every seventh asks for weights."""
    store = RowStore()
    for at in range(count):
        answer = "b" * (at % 9 + 1) + ("#" if at % 700 == 699 else "") + ("!" if at == bad else "")
        messages = [{"role": "user", "content": "a" * (at % 5)}, {"role": "assistant", "content": answer}]
        store.append({"messages": messages}, Source(f"file{at % 2}", at))  # type: ignore[typeddict-item]
    return RowSet(store.all())


def same(one: EncodedDataset, other: EncodedDataset) -> bool:
    names = ("ids", "labels", "weights", "lengths", "trained", "offsets", "source_lines")
    return (
        all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
        and [one.source(at) for at in range(len(one))] == [other.source(at) for at in range(len(other))]
        and (one.rows, one.dropped) == (other.rows, other.dropped)
    )


def encode(rowset: RowSet, template, folder: Path | None = None, **options) -> EncodedDataset:
    if folder:
        folder.mkdir(exist_ok=True)
    return encode_rows(rowset, template, max_length=12, truncation_strategy="delete", folder=folder, **options)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_files_hold_what_memory_holds(template, tmp_path: Path, num_proc: int) -> None:
    whole = encode(rows(1500, bad=3), template, strict=False)
    notes = dict(template.notes)
    template.notes.clear()
    kept = encode(rows(1500, bad=3), template, tmp_path / "t", strict=False, num_proc=num_proc)
    assert same(whole, kept)
    assert isinstance(kept.ids, np.memmap)
    assert dict(template.notes) == notes


def test_what_a_killed_process_wrote_is_gone_on_with(template, tmp_path: Path) -> None:
    whole, folder = encode(rows(3000), template), tmp_path / "t"
    folder.mkdir()
    pid = os.fork()
    if not pid:
        encode(
            rows(3000), template, folder, progress=lambda done, _: done < 1000 or os.kill(os.getpid(), signal.SIGKILL)
        )
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    done = read_progress(folder).rows
    assert 1000 <= done < 3000
    # A kill may come between the samples and the journal, or in the middle of a line.
    with (folder / "ids.bin").open("ab") as file:
        file.write(b"half a number of a chunk")
    with (folder / JOURNAL).open("a") as file:
        file.write('{"rows": 17')
    seen: list[int] = []
    assert same(whole, encode(rows(3000), template, folder, progress=lambda rows, _: seen.append(rows)))
    assert min(seen) > done
    # After a power cut the journal may be ahead of the samples.
    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    os.truncate(cut / "labels.bin", 4000)
    assert same(whole, encode(rows(3000), template, cut))
