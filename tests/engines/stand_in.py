"""A server of the OpenAI protocol that says what a test tells it to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StandIn:
    """Answers each path by what `answers` holds for it, and keeps the bodies and headers that came.

    An answer is an object, a list of chunks that are streamed, `(status, text)`, or a function of the body that gives
    one of these; chunks may be texts, which are sent as they are, and events, which are waited for.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"/v1/models": models("stand-in")}
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.gone = threading.Event()
        """Set when a client leaves in the middle of a stream."""
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.headers.append(dict(self.headers))
                self._send(stand_in.answers.get(self.path, (404, '{"detail": "Not Found"}')))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stand_in.bodies.append(body)
                stand_in.headers.append(dict(self.headers))
                answer = stand_in.answers.get(self.path, (404, '{"detail": "Not Found"}'))
                self._send(answer(body) if callable(answer) else answer)

            def _send(self, answer: Any) -> None:
                stream = isinstance(answer, list)
                status, text = answer if isinstance(answer, tuple) else (200, "" if stream else json.dumps(answer))
                self.send_response(status)
                self.send_header("Content-Type", "text/event-stream" if stream else "application/json")
                self.end_headers()
                if not stream:
                    self.wfile.write(text.encode())
                    return
                try:
                    for chunk in answer:
                        self._send_chunk(chunk)
                except OSError:
                    stand_in.gone.set()

            def _send_chunk(self, chunk: Any) -> None:
                if isinstance(chunk, threading.Event):
                    while not chunk.wait(0.02):
                        self.wfile.write(b": waiting\n\n")
                    return
                text = chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk, ensure_ascii=False)}\r\n\r\n"
                self.wfile.write(text.encode())
                self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def models(*names: str, owner: str = "someone") -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": owner} for name in names]}


def chunk(
    delta: dict[str, Any] | None = None, reason: str | None = None, index: int = 0, **more: Any
) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta or {}, "finish_reason": reason, **more}]}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


DONE = "data: [DONE]\n\n"
