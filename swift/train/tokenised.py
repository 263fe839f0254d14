"""Tokenised rows of a run: from the cache, from what `swift prepare` made, or made now."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config import Decisions
from swift.data import EncodedDataset, RowSet, encode_rows, load_rows, split_rows
from swift.data.cache import (
    HELD,
    TRAIN,
    can_keep,
    differences,
    ensure,
    is_whole,
    open_sets,
    passing_folder,
    read_about,
    tokens_root,
)
from swift.data.drops import DroppedRows, FailedRows
from swift.data.encoding import check_some_left
from swift.data.identity import code_identity, data_identity, key_of, template_identity
from swift.data.token_files import TokenWriter, open_tokens, read_left_out, read_progress, write_left_out
from swift.errors import SwiftError
from swift.rows import Row, Source

if TYPE_CHECKING:
    from swift.config import DataConfig
    from swift.tasks.base import Task
    from swift.templates import Template

DATA_CHARS, SET_CHARS = 16, 32
"""Length of the names of folders: one for the data, and in it one for each template, length and version."""


@dataclass
class Sets:
    """Tokenised rows.

    Attributes:
        train: samples for training.
        held: samples for evaluation.
        place: the folder they are kept in; None where they are not.
    """

    train: EncodedDataset
    held: EncodedDataset | None
    place: Path | None = None


class RunRows:
    """Reads the rows for training and, where wanted, for evaluation: at once, unless they seem to be tokenised already.

    Args:
        config: a command's configuration with model, template, data and plugins.
        seed: of the order of rows.
        keep: take tokenised rows from the cache where they are there, and put them there.

    Attributes:
        found: the rows, once they are read.
        kept: some rows of each set that was tokenised before.

    Raises:
        SwiftError: a file cannot be used, or no row of a set can; nothing has been loaded yet.
    """

    def __init__(self, config: Any, seed: int, keep: bool = True) -> None:
        check_sources(config.data)
        self.config, self.seed = config, seed
        self.found: tuple[RowSet, RowSet | None] | None = None
        data, model = config.data, config.model
        self.kept: list[list[tuple[Row, Source]]] = []
        self.identity: dict[str, Any] | None = None
        if keep and data.load_from_cache_file and not data.cached_dataset and can_keep():
            self.identity = data_identity(data, seed=seed, use_hf=model.use_hf, token=model.hub_token)
        kept = self.identity is not None and (self.folder().is_dir() or os.environ.get("LOCAL_RANK", "0") != "0")
        if not kept and not data.cached_dataset:
            self.read()

    def folder(self) -> Path:
        """The folder of these rows in the cache."""
        return tokens_root() / key_of(self.identity)[:DATA_CHARS]

    def read(self) -> tuple[RowSet, RowSet | None]:
        """The rows, read when they are first asked for."""
        if self.found is None:
            self.found = self._read()
        return self.found

    @property
    def fails(self) -> bool:
        """Whether rows that cannot be read stop the run, once it is known which cannot be encoded either."""
        return self.config.data.strict and any(each.dropped for each in self.found or () if each)

    def held_rows(self) -> RowSet | None:
        """The rows for evaluation; where those for training are not read yet, they stay so if they can."""
        if self.found is None and self.config.data.val_dataset:
            return self._load("val_dataset")
        return self.read()[1]

    def _load(self, option: str) -> RowSet:
        data, model = self.config.data, self.config.model
        names, shuffle = getattr(data, option), getattr(data, f"{option}_shuffle")
        hub: dict[str, Any] = {"use_hf": model.use_hf, "hub_token": model.hub_token}
        return load_rows(names, data, seed=self.seed, shuffle=shuffle, option=option, stop=False, **hub)

    def _read(self) -> tuple[RowSet, RowSet | None]:
        data = self.config.data
        rows = self._load("dataset")
        if data.val_dataset:
            return rows, self._load("val_dataset")
        if data.split_dataset_ratio:
            return split_rows(rows, data.split_dataset_ratio, self.seed)
        return rows, None


def check_sources(data: DataConfig) -> None:
    """Stop where two options name the rows of one set.

    Raises:
        SwiftError: it names them.
    """
    if data.cached_dataset and (data.dataset or data.val_dataset):
        raise SwiftError(
            "--cached_dataset and --dataset both name rows to train on"
            if data.dataset
            else "--cached_dataset with --val_dataset: rows are tokenised either beforehand or now",
            fix="prepare all of them together: swift prepare --dataset …",
        )
    if data.val_dataset and data.split_dataset_ratio:
        raise SwiftError(
            f"--split_dataset_ratio {data.split_dataset_ratio} and --val_dataset both name rows to evaluate on",
            fix="keep one of them",
        )
    other = "val_dataset" if data.val_dataset else "split_dataset_ratio" if data.split_dataset_ratio else None
    if data.cached_val_dataset and other:
        raise SwiftError(f"--cached_val_dataset and --{other} both name rows to evaluate on", fix="keep one of them")


def has_held(data: DataConfig) -> bool:
    """Whether there are rows to evaluate on.

    Raises:
        SwiftError: no tokenised rows are where options say.
    """
    if data.dataset:
        return bool(data.val_dataset or data.split_dataset_ratio or data.cached_val_dataset)
    folders = [prepared_folder(name, "cached_dataset")[0] for name in data.cached_dataset]
    return bool(data.cached_val_dataset) or any((folder / HELD).is_dir() for folder in folders)


def tokenise(reader: RunRows, template: Template, task: Task, longest: int | None, decisions: Decisions) -> Sets:
    """The samples of a run's rows.

    Raises:
        SwiftError: a row cannot be used, no sample is left, or prepared samples were made for something else.
    """
    data = reader.config.data
    made = _prepared if data.cached_dataset else _made
    sets = made(reader, template, task, longest, decisions)
    if data.cached_val_dataset:
        folders = _folders(data.cached_val_dataset, "cached_val_dataset", reader, template, task)
        held = [open_tokens(folder / HELD if (folder / HELD).is_dir() else folder / TRAIN) for folder, _ in folders]
        sets.held = joined(held)
    return sets


def _made(reader: RunRows, template: Template, task: Task, longest: int | None, decisions: Decisions) -> Sets:
    config = reader.config
    if reader.identity is None:
        if config.data.load_from_cache_file:
            why = "nothing tells whether the rows of a function are still the same"
            why = why if can_keep() else f"{tokens_root()} cannot be written"
            decisions.add("tokens", "not kept", "data", why)
        with passing_folder() as folder:
            fill(folder, reader, template, task, longest)
            return Sets(*_with_left_out(folder, None, template))
    about = about_of(reader, template, task, longest)
    place = reader.folder() / key_of(about)[:SET_CHARS]
    there = ensure(place, lambda folder: about | fill(folder, reader, template, task, longest), place.name)
    made = read_about(place)
    template.hold(made["fixed"])
    task.take(made["facts"])
    reader.kept = _checked_rows(made)
    train, held = _with_left_out(place, made, template if there or reader.found is None else None)
    said = "tokenised before, from the cache" if there else "tokenised now, kept in the cache"
    decisions.add("tokens", str(place), "data", f"{said}: {len(train):,} samples")
    return Sets(train, held, place)


def about_of(reader: RunRows, template: Template, task: Task, longest: int | None) -> dict[str, Any]:
    """All that the samples hang on."""
    made = how_made(reader.config, template, task, longest)
    return {"data": reader.identity, **made, "code": code_identity()}


def how_made(config: Any, template: Template, task: Task, longest: int | None) -> dict[str, Any]:
    """What the samples hang on besides the rows and the code."""
    files = [Path(each).expanduser() for each in config.plugins.external_plugins]
    return {
        "template": template_identity(template),
        "task": task.identity(),
        "max_length": longest,
        "truncation_strategy": config.template.truncation_strategy,
        "plugins": [hashlib.blake2b(file.read_bytes()).hexdigest() for file in files if file.is_file()],
    }


def fill(folder: Path, reader: RunRows, template: Template, task: Task, longest: int | None) -> dict[str, Any]:
    """Tokenise the rows into the folders of a folder; gives what else has to be kept.

    Raises:
        SwiftError: rows cannot be used; it tells those of training and evaluation that cannot be read or encoded.
    """
    from swift.engines.parity import spread

    config, rows_of, made, failed = reader.config, {}, [], FailedRows()
    sets = reader.read()
    facts = task.look([placed for rows in sets if rows for placed in rows.rows])
    encoder = task.encoder(template, longest)
    for name, rows in zip((TRAIN, HELD), sets, strict=True):
        if rows is None or (name == HELD and not rows):
            continue
        (folder / name).mkdir(exist_ok=True)
        samples = encode_rows(
            rows,
            encoder,
            max_length=longest,
            truncation_strategy=config.template.truncation_strategy,
            num_proc=config.data.dataset_num_proc,
            strict=config.data.strict,
            folder=folder / name,
            failed=failed,
        )
        made.append(samples)
        write_left_out(rows.dropped, folder / name)
        rows_of[name] = [[row, source.name, source.line] for row, source in spread(rows.rows)]
    failed.stop()
    for samples in made:
        check_some_left(samples)
    return {"fixed": template.fixed, "rows": rows_of, "facts": facts}


def _checked_rows(made: dict[str, Any]) -> list[list[tuple[Row, Source]]]:
    """The rows of each set that are kept beside the tokens, to be checked in every run."""
    return [[(row, Source(name, line)) for row, name, line in rows] for rows in made["rows"].values()]


def _with_left_out(
    folder: Path, made: dict[str, Any] | None, template: Template | None
) -> tuple[EncodedDataset, EncodedDataset | None]:
    sets = open_sets(folder)
    for name, each in zip((TRAIN, HELD), sets, strict=True):
        if each is None:
            continue
        each.dropped = DroppedRows(chain(read_left_out(folder / name), each.dropped))
        if template is not None and made is not None:
            template.notes.update(read_progress(folder / name).notes)
    return sets


def _prepared(reader: RunRows, template: Template, task: Task, longest: int | None, decisions: Decisions) -> Sets:
    data = reader.config.data
    folders = _folders(data.cached_dataset, "cached_dataset", reader, template, task)
    template.hold(folders[0][1]["fixed"])
    sets = [_with_left_out(folder, made, template) for folder, made in folders]
    train = joined([train for train, _ in sets])
    assert train is not None
    held = joined([held for _, held in sets if held is not None])
    where = " ".join(str(folder) for folder, _ in folders)
    _check_strategy(reader.config, folders)
    if longest and int(train.lengths.max()) > longest:
        raise SwiftError(
            f"--max_length {longest}: a prepared sample has {int(train.lengths.max())} tokens",
            where=where,
            fix="prepare them with this --max_length",
        )
    decisions.add("tokens", where, "flag", f"prepared before: {len(train):,} samples")
    return Sets(train, held, folders[0][0] if len(folders) == 1 else None)


def _check_strategy(config: Any, folders: list[tuple[Path, dict[str, Any]]]) -> None:
    """Stop where longer rows are to become something else than they became when they were prepared."""
    asked = config.template.truncation_strategy
    for folder, made in folders:
        if config.given("truncation_strategy") and made["truncation_strategy"] != asked:
            raise SwiftError(
                f"--truncation_strategy {asked}: the rows were prepared with {made['truncation_strategy']}",
                where=str(folder),
                fix="leave it out, or prepare them again with it",
            )


def _folders(
    names: list[str], option: str, reader: RunRows, template: Template, task: Task
) -> list[tuple[Path, dict[str, Any]]]:
    """Prepared folders with what they were made of; rows kept in them are noted for the check of prompts."""
    found = [prepared_folder(name, option) for name in names]
    for folder, made in found:
        check_made(folder, made, template, task)
        task.take(made["facts"])
        reader.kept += _checked_rows(made)
    return found


def joined(sets: list[EncodedDataset]) -> EncodedDataset | None:
    """Several sets, one after another, in files that are gone with this process; None for none."""
    if len(sets) < 2:
        return sets[0] if sets else None
    with passing_folder() as folder:
        writer = TokenWriter(folder)
        for each in sets:
            writer.add(each, each.rows, Counter(), dropped=each.dropped)
        writer.close()
        return open_tokens(folder)


def prepared_folder(name: str, option: str) -> tuple[Path, dict[str, Any]]:
    """The folder that `swift prepare` made, also where one of the sets in it is named."""
    path = Path(name).expanduser().absolute()
    for folder in (path, path.parent):
        if is_whole(folder) and (folder == path or path.name in (TRAIN, HELD)):
            return folder, read_about(folder)
    raise SwiftError(f"--{option} {name}: no tokenised rows are there", fix="make them with swift prepare")


def check_made(folder: Path, made: dict[str, Any], template: Template, task: Task) -> None:
    """Stop where prepared samples were made with another template or tokenizer.

    Raises:
        SwiftError: it names what differs.
    """
    if made["task"][0] != task.name:
        raise SwiftError(
            f"the prepared rows were made for --task_type {made['task'][0]}",
            where=str(folder),
            fix=f"prepare them again with --task_type {task.name}",
        )
    if found := differences(made["template"], template_identity(template)):
        raise SwiftError(
            f"the prepared rows were made for something else: {'; '.join(found)}",
            where=str(folder),
            fix="prepare them again with the options of this run, or train with theirs",
        )
