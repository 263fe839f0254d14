"""Several processes with the same model, among which requests are shared out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from threading import Lock
from typing import Any

from swift.engines.base import Delta, Engine, InferRequest, Listener, RequestConfig, Ticket
from swift.engines.outside import OutsideEngine
from swift.environments.place import Environment
from swift.errors import SwiftError

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
"""What the processes serve with."""


class Copies(Engine):
    """Answers by the process that has the least to do; each has its share of the devices.

    Args:
        count: processes.
        environment: of the back end; None is this process's own.
        options: of `swift deploy`, by name.

    Raises:
        SwiftError: there are fewer devices, or a process does not start.
    """

    def __init__(self, count: int, environment: Environment | None, options: dict[str, Any]) -> None:
        if environment is None and (missing := [name for name in NEEDED if find_spec(name) is None]):
            raise SwiftError(
                f"NPROC_PER_NODE={count} needs {', '.join(missing)}, which is not installed",
                fix="pip install 'ms-swift[serve]'",
            )
        shares = device_shares(count)

        def start(place: int) -> OutsideEngine | SwiftError:
            try:
                return OutsideEngine(environment, options, name=f"process {place}", variables=shares[place])
            except SwiftError as error:
                return error

        with ThreadPoolExecutor(count) as pool:
            started = list(pool.map(start, range(count)))
        self.engines = [each for each in started if isinstance(each, OutsideEngine)]
        for each in started:
            if isinstance(each, SwiftError):
                self.close()
                raise each
        self._open, self._lock = [0] * count, Lock()

    def submit(
        self, request: InferRequest, config: RequestConfig, listener: Listener, *, whole: bool = False
    ) -> Ticket:
        """Send a request to one of the processes; the listener is told in the thread of the connections.

        Raises:
            SwiftError: the protocol cannot carry the request.
        """
        with self._lock:
            place = self._open.index(min(self._open))
            self._open[place] += 1

        def over() -> None:
            with self._lock:
                self._open[place] -= 1

        def told(delta: Delta) -> None:
            if delta.response is not None or delta.error is not None:
                over()
            listener(delta)

        try:
            return self.engines[place].submit(request, config, told, whole=whole)
        except BaseException:
            over()
            raise

    def close(self) -> None:
        """End the processes."""
        for each in self.engines:
            with suppress(SwiftError):
                each.close()


def device_shares(count: int) -> Sequence[Mapping[str, str]]:
    """The environment of each process: its share of the CUDA devices, or of the processors.

    Raises:
        SwiftError: there are fewer devices than processes, or devices of another kind.
    """
    import torch

    from swift.models.devices import pick_device

    kind = pick_device()[0].type
    if kind not in ("cpu", "cuda"):
        raise SwiftError(
            f"NPROC_PER_NODE={count}: several processes share out CUDA devices or processors, not {kind}",
            fix="unset it",
        )
    if kind == "cpu":
        there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, there // count)
        return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}] * count
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = named.split(",") if named else [str(place) for place in range(torch.cuda.device_count())]
    each = len(devices) // count
    if each == 0:
        raise SwiftError(
            f"NPROC_PER_NODE={count}: there are {len(devices)} devices", fix=f"export NPROC_PER_NODE={len(devices)}"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(devices[at * each : (at + 1) * each])} for at in range(count)]
