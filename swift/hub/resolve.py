"""From what the user writes after `--model` and `--dataset` to a place on this disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swift.errors import SwiftError
from swift.hub import huggingface, modelscope
from swift.hub.demo import demo_model
from swift.hub.files import check_model_folder
from swift.hub.nearby import absent, closest, did_you_mean

_PREFIX = re.compile(r"(hf|ms)::(.+)", re.IGNORECASE | re.DOTALL)
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DATA_FILE = re.compile(r"\.(jsonl|json|csv|tsv|parquet|arrow|txt|gz|bz2|xz|zst)$", re.IGNORECASE)
"""How names of data files end; no hub is asked for them unless `HF::` or `MS::` stands before."""


@dataclass(frozen=True)
class Resolved:
    """Where a model or data set lies on this disk.

    Attributes:
        path: a folder (or, for data, a file).
        hub: `local`, `demo`, `hf` or `ms`.
        reason: why this hub, in words.
    """

    path: Path
    hub: str
    reason: str


def resolve(
    model_id: str,
    *,
    revision: str | None = None,
    use_hf: bool | None = None,
    token: str | None = None,
    download_weights: bool = True,
) -> Resolved:
    """Folder of a model: `demo`, a local folder, or an id on ModelScope or Hugging Face.

    A local folder wins over an id. `HF::` and `MS::` before an id pick its hub; else `use_hf`, else USE_HF, else
    ModelScope, as in ms-swift; Hugging Face where the package modelscope is missing and nothing was asked for.

    Args:
        model_id: what the user wrote.
        revision: branch, tag or commit on the hub.
        use_hf: True for Hugging Face, False for ModelScope, None for the environment's choice.
        token: access token; None takes the hub's own variable (HF_TOKEN, MODELSCOPE_API_TOKEN).
        download_weights: False fetches config and tokenizer only.

    Raises:
        SwiftError: a folder that holds no model, an id that the hub does not have or does not give, no network.
    """
    name = model_id.strip()
    if name == "demo":
        return Resolved(demo_model(), "demo", "the bundled SmolLM2-135M-Instruct")
    if (local := _local(name, "model")) is not None:
        check_model_folder(local)
        return Resolved(local, "local", "a local folder")
    found = _fetch(name, "model", revision, use_hf, token, download_weights, known=("demo",))
    check_model_folder(found.path, name)
    return found


def resolve_adapter(
    adapter_id: str, *, revision: str | None = None, use_hf: bool | None = None, token: str | None = None
) -> Resolved:
    """Folder of an adapter: a local one, or an id on ModelScope or Hugging Face, chosen as in `resolve`.

    Raises:
        SwiftError: no such folder, an id that the hub does not have or does not give, no network.
    """
    name = adapter_id.strip()
    if (local := _local(name, "adapters")) is not None:
        return Resolved(local, "local", "a local folder")
    if "/" not in name and not _PREFIX.fullmatch(name):
        raise absent(name, "adapters", what="folder")
    return _fetch(name, "model", revision, use_hf, token, True, option="adapters", called="adapter")


def resolve_dataset(
    dataset_id: str,
    *,
    revision: str | None = None,
    use_hf: bool | None = None,
    token: str | None = None,
    known: Iterable[str] = (),
    option: str = "dataset",
    hub_is_named: bool = False,
) -> Resolved:
    """Folder or file of a data set: a local path, or an id on ModelScope or Hugging Face, chosen as in `resolve`.

    Args:
        dataset_id: a path or an id, without `#500` or a subset behind it.
        revision: branch, tag or commit on the hub.
        use_hf: True for Hugging Face, False for ModelScope, None for the environment's choice.
        token: access token; None takes the hub's own variable.
        known: names that need no hub, for a suggestion where one is mistyped.
        option: the option that the name came from, for errors.
        hub_is_named: `HF::` or `MS::` stood before it, so it is looked for there whatever it looks like.

    Raises:
        SwiftError: no such file, an id that the hub does not have or does not give, no network.
    """
    name = dataset_id.strip()
    if (local := _local(name, option)) is not None:
        return Resolved(local, "local", "a local folder" if local.is_dir() else "a local file")
    hub_is_named = hub_is_named or _PREFIX.fullmatch(name) is not None
    if not hub_is_named and ("/" not in name or _DATA_FILE.search(name)):
        raise absent(name, option, known)
    return _fetch(name, "dataset", revision, use_hf, token, True, known=known, option=option)


def choose_hub(use_hf: bool | None) -> tuple[str, str]:
    """`hf` or `ms`, and why.

    Raises:
        SwiftError: USE_HF holds something that is neither yes nor no.
    """
    if use_hf is not None:
        return ("hf" if use_hf else "ms"), f"--use_hf {str(use_hf).lower()}"
    value = os.environ.get("USE_HF", "").strip()
    if value:
        if value.lower() in ("1", "true", "yes", "on"):
            return "hf", f"USE_HF={value}"
        if value.lower() in ("0", "false", "no", "off"):
            return "ms", f"USE_HF={value}"
        raise SwiftError(f"USE_HF={value!r} is neither yes nor no.", where="environment", fix="set it to 1 or 0.")
    if modelscope.installed():
        return "ms", "ModelScope is the default; --use_hf true takes Hugging Face"
    return "hf", "ModelScope is the default, but the package modelscope is not installed"


def _local(name: str, option: str) -> Path | None:
    """The path that `name` means; None where it is an id."""
    if _PREFIX.fullmatch(name):
        return None
    path = Path(name).expanduser()
    if path.exists():
        return path.resolve()
    looks_local = name.startswith(("/", "./", "../", "~", ".\\")) or "\\" in name
    if looks_local or not _ID.fullmatch(name):
        raise SwiftError(
            f"there is no file or folder {name!r}, and it is not an id on a hub.",
            where=f"--{option}",
            fix=did_you_mean(closest(name), "check the path; an id looks like owner/name."),
        )
    return None


def _fetch(
    name: str,
    kind: str,
    revision: str | None,
    use_hf: bool | None,
    token: str | None,
    weights: bool,
    *,
    known: Iterable[str] = (),
    option: str | None = None,
    called: str | None = None,
) -> Resolved:
    """Download what a hub has under this id; a name that is a slip of a `known` one is not looked for there."""
    place, known = f"--{option or kind}", set(known)
    prefix = _PREFIX.fullmatch(name)
    if prefix is not None:
        hub, reason = prefix[1].lower(), f"the prefix {prefix[1]}::"
        name = prefix[2].strip()
    else:
        hub, reason = choose_hub(use_hf)
    close = [] if prefix else closest(name, known)
    plain = "/" not in name
    if not _ID.fullmatch(name) or (plain and (hub == "ms" or not known.isdisjoint(close))):
        also = f"; HF::{name} looks for it there all the same" if plain and hub == "hf" else ""
        raise SwiftError(
            f"{name!r} is neither here nor an id on a hub.",
            where=place,
            fix=did_you_mean(close, f"check the path; an id looks like owner/name{also}."),
        )
    download = huggingface.download if hub == "hf" else modelscope.download
    try:
        return Resolved(download(name, kind=kind, revision=revision, token=token, weights=weights), hub, reason)
    except SwiftError as error:
        what = error.what.replace(f"{kind} {name!r}", f"{called or kind} {name!r}", 1)
        fix = did_you_mean(close, error.fix or "give another")
        raise SwiftError(f"{place} {name}: {what}", where=error.where, fix=fix) from error
