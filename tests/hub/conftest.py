"""A stand-in for both hubs on 127.0.0.1, speaking as much of their protocols as a snapshot download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

COMMIT = "0" * 39 + "1"


@dataclass
class Hub:
    """What the stand-in serves, and what it was asked for."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    url: str = ""

    def add(self, repo: str, files: dict[str, bytes | str]) -> None:
        self.repos[repo] = {name: text if isinstance(text, bytes) else text.encode() for name, text in files.items()}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append(f"{self.command} {unquote(self.path)}")
        self.hub.tokens.add(self.headers.get("Authorization", "").removeprefix("Bearer "))
        parts = unquote(url.path).strip("/").split("/")
        if parts[:2] == ["api", "v1"]:
            self._modelscope(parts[2:], {key: value[0] for key, value in parse_qs(url.query).items()})
        elif parts[0] == "api":
            self._hf_api("/".join(parts[2:4]), parts[4:])
        else:
            parts = parts[1:] if parts[0] == "datasets" else parts
            self._hf_file("/".join(parts[:2]), "/".join(parts[4:]))

    def _hf_api(self, repo: str, rest: list[str]) -> None:
        if not self._open(repo, rest[1] if len(rest) > 1 else "main"):
            return
        files = self.hub.repos[repo]
        if rest[:1] == ["tree"]:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": _sha(data)} for name, data in files.items()
            ]
            return self._json(entries)
        self._json({"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})

    def _hf_file(self, repo: str, name: str) -> None:
        if self._open(repo, "main"):
            data = self.hub.repos[repo][name]
            self._send(200, data, {"ETag": f'"{_sha(data)}"', "X-Repo-Commit": COMMIT})

    def _open(self, repo: str, revision: str) -> bool:
        code = None
        if repo not in self.hub.repos:
            code = (401, "RepoNotFound")
        elif repo in self.hub.gated:
            code = (403, "GatedRepo")
        elif revision not in ("main", COMMIT):
            code = (404, "RevisionNotFound")
        if code is not None:
            self._send(code[0], b"{}", {"X-Error-Code": code[1], "X-Error-Message": code[1]})
        return code is None

    def _modelscope(self, parts: list[str], query: dict[str, str]) -> None:
        repo, rest = "/".join(parts[1:3]), parts[3:]
        if repo not in self.hub.repos:
            return self._json({"Code": 404, "Message": "not found", "Success": False}, 404)
        if repo in self.hub.gated:
            return self._json({"Code": 403, "Message": "no access", "Success": False}, 403)
        files = self.hub.repos[repo]
        if rest == ["repo"]:
            return self._send(200, files[query["FilePath"]], {})
        entries = [
            {"Path": name, "Name": name, "Type": "blob", "Size": len(data), "Revision": COMMIT, "Sha256": _sha256(data)}
            for name, data in files.items()
        ]
        data = {"Files": entries, "TotalCount": len(entries)} if "repo" in rest else {"Id": 1, "Name": repo, "Type": 0}
        self._json({"Code": 200, "Success": True, "Data": data, "TotalCount": len(entries)})

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        start, whole = 0, len(body)
        if (wanted := self.headers.get("Range", "")).startswith("bytes=") and status == 200:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last or whole - 1)
            status, body = 206, body[start : end + 1]
            headers = headers | {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{whole}"}
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sha(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _forget_modelscope_settings() -> None:
    """The package keeps endpoint and cache of its first call for the whole process."""
    try:
        from modelscope_hub.config import set_default_config
    except ImportError:
        return
    set_default_config(None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A running stand-in that both hubs' variables point at, with caches in the test's own folder."""
    served = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": served}))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    for name in ("USE_HF", "HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", served.url)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "ms_home"))
    _forget_modelscope_settings()
    yield served
    _forget_modelscope_settings()
    server.shutdown()
    server.server_close()
