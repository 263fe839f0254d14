"""From the names that `--dataset` takes to records."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path

from swift.config.data import DataConfig
from swift.data.drops import BadRow, Dropped
from swift.data.known import KnownDataset, known_dataset
from swift.data.readers import KINDS, Records, read_file, reader_of
from swift.data.self_cognition import NAMES, read_self_cognition
from swift.data.tables import BATCH, pick_split, rows_of, saved_files
from swift.errors import SwiftError, first_line, raised_at
from swift.hub.nearby import absent
from swift.rows import Source

NOT_DATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json"}
"""Files in a data set's folder that describe it."""


@dataclass(frozen=True)
class DatasetName:
    """`[HF::|MS::]name[:subset/subset][@split+split][#rows]`, taken apart."""

    name: str
    subsets: tuple[str, ...] = ()
    rows: int | None = None
    use_hf: bool | None = None
    splits: tuple[str, ...] = ()
    listed: bool = False

    @property
    def hub_is_named(self) -> bool:
        """Whether a prefix or a table says that a hub has it, whatever the name looks like."""
        return self.use_hf is not None or self.listed


def parse_name(text: str, option: str = "dataset") -> DatasetName:
    """Take a data set's name apart; a path that exists is never split.

    Raises:
        SwiftError: there is no name, or what follows `#` is not a number of rows.
    """
    hub = re.match(r"(hf|ms)::", text, re.IGNORECASE)
    use_hf = None if hub is None else hub[1].lower() == "hf"
    name = text[hub.end() :] if hub else text
    rows: int | None = None
    if "#" in name and not Path(name).exists():
        name, _, count = name.rpartition("#")
        if not count.isdecimal() or int(count) == 0:
            raise SwiftError(
                f"--{option} {text}: {count!r} after # is not a number of rows", fix="write it like id#500"
            )
        rows = int(count)
    splits: tuple[str, ...] = ()
    if "@" in name and not Path(name).exists():
        name, _, after = name.rpartition("@")
        splits = tuple(split for split in after.split("+") if split)
        if not splits:
            raise SwiftError(f"--{option} {text}: no split follows @", fix="write it like id@validation")
    if not name.strip():
        raise SwiftError(f"--{option} {text!r} names no data set", fix="name a file, a folder or an id of a hub")
    subsets: tuple[str, ...] = ()
    if ":" in name and not Path(name).exists():
        name, _, after = name.partition(":")
        subsets = tuple(subset for subset in after.split("/") if subset)
    return DatasetName(name, subsets, rows, use_hf, splits)


def read_records(
    wanted: DatasetName, config: DataConfig, *, use_hf: bool | None, hub_token: str | None, option: str
) -> Records:
    """The records of a data set: a plug-in's, the bundled one, one of a table, files, a folder, a pattern, or a hub's.

    Raises:
        SwiftError: there is no such data set, or it cannot be read.
    """
    from swift.data import datasets

    name = wanted.name
    use_hf = use_hf if wanted.use_hf is None else wanted.use_hf
    if name in datasets:
        yield from _plugin(wanted, option)
    elif name in NAMES:
        _refuse_splits(wanted, option)
        for subset in wanted.subsets or ("default",):
            yield from read_self_cognition(config, subset)
    elif not Path(name).exists() and (entry := known_dataset(name, tuple(config.custom_dataset_info))) is not None:
        yield from _known(entry, wanted, config, option, use_hf=use_hf, hub_token=hub_token)
    else:
        yield from _named(wanted, option, use_hf=use_hf, hub_token=hub_token)


def _named(wanted: DatasetName, option: str, *, use_hf: bool | None, hub_token: str | None) -> Records:
    from swift.data import datasets

    name, path = wanted.name, Path(wanted.name).expanduser()
    if path.is_file():
        if wanted.subsets:
            raise SwiftError(
                f"--{option} {name}:{'/'.join(wanted.subsets)}: a file has no subsets", fix=f"write --{option} {name}"
            )
        _refuse_splits(wanted, option)
        yield from read_file(path, option)
    elif path.is_dir():
        yield from _folder(path, wanted, option)
    elif has_magic(name):
        yield from _files(_matching(name, option), option)
    elif reader_of(path) or name.startswith(("/", "./", "../", "~")):
        raise absent(name, option, [*datasets, *NAMES])
    else:
        yield from _from_hub(wanted, option, use_hf=use_hf, hub_token=hub_token)


def _known(
    entry: KnownDataset,
    wanted: DatasetName,
    config: DataConfig,
    option: str,
    *,
    use_hf: bool | None,
    hub_token: str | None,
) -> Records:
    """A data set of a table, with its columns brought to names that are known."""
    name, use_hf = place_of(entry, wanted.name, use_hf)
    subsets = entry.subsets if wanted.subsets == ("all",) else wanted.subsets or entry.subsets[:1]
    splits = wanted.splits or (() if entry.path and Path(entry.path).is_file() else entry.splits[:1])
    named = replace(wanted, name=name, subsets=tuple(s for s in subsets if s != "default"), splits=splits, listed=True)
    mapped = entry.mapper(config.columns or {})
    for record in _named(named, option, use_hf=use_hf, hub_token=hub_token):
        if isinstance(record, Dropped):
            yield record
            continue
        value, source = record
        try:
            yield mapped(dict(value)), source
        except BadRow as error:
            yield Dropped(source, str(error), value)


