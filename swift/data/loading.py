"""The rows of a run: read, mapped, checked, drawn and mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from swift.config.data import DataConfig
from swift.data.checks import check_row
from swift.data.drops import BadRow, Dropped, stop_at
from swift.data.formats import to_row
from swift.data.row_store import Placed, RowStore, StoredRows
from swift.data.sources import parse_name, read_records
from swift.data.steps import seeded
from swift.errors import SwiftError
from swift.rows import Row, Source


@dataclass
class RowSet:
    """Rows to use, each with where it came from, and those left out."""

    rows: Sequence[Placed] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)


def load_rows(
    names: list[str],
    config: DataConfig,
    *,
    seed: int,
    shuffle: bool,
    use_hf: bool | None = None,
    hub_token: str | None = None,
    option: str = "dataset",
    answers: bool = True,
) -> RowSet:
    """Read data sets and lay their rows one after another, or mix them.

    Every row of every data set is looked at before the run stops at bad ones.

    Args:
        names: `[HF::|MS::]name[:subset/subset][#rows]` each, with a plug-in's name, self-cognition, a path or a hub id.
        config: columns, strictness, and what self-cognition needs.
        seed: of the draw and the order.
        shuffle: mix all rows, and draw `#rows` at random; else take the first.
        use_hf: the hub for ids that do not say which.
        hub_token: for private data.
        option: the option the names came from, for errors.
        answers: rows must hold an assistant's turn; inference takes rows that are only asked.

    Raises:
        SwiftError: no such data set, unreadable files, bad rows (strict), no rows.
    """
    store, parts, bad, seen = RowStore(), list[StoredRows](), list[Dropped](), set[str]()
    total = 0
    for number, name in enumerate(names):
        wanted = parse_name(name, option)
        start = len(store)
        for record in read_records(wanted, config, use_hf=use_hf, hub_token=hub_token, option=option):
            total += 1
            if isinstance(record, Dropped):
                bad.append(record)
                continue
            seen.update(record[0])
            try:
                store.append(checked_row(record[0], config, answers), record[1])
            except BadRow as error:
                bad.append(Dropped(record[1], str(error), record[0]))
        rows = store.all(start)
        if rows and wanted.rows is not None:
            rows = rows.take(_draw(len(rows), wanted.rows, seeded(seed, number), shuffle))
        parts.append(rows)
    # Data for evaluation may have our names already, where the data for training has others.
    if option == "dataset":
        _check_columns(config, seen)
    if config.strict:
        stop_at(bad, total, fix="mend these rows; --strict false drops them and writes them to dropped.jsonl")
    rows = sum(parts, start=store.all(len(store)))
    if names and not rows:
        raise SwiftError(
            f"--{option} {' '.join(names)}: none of {total} rows can be used",
            where=str(bad[0]) if bad else None,
            fix="mend the rows; docs/data.md tells what they hold",
        )
    if shuffle:
        rows = rows.take(seeded(seed, len(names)).permutation(len(rows)))
    return RowSet(rows, bad)


def checked_row(record: Mapping[str, Any], config: DataConfig, answers: bool) -> Row:
    """A record as a row; raises `BadRow` with what is wrong with it."""
    row = to_row(record, config.columns, answers=answers)
    check_row(row, answers=answers)
    return row


def _draw(rows: int, wanted: int, random: np.random.RandomState, shuffle: bool) -> list[int]:
    """Numbers of the rows drawn: all of them as often as they fit, then a share of them."""
    times, rest = divmod(wanted, rows)
    share = random.permutation(rows)[:rest].tolist() if shuffle else list(range(rest))
    return [*list(range(rows)) * times, *share]


def _check_columns(config: DataConfig, seen: set[str]) -> None:
    absent = sorted(set(config.columns or {}) - seen)
    if absent and seen:
        raise SwiftError(f"--columns: no row has {', '.join(absent)}", fix=f"the data has: {', '.join(sorted(seen))}")


def split_rows(rowset: RowSet, ratio: float, seed: int | None) -> tuple[RowSet, RowSet]:
    """Keep a share of the rows for evaluation; copies of one row stay on one side.

    Args:
        rowset: all rows.
        ratio: the share; above 0 it is at least one row.
        seed: draws the share; None takes the last rows.

    Returns:
        The rows to train on, with all that was dropped, and those to evaluate on; each in the order they had.

    Raises:
        SwiftError: nothing would be left to train on.
    """
    if not ratio:
        return rowset, RowSet()
    numbers, different = _same(rowset.rows)
    count = max(1, int(different * ratio))
    if count >= different:
        raise SwiftError(
            f"--split_dataset_ratio {ratio} leaves no row of {different} to train on",
            fix="use more rows, or leave it out and name --val_dataset",
        )
    order = np.arange(different) if seed is None else seeded(seed).permutation(different)
    held = np.isin(numbers, order[-count:])
    train, kept = (_some(rowset.rows, np.flatnonzero(chosen)) for chosen in (~held, held))
    return RowSet(train, rowset.dropped), RowSet(kept)


def _same(rows: Sequence[Placed]) -> tuple[np.ndarray, int]:
    """A number for each row, the same for copies of one, and how many there are."""
    if isinstance(rows, StoredRows):
        return rows.same()
    known: dict[Source, int] = {}
    numbers = np.array([known.setdefault(source, len(known)) for _, source in rows], np.int64)
    return numbers, len(known)


def _some(rows: Sequence[Placed], order: np.ndarray) -> Sequence[Placed]:
    return rows.take(order) if isinstance(rows, StoredRows) else [rows[index] for index in order]
