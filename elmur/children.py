"""Child processes that end with their parent, in whatever way it ends."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
GRACE = 10  # seconds that a worker goes on after SIGTERM, while its parent saves what it has


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """To be called in a child: it gets this signal when its parent is gone (on Linux), and holds nothing any longer."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))


def serve_parent(worker: int) -> None:
    """The same for a worker of a DataLoader, which leaves signals to the whole job to its parent as well."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Not ignored: a Python that ends sends it to workers that were left over, and waits until they are gone.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    end_with_parent()
