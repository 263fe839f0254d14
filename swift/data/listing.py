"""`swift datasets`: the data sets that are known by name."""

from __future__ import annotations

import json
from dataclasses import asdict

from swift.config.commands import DatasetsConfig
from swift.data.known import TABLE, KnownDataset, read_table
from swift.errors import SwiftError


def main(config: DatasetsConfig) -> int:
    """Print the data sets whose name, tag or description holds the word; the user's own come first.

    Raises:
        SwiftError: there is none, or a table is wrong.
    """
    word = (config.search.search or "").lower()
    tables = [*config.tables.custom_dataset_info, str(TABLE)]
    found = [entry for table in tables for entry in read_table(table) if _holds(entry, word)]
    if not found:
        raise SwiftError(
            f"--search {config.search.search}: no data set of the table",
            fix="any data set works by its id or path; the table only knows columns and splits of well-known ones",
        )
    if config.report.format == "json":
        for entry in found:
            print(json.dumps({"id": entry.names[0], **asdict(entry)}, ensure_ascii=False))
        return 0
    wide = max(len(entry.names[0]) for entry in found)
    for entry in found:
        others = " ".join(f"= {name}" for name in entry.names[1:])
        parts = [f"subsets: {' '.join(entry.subsets)}"] if entry.subsets[1:] else []
        parts += [f"splits: {' '.join(entry.splits)}"] if entry.splits[1:] or entry.splits != ("train",) else []
        parts += [", ".join(entry.tags)]
        print(f"{entry.names[0]:<{wide}}  {'; '.join(part for part in [others, *parts] if part)}")
    return 0


def _holds(entry: KnownDataset, word: str) -> bool:
    return any(word in text.lower() for text in (*entry.names, *entry.tags, entry.help))
