"""Figures for Prometheus."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from swift.engines.base import Response
from swift.errors import SwiftError
from swift.serve.errors import ApiError

if TYPE_CHECKING:
    from swift.serve.service import Service

LOG = logging.getLogger("swift.serve")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """What one server counts."""

    def __init__(self, service: Service) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter("swift_requests", "Requests by path and status", ["path", "status"], registry=registry)
        self._service, self._told, self._at = service, [0.0, 0.0, 0.0], time.monotonic()
        self.answered = Counter("swift_answered_requests", "Requests that have their answers", registry=registry)
        self.prompt_tokens = Counter("swift_prompt_tokens", "Tokens of prompts answered", registry=registry)
        self.generated_tokens = Counter("swift_generated_tokens", "Tokens of whole answers", registry=registry)
        self.first = Histogram(
            "swift_time_to_first_token_seconds", "Of streamed answers", buckets=SECONDS, registry=registry
        )
        self.between = Histogram(
            "swift_time_between_tokens_seconds",
            "Between pieces of streamed answers",
            buckets=SECONDS,
            registry=registry,
        )
        self.whole = Histogram(
            "swift_request_seconds", "From a request to the end of its answers", buckets=SECONDS, registry=registry
        )
        taken = Gauge("swift_answers_open", "Answers under way or waiting", registry=registry)
        taken.set_function(lambda: service.open)
        load = service.engine.load
        if load is not None:
            running = Gauge("swift_answers_running", "Answers in the engine's batch", registry=registry)
            running.set_function(lambda: (service.engine.load or (0, 0))[0])
            waiting = Gauge("swift_answers_waiting", "Answers that have not begun", registry=registry)
            waiting.set_function(lambda: (service.engine.load or (0, 0))[1])

    def note_response(self, response: Response, seconds: float) -> None:
        """A request has its answers."""
        self.answered.inc()
        self.prompt_tokens.inc(response.usage.prompt_tokens)
        self.generated_tokens.inc(response.usage.completion_tokens)
        self.whole.observe(seconds)

    def line(self) -> str:
        """What came since the last line; empty where nothing did."""
        totals = [counter._value.get() for counter in (self.answered, self.prompt_tokens, self.generated_tokens)]
        new = [total - before for total, before in zip(totals, self._told, strict=True)]
        seconds, self._told, self._at = time.monotonic() - self._at, totals, time.monotonic()
        if not any(new):
            return ""
        rates = f"{new[1] / seconds:.1f} prompt tokens/s, {new[2] / seconds:.1f} generated tokens/s"
        return f"{new[0]:.0f} requests answered in {seconds:.0f} s: {rates}; {self._service.open} answers open"

    def note_failure(self, error: BaseException) -> None:
        """Say in the log what a client is not told."""
        if not isinstance(error, (ApiError, SwiftError)):
            LOG.error("an answer failed", exc_info=error)

    def page(self) -> bytes:
        """The figures in Prometheus' form of text."""
        return generate_latest(self._registry)
