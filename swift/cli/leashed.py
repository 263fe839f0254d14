"""A command that ends when the process that started it ends, however that is.

`python -m swift.cli.leashed FD COMMAND ...`: FD is the reading end of a pipe whose other end the parent holds and never
writes to. The command leads a process group of its own, which goes as a whole.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

LOOK_SECONDS = 0.5
"""How often the parent is looked for; a pipe alone may be held open by its other children."""
GRACE_SECONDS = 5.0
"""Between the request to end and the end."""


def watch(pipe: int, parent: int) -> None:
    """Wait for the parent's end, then end the group."""
    while os.getppid() == parent:
        if select.select([pipe], [], [], LOOK_SECONDS)[0]:
            break
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Run the command and return its exit status."""
    from swift.cli.main import main as run

    threading.Thread(target=watch, args=(int(sys.argv[1]), os.getppid()), daemon=True).start()
    return run(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
