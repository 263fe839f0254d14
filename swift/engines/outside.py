"""The engine of a back end that runs in a process of its own, spoken to like any server."""

from __future__ import annotations

from typing import Any

import httpx

from swift.engines.remote import RemoteEngine
from swift.environments.child import Child
from swift.environments.place import Environment
from swift.errors import SwiftError

AT_ONCE = 1024
"""Requests under way at once; the back end makes the others wait by itself."""


class OutsideEngine(RemoteEngine):
    """Answers by a process that it starts, which ends with this one.

    Args:
        environment: of the back end; None is this process's own.
        options: of `swift deploy`, by name.
        more: as `Child` takes them.

    Raises:
        SwiftError: the process does not start; with its own words.
    """

    def __init__(self, environment: Environment | None, options: dict[str, Any], **more: Any) -> None:
        self.child = Child(environment, options, **more)
        super().__init__(self.child.base_url, api_key=self.child.api_key, max_batch_size=AT_ONCE)
        self.reads_media = self.says_reads_media is True

    def close(self) -> None:
        """End the process."""
        super().close()
        self.child.close()

    def _unreachable(self, error: httpx.HTTPError) -> SwiftError:
        return self.child.ended() if self.child.is_over() else super()._unreachable(error)
