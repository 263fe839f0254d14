"""What samples hang on: the data's files, the options, the template, the tokenizer and this code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from functools import cache
from glob import glob, has_magic
from importlib.metadata import version
from pathlib import Path
from typing import Any

from swift.config.data import DataConfig
from swift.data.known import known_dataset
from swift.data.self_cognition import NAMES, TABLE
from swift.data.sources import DatasetName, parse_name, place_of

HASHED = 64 * 2**20
"""Bytes up to which a file is known by its content; a larger one by its size and times."""

NO_MATTER = frozenset(
    """
    train_dataloader_shuffle dataset_num_proc packing packing_length packing_strategy padding_free load_from_cache_file
    cached_dataset cached_val_dataset lazy_tokenize streaming shuffle_buffer_size group_by_length
    """.split()  # noqa: SIM905
)
"""Options of the data that change no sample."""


def data_identity(config: DataConfig, *, seed: int, use_hf: bool | None, token: str | None) -> dict[str, Any] | None:
    """The rows that options name; None where nothing tells whether they are still the same, as with plug-ins."""
    from swift.data import datasets

    files: dict[str, Any] = {}
    for option in ("dataset", "val_dataset"):
        for text in getattr(config, option):
            wanted = parse_name(text, option)
            if wanted.name in datasets:
                return None
            if wanted.name in NAMES:
                files[text] = [_file(TABLE)]
                continue
            name, own = wanted.name, use_hf if wanted.use_hf is None else wanted.use_hf
            entry = None if Path(name).exists() else known_dataset(name, tuple(config.custom_dataset_info))
            if entry is not None:
                name, own = place_of(entry, name, own)
            wanted = replace(wanted, name=name, listed=entry is not None)
            files[text] = [_file(path) for path in _paths(wanted, own, token, option)]
    files["tables"] = [_file(Path(table).expanduser()) for table in config.custom_dataset_info]
    options = {each.name: getattr(config, each.name) for each in fields(config) if each.name not in NO_MATTER}
    return {"files": files, "options": options, "seed": seed}


def _paths(wanted: DatasetName, use_hf: bool | None, token: str | None, option: str) -> list[Path]:
    from swift.hub import resolve_dataset

    name, path = wanted.name, Path(wanted.name).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir() and has_magic(name):
        return [Path(found) for found in sorted(glob(name, recursive=True)) if Path(found).is_file()]
    if path.is_dir():
        folder = path
    else:
        named = wanted.hub_is_named
        folder = Path(resolve_dataset(name, use_hf=use_hf, token=token, option=option, hub_is_named=named).path)
    return sorted(each for each in folder.rglob("*") if each.is_file())


def _file(path: Path) -> list[Any]:
    """A name and what changes with the content. Nobody can set the time of the last change of status back."""
    about = path.stat()
    if about.st_size <= HASHED:
        return [str(path), hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()]
    return [str(path), about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]


def template_identity(template: Any) -> dict[str, Any]:
    """All that a template's samples hang on, in the parts that a difference is told by."""
    told = {name: value for name, value in template.to_dict().items() if name not in ("fixed", "source")}
    if "strftime_now" in json.dumps(told["chat_template"]):
        told["date"] = template.fixed["now"][:10]
    return {**told, "tokenizer": tokenizer_identity(template.tokenizer)}


def tokenizer_identity(tokenizer: Any) -> str:
    """A fingerprint of vocabulary, merges and added tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    told = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    added = sorted((at, repr(token)) for at, token in getattr(tokenizer, "added_tokens_decoder", {}).items())
    parts = [type(tokenizer).__name__, told, repr(added), repr(sorted(tokenizer.special_tokens_map.items()))]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


@cache
def code_identity(root: Path = Path(__file__).parents[1]) -> str:
    """Changes with this package's code and tables, and with the libraries that render and tokenise."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for end in ("*.py", "*.json", "*.jsonl", "*.jinja", "*.yaml") for path in root.rglob(end)):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    for library in ("transformers", "tokenizers", "jinja2"):
        digest.update(version(library).encode())
    return digest.hexdigest()


def key_of(told: Any) -> str:
    """A short name for a JSON value."""
    text = json.dumps(told, sort_keys=True, ensure_ascii=False, default=repr)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
