"""`swift prepare`: rows tokenised beforehand, for `--cached_dataset`."""

from __future__ import annotations

import shutil
from pathlib import Path

from swift.config import Decisions
from swift.config.commands import PrepareConfig
from swift.config.effect import note_without_effect
from swift.data import by_reason, write_dropped
from swift.data.cache import HELD, ensure, is_whole, open_sets
from swift.data.identity import NO_MATTER, key_of
from swift.data.steps import data_seed
from swift.errors import SwiftError
from swift.plugins import load_plugins
from swift.train.arguments import check_missing
from swift.train.tokenised import RunRows, about_of, fill


def main(config: PrepareConfig) -> int:
    """Run `swift prepare` and return its exit status."""
    decisions = Decisions()
    folder = prepare_rows(config, decisions)
    print("\n".join(decisions.table()))
    print(f"\nTrain with: swift sft --model {config.model.model} --cached_dataset {folder}")
    return 0


def prepare_rows(config: PrepareConfig, decisions: Decisions) -> Path:
    """Read, check and tokenise rows into a folder; what a killed call left there is gone on with.

    Returns:
        The folder.

    Raises:
        SwiftError: an option is missing, a row cannot be used, or the folder is taken.
    """
    from swift.compat import quiet_libraries
    from swift.models.source import find_source
    from swift.tasks.choose import open_task
    from swift.templates.choose import open_template
    from swift.train.assemble import check_prompts

    note_without_effect(config, decisions)
    folder = check_options(config, decisions)
    load_plugins(config.plugins.external_plugins)
    reader = RunRows(config, data_seed(config.output))
    reader.read()
    source = find_source(config.model, decisions, weights=False)
    quiet_libraries()
    task = open_task(config, source, decisions)
    template = open_template(config, source, decisions, chat=task.chat)
    check_prompts(template, task, reader, decisions)
    longest = config.template.max_length or source.limit
    about = about_of(reader, template, task, longest)
    key = None if reader.identity is None else key_of(about)
    ensure(folder, lambda place: about | fill(place, reader, template, task, longest), key)
    for name, samples in zip(("train", HELD), open_sets(folder), strict=True):
        if samples is not None:
            lost = "".join(f"; {count:,} dropped: {reason}" for reason, count in by_reason(samples.dropped))
            size = f"{len(samples):,} samples, {int(samples.lengths.sum()):,} tokens"
            decisions.add(name, size, "data", f"from {samples.rows:,} rows{lost}")
            if samples.dropped:
                write_dropped(samples.dropped, folder / f"dropped-{name}.jsonl")
    return folder


def check_options(config: PrepareConfig, decisions: Decisions) -> Path:
    """The folder to fill; options that matter only in training go into the table.

    Raises:
        SwiftError: an option is missing or does not belong here, or the folder is there.
    """
    for name in ("cached_dataset", "cached_val_dataset"):
        if config.given(name):
            raise SwiftError(f"--{name} names rows that are tokenised already", fix="give it to swift sft")
    for name in sorted(NO_MATTER - {"dataset_num_proc", "load_from_cache_file"}):
        if config.given(name):
            decisions.add(name, config.flat()[name], "flag", "changes no sample: give it to swift sft")
    check_missing(config.model, config.data.dataset)
    if not config.output.output_dir:
        raise SwiftError("--output_dir is missing", fix="name a folder for the tokenised rows")
    folder = Path(config.output.output_dir).expanduser().absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SwiftError(
            f"--output_dir {folder} cannot be made: {error.strerror}", fix="name a folder that you may write"
        ) from None
    if folder.exists() and any(folder.iterdir()):
        if not config.output.exist_ok or not is_whole(folder):
            raise SwiftError(
                f"--output_dir {folder} is there already",
                fix="name another folder" + (", or replace it: --exist_ok true" if is_whole(folder) else ""),
            )
        shutil.rmtree(folder)
    return folder
