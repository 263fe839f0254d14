"""The rows of a run: read, mapped, checked, drawn and mixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from swift.config.data import DataConfig
from swift.data.checks import check_row
from swift.data.drops import BadRow, Dropped, DroppedRows, stop_at
from swift.data.formats import RowMapper
from swift.data.mixing import check_weights, interleave
from swift.data.row_store import Placed, RowStore, StoredRows
from swift.data.sources import DatasetName, parse_name, read_records
from swift.data.steps import seeded
from swift.errors import SwiftError
from swift.rows import Source


@dataclass
class RowSet:
    """Rows to use, each with where it came from, and those left out."""

    rows: Sequence[Placed] = field(default_factory=list)
    dropped: Sequence[Dropped] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)


class RowReader:
    """Reads data sets row by row, mapped and checked.

    Args:
        config: columns, and what self-cognition needs.
        use_hf: the hub for ids that do not say which.
        hub_token: for private data.
        option: the option the names came from, for errors.
        answers: rows must hold what is trained; inference takes rows that are only asked.

    Attributes:
        columns: names of all columns met so far.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        use_hf: bool | None = None,
        hub_token: str | None = None,
        option: str = "dataset",
        answers: bool = True,
    ) -> None:
        self.config, self.use_hf, self.hub_token = config, use_hf, hub_token
        self.option, self.answers = option, answers
        self.columns: set[str] = set()
        self._mapper = RowMapper(config.columns, answers=answers, auto=not config.disable_auto_column_mapping)

    def rows(self, wanted: DatasetName) -> Iterator[Placed | Dropped]:
        """Every row of a data set in its order; `#N` counts not here.

        Raises:
            SwiftError: no such data set, or a file that cannot be read.
        """
        records = read_records(wanted, self.config, use_hf=self.use_hf, hub_token=self.hub_token, option=self.option)
        for record in records:
            if isinstance(record, Dropped):
                yield record
                continue
            value, source = record
            if not self.columns.issuperset(value):
                self.columns.update(value)
            try:
                row = self._mapper(value)
                check_row(row, answers=self.answers)
            except BadRow as error:
                yield Dropped(source, str(error), value)
            else:
                yield row, source


def iter_rows(
    names: Sequence[str],
    config: DataConfig,
    *,
    seed: int = 0,
    use_hf: bool | None = None,
    hub_token: str | None = None,
    option: str = "dataset",
    answers: bool = True,
) -> Iterator[Placed | Dropped]:
    """The rows of data sets one by one, in order, read as they are asked for; a row that cannot be used is `Dropped`.

    Data sets follow one another, or are drawn from by `--interleave_prob`. `#N` takes the first N good rows, again
    from the start where there are fewer. Without shuffling, `load_rows` gives the same rows in the same order.

    Args:
        names: as `load_rows` takes them.
        config: columns, mixing, and what self-cognition needs.
        seed: of the draws by weight.
        use_hf: the hub for ids that do not say which.
        hub_token: for private data.
        option: the option the names came from, for errors.
        answers: rows must hold what is trained.

    Raises:
        SwiftError: no such data set, or a file that cannot be read; at the first row, or while reading.
    """
    reader = RowReader(config, use_hf=use_hf, hub_token=hub_token, option=option, answers=answers)
    sources = [partial(_first_rows, reader, parse_name(name, option)) for name in names]
    if option == "dataset" and config.interleave_prob:
        check_weights(config.interleave_prob, len(names))
        yield from interleave(sources, config.interleave_prob, seed=seed, stopping=config.stopping_strategy)
        return
    for source in sources:
        yield from source()


def _first_rows(reader: RowReader, wanted: DatasetName) -> Iterator[Placed | Dropped]:
    given, again = 0, False
    while wanted.rows is None or given < wanted.rows:
        before = given
        for item in reader.rows(wanted):
            if isinstance(item, Dropped):
                if not again:
                    yield item
                continue
            given += 1
            yield item
            if given == wanted.rows:
                return
        again = True
        if wanted.rows is None or given == before:
            return


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
    stop: bool = True,
) -> RowSet:
    """Read data sets whole and lay their rows one after another, or mix them.

    Every row of every data set is looked at before the run stops at bad ones.

    Args:
        names: `[HF::|MS::]name[:subset/subset][@split][#rows]` each, with a plug-in's name, self-cognition, a path or
            a hub id.
        config: columns, mixing, strictness, and what self-cognition needs.
        seed: of the draws and the order.
        shuffle: mix all rows, and draw `#rows` at random; else take the first.
        use_hf: the hub for ids that do not say which.
        hub_token: for private data.
        option: the option the names came from, for errors.
        answers: rows must hold what is trained; inference takes rows that are only asked.
        stop: stop at bad rows (strict); else they are in `dropped`, for a report with those that cannot be encoded.

    Raises:
        SwiftError: no such data set, unreadable files, bad rows (strict), no rows.
    """
    weights = config.interleave_prob if option == "dataset" else None
    check_weights(weights, len(names))
    reader = RowReader(config, use_hf=use_hf, hub_token=hub_token, option=option, answers=answers)
    rows, parts, bad, total = RowStore(), list[np.ndarray](), DroppedRows(), 0
    for number, name in enumerate(names):
        wanted, start = parse_name(name, option), len(rows)
        for item in reader.rows(wanted):
            total += 1
            bad.append(item) if isinstance(item, Dropped) else rows.append(*item)
        part = np.arange(start, len(rows))
        if len(part) and wanted.rows is not None:
            part = part[_draw(len(part), wanted.rows, seeded(seed, number), shuffle)]
        if weights and shuffle:
            part = part[seeded(seed, number, 1).permutation(len(part))]
        parts.append(part)
    # Data for evaluation may have our names already, where the data for training has others.
    if option == "dataset":
        _check_columns(config, reader.columns)
    if config.strict and (stop or not len(rows)):
        stop_at(bad, total, fix="mend these rows; --strict false drops and counts them")
    if names and not len(rows):
        raise SwiftError(
            f"--{option} {' '.join(names)}: none of {total} rows can be used",
            where=str(bad[0]) if bad else None,
            fix="mend the rows; docs/data.md tells what they hold",
        )
    order = _mixed(parts, names, config, weights, seed)
    if shuffle:
        order = order[seeded(seed, len(names)).permutation(len(order))]
    return RowSet(StoredRows(rows, order), bad)


def _mixed(
    parts: list[np.ndarray], names: list[str], config: DataConfig, weights: list[float] | None, seed: int
) -> np.ndarray:
    """The numbers of the rows in the order of the mixture; a number may come more than once."""
    if not weights:
        return np.concatenate([np.zeros(0, np.int64), *parts])
    if empty := [name for name, part in zip(names, parts, strict=True) if not len(part)]:
        raise SwiftError(
            f"--interleave_prob: no row of {empty[0]} can be used, so it cannot be drawn from",
            fix="mend its rows, or leave it and its weight out",
        )
    sources: list[Callable[[], Iterator[int | Dropped]]] = [partial(iter, part.tolist()) for part in parts]
    mixture = interleave(sources, weights, seed=seed, stopping=config.stopping_strategy)
    return np.fromiter((number for number in mixture if not isinstance(number, Dropped)), np.int64)


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