def place_of(entry: KnownDataset, name: str, use_hf: bool | None) -> tuple[str, bool | None]:
    """The path or id of a known data set, and the hub that has it: the one asked for, else the other."""
    from swift.hub.resolve import choose_hub

    if entry.path:
        return entry.path, use_hf
    hub, _ = choose_hub(use_hf)
    ids = {"hf": entry.hf_id, "ms": entry.ms_id}
    if ids[hub]:
        return ids[hub], use_hf
    other = "ms" if hub == "hf" else "hf"
    return (ids[other], other == "hf") if use_hf is None else (name, use_hf)


def _refuse_splits(wanted: DatasetName, option: str) -> None:
    if wanted.splits:
        raise SwiftError(
            f"--{option} {wanted.name}@{'+'.join(wanted.splits)}: this data set has no splits",
            fix=f"write --{option} {wanted.name}",
        )


def _folder(path: Path, wanted: DatasetName, option: str) -> Records:
    """A folder that `save_to_disk` wrote, one laid out as a hub's where a subset or split is named, or plain files."""
    for split in wanted.splits or (None,):
        saved = saved_files(path, split, option)
        if saved is None:
            break
        yield from _files(saved, option)
    else:
        return
    laid_out = wanted.subsets or wanted.splits
    yield from _hub_folder(path, wanted, option) if laid_out else _files(_data_files(path, option), option)


def _plugin(wanted: DatasetName, option: str) -> Records:
    from swift.data import datasets

    if wanted.subsets or wanted.splits:
        raise SwiftError(
            f"--{option} {wanted.name}: a registered data set has no subsets and no splits",
            fix=f"write --{option} {wanted.name}",
        )
    try:
        for number, value in enumerate(datasets.get(wanted.name)(), 1):
            source = Source(wanted.name, number)
            yield (value, source) if isinstance(value, dict) else Dropped(source, "a row is not a dict")
    except SwiftError:
        raise
    except Exception as error:
        raise SwiftError(
            f"--{option} {wanted.name} fails: {type(error).__name__}: {error}",
            where=raised_at(error),
            fix="mend the function that @dataset registers under this name",
        ) from error


def _files(paths: list[Path], option: str) -> Records:
    for path in paths:
        yield from read_file(path, option)


def _data_files(folder: Path, option: str) -> list[Path]:
    """Every data file below a folder, in the order of their names; names that begin with a dot are left out."""
    files = [path for path in sorted(_below(folder, option)) if reader_of(path) and path.name not in NOT_DATA]
    # Beside data, a text is most often about it.
    files = [path for path in files if ".txt" not in path.suffixes[-2:]] or files
    if not files:
        raise SwiftError(f"--{option} {folder} holds no data files", fix=f"it needs one of {KINDS}")
    return files


def _below(folder: Path, option: str) -> Iterator[Path]:
    """The files below a folder.

    Raises:
        SwiftError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise SwiftError(
            f"--{option} {folder} cannot be read: {first_line(error)}", fix="check that you may read all folders in it"
        ) from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _matching(pattern: str, option: str) -> list[Path]:
    files = [Path(found) for found in sorted(glob(pattern, recursive=True)) if Path(found).is_file()]
    if not files:
        raise SwiftError(
            f"--{option} {pattern}: no file matches",
            fix=f"check the pattern; it is looked for in {Path.cwd()}; ** goes through folders",
        )
    return files


def _from_hub(wanted: DatasetName, option: str, *, use_hf: bool | None, hub_token: str | None) -> Records:
    from swift.data import datasets
    from swift.hub import resolve_dataset

    named = wanted.hub_is_named
    known = [] if named else [*datasets, *NAMES]
    found = resolve_dataset(wanted.name, use_hf=use_hf, token=hub_token, known=known, option=option, hub_is_named=named)
    yield from _hub_folder(Path(found.path), wanted, option)


def _hub_folder(folder: Path, wanted: DatasetName, option: str) -> Records:
    """A data set as hubs lay it out; `datasets` knows its configurations and splits."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    for subset in wanted.subsets or (None,):
        label = f"{wanted.name}:{subset}" if subset else wanted.name
        try:
            splits = load_dataset(str(folder), subset)
        except (DatasetsError, ValueError, LookupError, OSError, RuntimeError, ImportError) as error:
            # Where a builder fails, datasets' own error only says that it did.
            cause = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ else error
            raise SwiftError(
                f"--{option} {label} cannot be read: {first_line(cause)}",
                where=str(folder),
                fix="name one of its configurations after a colon, or a data file inside it",
            ) from error
        for name in wanted.splits or (None,):
            split = pick_split(splits, name, f"--{option} {label}")
            tables = splits[split].with_format("arrow").iter(BATCH)
            yield from rows_of(tables, f"{label}/{split}")
