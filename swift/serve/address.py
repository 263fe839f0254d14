"""Where a server listens."""

from __future__ import annotations

import socket

from swift.errors import SwiftError


def bind(host: str, port: int, names: tuple[str, str] = ("host", "port")) -> socket.socket:
    """Take an address, before a model is looked for; nobody can connect yet.

    Args:
        names: the options that name it.

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
            f"--{names[0]} {host} --{names[1]} {port}: {why}", fix=f"choose another --{names[1]}; 0 takes a free one"
        ) from None
    return found
