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
from swift.data.sources import parse_name, read_records
from swift.data.steps import seeded
from swift.errors import SwiftError
from swift.rows import Row, Source


@dataclass
class RowSet:
    """Rows to use, each with where it came from, and those left out."""

    rows: list[tuple[Row, Source]] = field(default_factory=list)
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
    whole, bad, seen = RowSet(), list[Dropped](), set[str]()
    total = 0
    for number, name in enumerate(names):
        wanted = parse_name(name, option)
        rows: list[tuple[Row, Source]] = []
        for record in read_records(wanted, config, use_hf=use_hf, hub_token=hub_token, option=option):
            total += 1
            if isinstance(record, Dropped):
                bad.append(record)
                continue
            seen.update(record[0])
            try:
                rows.append((checked_row(record[0], config, answers), record[1]))
            except BadRow as error:
                bad.append(Dropped(record[1], str(error), record[0]))
        if rows and wanted.rows is not None:
            rows = [rows[index] for index in _draw(len(rows), wanted.rows, seeded(seed, number), shuffle)]
        whole.rows += rows
    # Data for evaluation may have our names already, where the data for training has others.
    if option == "dataset":
        _check_columns(config, seen)
    if config.strict:
        stop_at(bad, total, fix="mend these rows; --strict false drops them and writes them to dropped.jsonl")
    whole.dropped = bad
    if names and not whole.rows:
        raise SwiftError(
            f"--{option} {' '.join(names)}: none of {total} rows can be used",
            where=str(bad[0]) if bad else None,
            fix="mend the rows; docs/data.md tells what they hold",
        )
    if shuffle:
        whole.rows = [whole.rows[index] for index in seeded(seed, len(names)).permutation(len(whole.rows))]
    return whole


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
    sources = list(dict.fromkeys(source for _, source in rowset.rows))
    count = max(1, int(len(sources) * ratio))
    if count >= len(sources):
        raise SwiftError(
            f"--split_dataset_ratio {ratio} leaves no row of {len(sources)} to train on",
            fix="use more rows, or leave it out and name --val_dataset",
        )
    order: Sequence[int] = range(len(sources)) if seed is None else seeded(seed).permutation(len(sources)).tolist()
    held = {sources[index] for index in order[-count:]}
    train = [row for row in rowset.rows if row[1] not in held]
    return RowSet(train, rowset.dropped), RowSet([row for row in rowset.rows if row[1] in held])
