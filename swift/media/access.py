"""Where media may come from: files of a folder, hosts by name, never a private network on a stranger's word."""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from swift.errors import SwiftError

SECONDS = 60.0
"""The longest that one fetch may take."""
REDIRECTS = 3
CHUNK = 1 << 16
ANY = "*"
"""Every host with a public address, among domains."""
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""Addresses of IPv4 that IPv6 networks reach (RFC 6052)."""


@dataclass(frozen=True)
class Access:
    """What may be read for a request.

    Attributes:
        folder: files below it may be named; None means no files.
        domains: hosts that URLs may name, with all below them; `*` means every one.
        private: hosts may have addresses of this machine and its networks.
        most_bytes: the largest medium.
        most_together: all media of a request together, in bytes.
    """

    folder: Path | None = None
    domains: Sequence[str] = ()
    private: bool = False
    most_bytes: int = 64 << 20
    most_together: int = 256 << 20

    def read(self, media: Any) -> bytes:
        """The bytes of a file, a URL, a data URL, or an object with `bytes`, `path` or `url`.

        Raises:
            SwiftError: it may not be read, is not there, or is too large.
        """
        media = value_in(media)
        if isinstance(media, (bytes, bytearray)):
            return self._checked(bytes(media))
        if isinstance(media, Path):
            return self._file(media)
        if not isinstance(media, str) or not media:
            raise SwiftError(f"{_short(media)} is neither a file, nor a URL, nor bytes", fix="give one of them")
        # A data URL must not go through urlsplit, which remembers what it was given.
        scheme, colon, _ = media[:12].partition(":")
        if colon and scheme.lower() == "data":
            return self._data(media)
        if "://" not in media[:12]:
            return self._file(Path(media))
        if scheme.lower() in ("http", "https"):
            return self._fetch(media)
        if scheme.lower() == "file":
            return self._file(Path(unquote(media.partition("://")[2].partition("?")[0])))
        raise SwiftError(f"{_short(media)} has the scheme {scheme}", fix="give an http, https or data URL")

    def _checked(self, data: bytes) -> bytes:
        if len(data) > self.most_bytes:
            raise self._too_large("a medium")
        return data

    def _too_large(self, what: str) -> SwiftError:
        return SwiftError(f"{what} has more than {self.most_bytes / (1 << 20):g} MiB", fix="send a smaller one")

    def _data(self, url: str) -> bytes:
        head, comma, body = url.partition(",")
        if not comma or not head.endswith(";base64"):
            raise SwiftError("a data URL holds no base64", fix="write data:image/png;base64,…")
        if len(body) > self.most_bytes * 4 // 3 + 4:
            raise self._too_large("a medium")
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise SwiftError("a data URL holds broken base64", fix="encode the file again") from None

    def _file(self, file: Path) -> bytes:
        name = _short(file)
        if self.folder is None:
            raise SwiftError("files of this machine may not be named", fix="send the file itself as a data URL")
        try:
            found = file.expanduser().resolve()
            # What lies elsewhere is not told apart from what is not there.
            if not found.is_relative_to(self.folder.resolve()):
                raise SwiftError(f"{name} lies outside the folder that may be read", fix="name a file inside it")
            if not found.is_file():
                raise SwiftError(f"there is no file {name}", fix="name a file that is there")
            if found.stat().st_size > self.most_bytes:
                raise self._too_large(name)
            return found.read_bytes()
        except (OSError, ValueError, RuntimeError) as error:
            told = error.strerror if isinstance(error, OSError) else _short(error)
            raise SwiftError(f"{name} cannot be read: {told}", fix="name a file that is there") from None

    def _fetch(self, url: str) -> bytes:
        asked = url
        try:
            for _ in range(REDIRECTS + 1):
                self._check_host(url)
                found, moved = self._get(url)
                if found is not None:
                    return found
                url = urljoin(url, moved)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SwiftError(f"{_short(asked)} cannot be fetched: {_short(error)}", fix="send a data URL") from None
        raise SwiftError(f"{_short(asked)} is redirected more than {REDIRECTS} times", fix="send a data URL")

    def _check_host(self, url: str) -> None:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").lower()
        if parts.scheme not in ("http", "https") or not host:
            raise SwiftError(f"{_short(url)} is no http or https URL", fix="send a data URL")
        if not any(_within(host, domain) for domain in self.domains):
            raise SwiftError(f"media may not be fetched from {_short(host)}", fix="send a data URL")

    def _get(self, url: str) -> tuple[bytes | None, str]:
        """The bytes, or where they have gone; the connection goes to the address that was checked."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        address = self._address(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        if parts.scheme == "https":
            connection: Any = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=SECONDS, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=SECONDS)
        connection._create_connection = lambda _, timeout, source: socket.create_connection(address, timeout, source)
        with closing(connection):
            connection.connect()
            return self._read(connection, parts, url)

    def _read(self, connection: Any, parts: SplitResult, url: str) -> tuple[bytes | None, str]:
        # Of an answer that ends with its connection http.client lets go before it is read.
        with _ending(connection.sock) as late:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"User-Agent": "swift", "Accept": "*/*"})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308) and answer.getheader("location"):
                return None, answer.getheader("location")
            if answer.status != 200:
                raise SwiftError(f"{_short(url)} answers {answer.status}", fix="give a URL that can be fetched")
            data = bytearray()
            while chunk := answer.read1(CHUNK):
                data += chunk
                if len(data) > self.most_bytes:
                    raise self._too_large(f"what {_short(url)} holds")
            if late.is_set():
                raise TimeoutError(f"not within {SECONDS:g} seconds")
            return bytes(data), ""

    def _address(self, host: str, port: int) -> tuple[str, int]:
        """An address of a host, all of which must be public."""
        found = [each[4][0] for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        if not self.private and not all(_public(str(each)) for each in found):
            raise SwiftError(f"{_short(host)} has a private address", fix="send a data URL")
        return str(found[0]), port


EVERYTHING = Access(folder=Path("/"), domains=(ANY,), private=True, most_bytes=4 << 30, most_together=16 << 30)
"""What the user of this process may name: every file and every URL."""


def value_in(media: Any) -> Any:
    """What an object with `bytes`, `path` or `url` holds; anything else is itself."""
    if not isinstance(media, dict):
        return media
    return next((media[key] for key in ("bytes", "path", "url") if media.get(key)), None)


@contextmanager
def _ending(connected: socket.socket) -> Iterator[threading.Event]:
    """End a connection that has taken too long, however slowly its bytes come."""
    late = threading.Event()

    def end() -> None:
        late.set()
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _within(host: str, domain: str) -> bool:
    domain = domain.lower().lstrip(".")
    return domain == ANY or host == domain or host.endswith(f".{domain}")


def _public(address: str) -> bool:
    found: Any = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 6:
        if found.is_site_local:
            return False
        inner = found.ipv4_mapped or found.sixtofour
        if found in TRANSLATED:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return bool(inner.is_global)
    return bool(found.is_global) and not found.is_multicast


def _short(told: Any) -> str:
    text = str(told)
    return text if len(text) <= 80 else text[:77] + "…"
