"""`swift deploy` from Python: a server in a process of its own for the time of a `with` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from swift.config.commands import DeployConfig
from swift.engines.backends import given_options
from swift.environments.child import Child


@contextmanager
def run_deploy(args: DeployConfig, return_url: bool = False) -> Iterator[Any]:
    """Serve with `DeployArguments(...)`: gives the port, once it listens, and ends the server afterwards.

    Args:
        args: options of `swift deploy`; without a port a free one is taken.
        return_url: give the URL that clients take, `http://…/v1`, in place of the port.

    Raises:
        SwiftError: it ends before it serves; with its own words.
    """
    child = Child(None, {"port": 0} | given_options(args), private=False)
    try:
        yield child.base_url if return_url else urlsplit(child.base_url).port
    finally:
        child.close()
