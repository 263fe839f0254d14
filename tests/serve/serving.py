"""Servers over tiny models, and over an engine that says what it is told."""

from __future__ import annotations

import threading
import time
from typing import Any

from swift.engines import Engine, InferRequest, PtEngine, RequestConfig
from swift.engines.answers import Answer, Ticket
from swift.engines.prompts import encode_prompt
from swift.serve.server import Server
from swift.serve.service import Limits, Service
from swift.templates import load_template
from tests.tiny import make_model, make_tokenizer


def tiny_engine(batch: int = 8, **template: Any) -> PtEngine:
    return PtEngine(
        (make_model(max_position_embeddings=2048), load_template(make_tokenizer(), **template)), max_batch_size=batch
    )


def serve(engine: Engine, **limits: Any) -> Server:
    """A server that is not started yet."""
    return Server(Service(engine, "tiny", limits=Limits(**limits)))


class Scripted(Engine):
    """Answers each request with the same text, token by token.

    Args:
        text: the answer.
        hold: answers wait for it before each token.
    """

    context = 2048

    def __init__(self, text: str, hold: threading.Event | None = None, **template: Any) -> None:
        self.tokenizer = make_tokenizer()
        self.template = load_template(self.tokenizer, **template)
        self.ids = [*self.tokenizer.encode(text), self.tokenizer.eos_token_id]
        self.hold = hold
        self.tickets: list[Ticket] = []
        self.requests: list[InferRequest] = []
        self.ended = threading.Semaphore(0)

    def encode(self, request: InferRequest) -> list[int]:
        return encode_prompt(self.template, request, self.context)

    def submit(self, request: InferRequest, config: RequestConfig, listener: Any, *, whole: bool = False) -> Ticket:
        self.requests.append(request)
        ticket = Ticket(request, config, self.encode(request), self.template, self.tokenizer, listener, whole=whole)
        answers = [
            Answer(ticket, index, limit=config.max_tokens or 1000, ends={self.ids[-1]}, picker=None)
            for index in range(config.n)
        ]
        self.tickets.append(ticket)
        threading.Thread(target=self._answer, args=(answers,), daemon=True).start()
        return ticket

    def _answer(self, answers: list[Answer]) -> None:
        for token in self.ids:
            for answer in answers:
                while self.hold is not None and not self.hold.is_set() and not answer.over:
                    time.sleep(0.005)
                if not answer.over:
                    answer.push(token)
        self.ended.release()
