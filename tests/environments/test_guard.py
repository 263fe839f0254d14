from __future__ import annotations

import os
import signal
import subprocess
import sys
import time


def test_what_a_killed_process_has_started_ends():
    code = (
        "import subprocess, time\n"
        "from swift.environments.guard import descendants, end_with_us\n"
        "before = descendants()\n"
        "child = subprocess.Popen(['sh', '-c', 'trap : TERM; while :; do sleep 1; done'])\n"
        "guard = end_with_us(sorted(descendants() - before))\n"
        "print(child.pid, guard.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    pids = [int(word) for word in parent.stdout.readline().split()]
    time.sleep(1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
