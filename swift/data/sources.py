"""From the names that `--dataset` takes to records."""

from __future__ import annotations

import re
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from swift.config.data import DataConfig
from swift.data.drops import Dropped
from swift.data.readers import READERS, Records, read_file, reader_of, without_nulls
from swift.data.self_cognition import NAMES, read_self_cognition
from swift.errors import SwiftError, first_line, raised_at
from swift.hub.nearby import closest, did_you_mean
from swift.rows import Source

NOT_DATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json"}
"""Files in a data set's folder that describe it."""


@dataclass(frozen=True)
class DatasetName:
    """`[HF::|MS::]name[:subset/subset][#rows]`, taken apart."""

    name: str
    subsets: tuple[str, ...] = ()
    rows: int | None = None
    use_hf: bool | None = None


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
    if not name.strip():
        raise SwiftError(f"--{option} {text!r} names no data set", fix="name a file, a folder or an id of a hub")
    subsets: tuple[str, ...] = ()
    if ":" in name and not Path(name).exists():
        name, _, after = name.partition(":")
        subsets = tuple(subset for subset in after.split("/") if subset)
    return DatasetName(name, subsets, rows, use_hf)


def read_records(
    wanted: DatasetName, config: DataConfig, *, use_hf: bool | None, hub_token: str | None, option: str
) -> Records:
    """The records of a data set: a plug-in's, the bundled one, files, a folder, a pattern, or one of a hub.

    Raises:
        SwiftError: there is no such data set, or it cannot be read.
    """
    from swift.data import datasets

    name, path = wanted.name, Path(wanted.name).expanduser()
    if name in datasets:
        yield from _plugin(wanted, option)
    elif name in NAMES:
        for subset in wanted.subsets or ("default",):
            yield from read_self_cognition(config, subset)
    elif path.is_file():
        yield from read_file(path, option)
    elif path.is_dir():
        yield from _hub_folder(path, wanted, option) if wanted.subsets else _files(_data_files(path, option), option)
    elif has_magic(name):
        yield from _files(_matching(name, option), option)
    elif reader_of(path) or name.startswith(("/", "./", "../", "~")):
        raise SwiftError(
            f"--{option} {name}: no such file or folder",
            fix=did_you_mean(closest(name, [*datasets, *NAMES]), f"check the path; it is looked for in {Path.cwd()}"),
        )
    else:
        yield from _from_hub(wanted, option, use_hf=use_hf, hub_token=hub_token)


def _plugin(wanted: DatasetName, option: str) -> Records:
    from swift.data import datasets

    if wanted.subsets:
        raise SwiftError(
            f"--{option} {wanted.name}: a registered data set has no subsets", fix=f"write --{option} {wanted.name}"
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
    """Every data file below a folder, in the order of their names."""
    below = sorted(path for path in folder.rglob("*") if path.is_file() and reader_of(path))
    files = [
        path
        for path in below
        if path.name not in NOT_DATA and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise SwiftError(f"--{option} {folder} holds no data files", fix=f"it needs one of {', '.join(READERS)}")
    return files


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

    use_hf = use_hf if wanted.use_hf is None else wanted.use_hf
    known = [] if wanted.use_hf is not None else [*datasets, *NAMES]
    found = resolve_dataset(wanted.name, use_hf=use_hf, token=hub_token, known=known, option=option)
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
        split = "train" if "train" in splits else next(iter(splits))
        if split != "train" and len(splits) > 1:
            raise SwiftError(
                f"--{option} {label} has no split train, but {', '.join(splits)}",
                where=str(folder),
                fix="name the data file of the split that you want",
            )
        for number, value in enumerate(splits[split], 1):
            yield without_nulls(value), Source(f"{label}/{split}", number)
