"""Where media may come from."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from swift.errors import SwiftError
from swift.media import EVERYTHING, Access
from swift.media.access import _public

DATA = "data:text/plain;base64," + base64.b64encode(b"inside").decode()


class Host(BaseHTTPRequestHandler):
    """Answers by path: /moved goes on to /file, /round to itself, /inside to a private address."""

    def do_GET(self) -> None:
        goes = {"/moved": "/file", "/round": "/round", "/away": "http://elsewhere.example/file"}.get(self.path)
        if goes:
            self.send_response(302)
            self.send_header("location", goes)
        else:
            self.send_response(200 if self.path in ("/file", "/large") else 404)
        self.end_headers()
        if self.path == "/file":
            self.wfile.write(b"fetched")
        if self.path == "/large":
            self.wfile.write(b"x" * 5000)

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
    access = Access(folder=tmp_path / "open")
    assert access.read(f"file://{tmp_path}/open/a.txt") == access.read(str(tmp_path / "open" / "a.txt")) == b"a"
    for name in (f"{tmp_path}/secret.txt", f"{tmp_path}/open/../secret.txt", f"{tmp_path}/open/link.txt", "/nowhere"):
        with pytest.raises(SwiftError, match="outside the folder"):
            access.read(f"file://{name}")
    with pytest.raises(SwiftError, match="there is no file"):
        access.read(f"file://{tmp_path}/open/b.txt")
    with pytest.raises(SwiftError, match="may not be named"):
        Access().read(f"file://{tmp_path}/open/a.txt")
    assert EVERYTHING.read(tmp_path / "secret.txt") == b"secret"


def test_hosts_by_name(host: str) -> None:
    access = Access(domains=("localhost",), private=True)
    assert access.read(f"{host}/file") == access.read(f"{host}/moved") == b"fetched"
    for url, told in (
        (f"{host}/round", "redirected more than 3 times"),
        (f"{host}/away", "may not be fetched from elsewhere.example"),
        (f"{host}/none", "answers 404"),
        ("http://notlocalhost/file", "may not be fetched from notlocalhost"),
        ("http://localhost@evil.example/file", "may not be fetched from evil.example"),
        ("gopher://localhost/file", "has the scheme gopher"),
    ):
        with pytest.raises(SwiftError, match=told):
            access.read(url)
    with pytest.raises(SwiftError, match="may not be fetched from localhost"):
        Access().read(f"{host}/file")


def test_private_addresses_are_refused_even_where_the_host_is_allowed(host: str) -> None:
    for domains in (("localhost",), ("*",)):
        with pytest.raises(SwiftError, match="localhost has a private address"):
            Access(domains=domains).read(f"{host}/file")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1%eth0", "fc00::1",
     "::ffff:127.0.0.1", "100.64.0.1", "224.0.0.1", "2002:7f00:1::"],
)  # fmt: skip
def test_no_address_of_this_network_is_public(address: str) -> None:
    assert not _public(address)
    assert _public("8.8.8.8") and _public("2606:4700:4700::1111")


def test_sizes(host: str, tmp_path: Path) -> None:
    access = Access(folder=tmp_path, domains=("localhost",), private=True, most_bytes=1000)
    (tmp_path / "large").write_bytes(b"x" * 1001)
    large = "data:x;base64," + base64.b64encode(b"x" * 2000).decode()
    for media in (f"{host}/large", str(tmp_path / "large"), large, b"x" * 1001):
        with pytest.raises(SwiftError, match="has more than"):
            access.read(media)


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
