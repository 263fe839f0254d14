"""The loader of micro-batches, and its workers."""

from __future__ import annotations

import os
import signal
from typing import Any

from torch.utils.data import DataLoader


class EpochLoader(DataLoader):
    """A loader whose batch sampler follows the epoch."""

    running: Any = None

    def __iter__(self) -> Any:
        self.running = super().__iter__()
        return self.running

    def close(self) -> None:
        """End the workers of an epoch that was left in the middle: the process would wait for them when it ends."""
        shutdown = getattr(self.running, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()

    def set_epoch(self, epoch: int) -> None:
        """Give the sampler the order of this epoch."""
        sampler: Any = self.batch_sampler
        sampler.set_epoch(epoch)


def start_worker(number: int) -> None:
    """Leave signals to the training process, which ends its loader's workers, and threads to the other workers."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
