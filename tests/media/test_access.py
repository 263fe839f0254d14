"""Where media may come from."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from swift.errors import SwiftError
from swift.media import EVERYTHING, Access, access
from swift.media.access import _public

DATA = "data:text/plain;base64," + base64.b64encode(b"inside").decode()


class Host(BaseHTTPRequestHandler):
    """Answers by path: /moved goes on to /file, /round to itself, /away and /inside to other hosts; /slow drips."""

    def do_GET(self) -> None:
        goes = {"/moved": "/file", "/round": "/round", "/away": "http://elsewhere.example/file"}.get(self.path)
        if self.path == "/inside":
            goes = f"http://inside.example:{self.server.server_address[1]}/file"
        if goes:
            self.send_response(302)
            self.send_header("location", goes)
        else:
            self.send_response(200 if self.path in ("/file", "/large", "/slow") else 404)
        self.end_headers()
        if self.path == "/file":
            self.wfile.write(b"fetched")
        if self.path == "/large":
            self.wfile.write(b"x" * 5000)
        with suppress(OSError):
            while self.path == "/slow":
                self.wfile.write(b"x")
                time.sleep(0.05)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_address[1]}"
    server.shutdown()


def test_bytes_and_data_urls_need_no_leave() -> None:
    assert Access().read(DATA) == b"inside"
    assert Access().read(b"own") == Access().read({"bytes": b"own", "path": None}) == b"own"


def test_files_of_one_folder(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.txt").write_bytes(b"a")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (tmp_path / "open" / "link.txt").symlink_to(tmp_path / "secret.txt")
    allowed = Access(folder=tmp_path / "open")
    assert allowed.read(f"file://{tmp_path}/open/a.txt") == allowed.read(str(tmp_path / "open" / "a.txt")) == b"a"
    for name in (f"{tmp_path}/secret.txt", f"{tmp_path}/open/../secret.txt", f"{tmp_path}/open/link.txt", "/nowhere"):
        with pytest.raises(SwiftError, match="outside the folder"):
            allowed.read(f"file://{name}")
    with pytest.raises(SwiftError, match="there is no file"):
        allowed.read(f"file://{tmp_path}/open/b.txt")
    with pytest.raises(SwiftError, match="may not be named"):
        Access().read(f"file://{tmp_path}/open/a.txt")
    assert EVERYTHING.read(tmp_path / "secret.txt") == b"secret"


def test_hosts_by_name(host: str) -> None:
    allowed = Access(domains=("localhost",), private=True)
    assert allowed.read(f"{host}/file") == allowed.read(f"{host}/moved") == b"fetched"
    for url, told in (
        (f"{host}/round", "redirected more than 3 times"),
        (f"{host}/away", "may not be fetched from elsewhere.example"),
        (f"{host}/none", "answers 404"),
        ("http://notlocalhost/file", "may not be fetched from notlocalhost"),
        ("http://localhost@evil.example/file", "may not be fetched from evil.example"),
        ("gopher://localhost/file", "has the scheme gopher"),
    ):
        with pytest.raises(SwiftError, match=told):
            allowed.read(url)
    with pytest.raises(SwiftError, match="may not be fetched from localhost"):
        Access().read(f"{host}/file")


def test_a_redirect_to_a_private_address_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = socket.getaddrinfo

    def asked(name: str, *args: Any, **kwargs: Any) -> Any:
        return found("127.0.0.1" if name == "inside.example" else name, *args, **kwargs)

    monkeypatch.setattr(access.socket, "getaddrinfo", asked)
    monkeypatch.setattr(access, "_public", lambda address: next(answers))
    answers = iter([True] * 8)
    assert Access(domains=("localhost", "inside.example")).read(f"{host}/inside") == b"fetched"
    monkeypatch.undo()
    monkeypatch.setattr(access.socket, "getaddrinfo", asked)
    with pytest.raises(SwiftError, match=r"inside\.example has a private address"):
        Access(domains=("inside.example",)).read("http://inside.example:1/file")


def test_the_connection_goes_to_the_address_that_was_checked(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A name that means another address at the second look must not be looked at twice.
    found, looks = socket.getaddrinfo, []

    def asked(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "turning.example":
            looks.append(name)
            return found("127.0.0.1" if len(looks) == 1 else "127.0.0.9", *args, **kwargs)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    url = host.replace("localhost", "turning.example")
    assert Access(domains=("turning.example",), private=True).read(f"{url}/file") == b"fetched"
    assert looks == ["turning.example"]


def test_a_host_that_drips_is_left(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "SECONDS", 0.5)
    with pytest.raises(SwiftError, match=r"cannot be fetched: not within 0\.5 seconds"):
        Access(domains=("localhost",), private=True).read(f"{host}/slow")


@pytest.mark.parametrize("url", ["http://[x/a.png", "http://localhost:99999999/a.png", "https://", "http://\x00/a"])
def test_broken_urls(url: str) -> None:
    with pytest.raises(SwiftError):
        Access(domains=("*",), private=True).read(url)


def test_private_addresses_are_refused_even_where_the_host_is_allowed(host: str) -> None:
    for domains in (("localhost",), ("*",)):
        with pytest.raises(SwiftError, match="localhost has a private address"):
            Access(domains=domains).read(f"{host}/file")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1%eth0", "fc00::1",
     "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "fec0::1", "100.64.0.1", "224.0.0.1", "2002:7f00:1::"],
)  # fmt: skip
def test_no_address_of_this_network_is_public(address: str) -> None:
    assert not _public(address)
    assert _public("8.8.8.8") and _public("2606:4700:4700::1111")


def test_sizes(host: str, tmp_path: Path) -> None:
    allowed = Access(folder=tmp_path, domains=("localhost",), private=True, most_bytes=1000)
    (tmp_path / "large").write_bytes(b"x" * 1001)
    large = "data:x;base64," + base64.b64encode(b"x" * 2000).decode()
    for media in (f"{host}/large", str(tmp_path / "large"), large, b"x" * 1001):
        with pytest.raises(SwiftError, match="has more than"):
            allowed.read(media)


def test_what_is_none_of_them() -> None:
    for media, told in (
        (7, "neither a file, nor a URL"),
        ("", "neither a file, nor a URL"),
        ({"bytes": None}, "neither a file, nor a URL"),
        ("data:text/plain,words", "holds no base64"),
        ("data:x;base64,a%", "broken base64"),
    ):
        with pytest.raises(SwiftError, match=told):
            EVERYTHING.read(media)
