"""Downloads from the Hugging Face hub, or from the mirror that HF_ENDPOINT names."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from swift.errors import SwiftError
from swift.hub.files import MAY_BE_ABSENT, files_to_skip
from swift.hub.nearby import reachable

NAME = "Hugging Face"
ENDPOINT = "https://huggingface.co"


def download(
    repo: str, *, kind: str, revision: str | None = None, token: str | None = None, weights: bool = True
) -> Path:
    """Folder of the snapshot of `repo` in the hub's cache (HF_HOME), downloaded as far as it is not there yet.

    Args:
        repo: `owner/name`.
        kind: `model` or `dataset`.
        revision: branch, tag or commit; None is the main branch.
        token: access token; None takes HF_TOKEN or the one `hf auth login` keeps.
        weights: False leaves the weights of a model out.

    Raises:
        SwiftError: no such repository or revision, no access, no network and nothing in the cache.
    """
    from huggingface_hub import HfApi, snapshot_download

    if _offline() and (cached := _from_cache(repo, kind, revision)) is not None:
        return cached
    place: dict[str, Any] = {"endpoint": os.environ.get("HF_ENDPOINT") or None, "token": token}
    try:
        skip = None
        if not _offline() and not reachable(place["endpoint"] or ENDPOINT):
            raise ConnectionError(place["endpoint"] or ENDPOINT)
        if kind == "model" and not _offline():
            files = HfApi(**place).model_info(repo, revision=revision, timeout=20).siblings or []
            skip = files_to_skip((file.rfilename for file in files), weights=weights)
        folder = snapshot_download(
            repo, revision=revision, repo_type=kind, ignore_patterns=skip, cache_dir=_cache(), **place
        )
    except Exception as error:  # the HTTP library below is requests, httpx or httpx2, by version
        if not _is_download_error(error):
            raise
        cached = _from_cache(repo, kind, revision) if _is_network(error) else None
        if cached is None:
            raise _mistake(error, repo, kind, revision) from error
        return cached
    return Path(folder)


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def _cache() -> str | None:
    """The cache as the environment says now: huggingface_hub reads it once, when it is first imported."""
    if own := os.environ.get("HF_HUB_CACHE"):
        return own
    home = os.environ.get("HF_HOME")
    return str(Path(home).expanduser() / "hub") if home else None


def _is_download_error(error: Exception) -> bool:
    """Whether the hub, the network or the disk raised it; anything else is a bug and keeps its traceback."""
    libraries = ("huggingface_hub", "httpx", "httpx2", "requests", "hf_xet")
    return isinstance(error, OSError) or any(base.__module__.split(".")[0] in libraries for base in type(error).__mro__)


def _is_network(error: Exception) -> bool:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    if isinstance(error, (GatedRepoError, RepositoryNotFoundError, HFValidationError)):
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return False
    status = getattr(getattr(error, "response", None), "status_code", None)
    return not isinstance(error, HfHubHTTPError) or status is None or status >= 500


def _from_cache(repo: str, kind: str, revision: str | None) -> Path | None:
    """The snapshot that an earlier download left, where the hub cannot be reached now."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            repo,
            revision=revision,
            repo_type=kind,
            ignore_patterns=MAY_BE_ABSENT if kind == "model" else None,
            local_files_only=True,
            cache_dir=_cache(),
        )
    except (OSError, ValueError):  # LocalEntryNotFoundError is both
        return None
    return Path(found)


def _mistake(error: Exception, repo: str, kind: str, revision: str | None) -> SwiftError:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = os.environ.get("HF_ENDPOINT") or ENDPOINT
    page = f"{where}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    other = "look on ModelScope instead: --use_hf false"
    if isinstance(error, GatedRepoError):
        fix = f"ask for access on {page}, then set HF_TOKEN to a token of that account; or {other}."
        return SwiftError(f"the {kind} {repo!r} on {NAME} is gated: your account may not download it.", fix=fix)
    if isinstance(error, RevisionNotFoundError):
        return SwiftError(
            f"the {kind} {repo!r} on {NAME} has no revision {revision!r}.",
            where=page,
            fix="its page lists branches and tags; leave --model_revision out for the main one",
        )
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return SwiftError(
            f"there is no {kind} {repo!r} on {NAME}, or it is private.",
            where=page,
            fix=f"check the name; set HF_TOKEN if it is private; or {other}.",
        )
    if _is_network(error):
        return SwiftError(
            f"the {kind} {repo!r} cannot be downloaded: {NAME} cannot be reached, and the cache has no copy of it.",
            where=where,
            fix=f"check the network, set HF_ENDPOINT to a mirror, pass a local folder, or {other}.",
        )
    return SwiftError(f"the {kind} {repo!r} cannot be downloaded from {NAME}: {error}", where=page, fix=other)
