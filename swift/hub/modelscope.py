"""Downloads from ModelScope (https://modelscope.cn), through the package `modelscope`."""

from __future__ import annotations

import importlib.util
import inspect
import os
from pathlib import Path
from typing import Any

from swift.errors import SwiftError, first_line
from swift.hub.files import files_to_skip
from swift.hub.nearby import reachable

NAME = "ModelScope"


def installed() -> bool:
    """Whether the package `modelscope` is there, without importing it."""
    return importlib.util.find_spec("modelscope") is not None


def download(
    repo: str, *, kind: str, revision: str | None = None, token: str | None = None, weights: bool = True
) -> Path:
    """Folder of the snapshot of `repo` in ModelScope's cache (MODELSCOPE_CACHE).

    Args:
        repo: `owner/name`.
        kind: `model` or `dataset`.
        revision: branch, tag or commit; None is ModelScope's default.
        token: access token; None takes MODELSCOPE_API_TOKEN or the one `modelscope login` keeps.
        weights: False leaves the weights of a model out.

    Raises:
        SwiftError: the package is missing, no such repository, no access, or no network and nothing in the cache.
    """
    if not installed():
        raise SwiftError(
            f"{repo!r} is to come from {NAME}, and the package modelscope is not installed.",
            fix="pip install 'ms-swift[modelscope]'; or take it from Hugging Face: --use_hf true",
        )
    from modelscope import snapshot_download

    token = token or os.environ.get("MODELSCOPE_API_TOKEN")  # older releases do not read it for downloads
    raised = _raised()
    arguments: dict[str, Any] = {"revision": revision, "repo_type": kind, **_token_argument(snapshot_download, token)}
    try:
        if not reachable(_endpoint()):
            raise ConnectionError(_endpoint())
        skip = _skip(repo, revision, token, weights) if kind == "model" else None
        return Path(snapshot_download(repo, ignore_patterns=skip, **arguments))
    except raised as error:
        try:
            return Path(snapshot_download(repo, local_files_only=True, **arguments))
        except raised:
            raise _mistake(error, repo, kind) from error


def _raised() -> tuple[type[Exception], ...]:
    """What a download fails with: the package's own classes, which have no common base before 1.30, and requests'."""
    from modelscope.hub import errors

    own = (value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception))
    return OSError, ValueError, *own


def _endpoint() -> str:
    """The address that downloads come from."""
    place = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    return place if "://" in place else f"https://{place}"


def _token_argument(function: Any, token: str | None) -> dict[str, str]:
    """`{"token": token}` for a function of the package that takes one; releases before 1.30 want a login instead."""
    if not token:
        return {}
    if "token" in inspect.signature(function).parameters:
        return {"token": token}
    from modelscope.hub.api import HubApi

    HubApi().login(token)
    return {}


def _skip(repo: str, revision: str | None, token: str | None, weights: bool) -> list[str]:
    from modelscope.hub.api import HubApi

    where = {"revision": revision} if revision else {}
    files = HubApi(**_token_argument(HubApi.__init__, token)).get_model_files(repo, recursive=True, **where)
    return files_to_skip((file["Path"] for file in files if file.get("Type") != "tree"), weights=weights)


def _mistake(error: Exception, repo: str, kind: str) -> SwiftError:
    """The `SwiftError` for what the package raised."""
    where = _endpoint()
    other = "look on Hugging Face instead: --use_hf true"
    status = _status(error)
    text = str(error)
    if status in (401, 403):
        fix = f"ask for access on its page and set MODELSCOPE_API_TOKEN; or {other}."
        return SwiftError(f"the {kind} {repo!r} on {NAME} is not open to you.", where=where, fix=fix)
    if status == 404 or "not exist" in text.lower() or "not found" in text.lower():
        return SwiftError(
            f"there is no {kind} {repo!r} on {NAME}, or it is private.",
            where=where,
            fix=f"check the name; set MODELSCOPE_API_TOKEN if it is private; or {other}.",
        )
    if isinstance(error, ConnectionError) or "Connection" in type(error).__name__:
        return SwiftError(
            f"the {kind} {repo!r} cannot be downloaded: {NAME} cannot be reached, and the cache has no copy of it.",
            where=where,
            fix=f"check the network, pass a local folder, or {other}.",
        )
    return SwiftError(
        f"the {kind} {repo!r} cannot be downloaded from {NAME}, and the cache has no whole copy of it: "
        f"{first_line(error)}",
        where=where,
        fix=f"check the network, pass a local folder, or {other}.",
    )


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an exception, through its causes."""
    while error is not None:
        for source in (error, getattr(error, "response", None)):
            status = getattr(source, "status_code", None)
            if isinstance(status, int):
                return status
        error = error.__cause__ or error.__context__
    return None
