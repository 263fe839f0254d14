"""Where a server listens."""

from __future__ import annotations

import socket

from swift.errors import SwiftError


def bind(host: str, port: int) -> socket.socket:
    """Take an address, before a model is looked for; nobody can connect yet.

    Raises:
        SwiftError: it is taken, or none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SwiftError(
            f"--host {host} --port {port}: {why}", fix="choose another --port; 0 takes a free one"
        ) from None
    return found
