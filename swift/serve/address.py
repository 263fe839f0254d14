"""Where a server listens."""

from __future__ import annotations

import errno
import socket

from swift.errors import SwiftError


def bind(host: str, port: int, names: tuple[str, str] = ("host", "port")) -> socket.socket:
    """Take an address, before a model is looked for; nobody can connect yet.

    Args:
        names: the options that name it.

    Raises:
        SwiftError: it is taken, or none of this machine's.
    """
    found = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, UnicodeError) as error:
        if found is not None:
            found.close()
        why = getattr(error, "strerror", None) or str(error)
        taken = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        fix = (
            f"choose another --{names[1]}; 0 takes a free one"
            if taken
            else f"--{names[0]} is an address of this machine"
        )
        raise SwiftError(f"--{names[0]} {host} --{names[1]} {port}: {why}", fix=fix) from None
    return found
