"""Child processes that end with their parent, in whatever way it ends."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import tempfile
from io import StringIO
from multiprocessing.queues import Queue
from typing import Any

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
LONGEST = 70  # letters of a folder in which a socket of a worker can be named: 107 in all, 34 are added
GRACE = 10  # seconds that a worker goes on after SIGTERM, while its parent saves what it has


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """To be called in a child: it gets this signal when its parent is gone (on Linux), and holds nothing any longer."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))


def follow_parent() -> None:
    """The same for a process that shares a terminal with its parent, to whom it leaves Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


def serve_parent(worker: int) -> None:
    """The same for a worker of a DataLoader, which leaves signals to the whole job to its parent as well."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Not ignored: a Python that ends sends it to workers that were left over, and waits until they are gone.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    end_with_parent()
    # Sockets through which tensors go are made in the folder for temporary files, and their names must be short.
    if len(tempfile.gettempdir()) > LONGEST and os.access("/tmp", os.W_OK):
        tempfile.tempdir = "/tmp"
    sys.excepthook = _tell
    # Python 3.11 to 3.14: what a worker cannot hand over is otherwise only printed, and its parent waits for ever.
    Queue._on_queue_feeder_error = _hand_over_error  # type: ignore[attr-defined]


def _tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Not that no file can be opened, which threads of multiprocessing repeat without end: the batch tells it."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        sys.stderr = StringIO()
    else:
        sys.__excepthook__(kind, error, trace)


def _hand_over_error(queue: Any, error: BaseException, item: Any) -> None:
    """In place of a batch that could not be handed over its error goes to the parent, who raises it."""
    if not isinstance(item, tuple):  # not even an error gets through
        os._exit(1)
    from torch._utils import ExceptionWrapper  # what a DataLoader takes for an error; here, for this module is light

    reason = (
        f"a worker could not hand over its batch ({error}); more shared memory (/dev/shm) or open files (ulimit -n) "
        "help, or data.num_workers=0, which needs none"
    )
    wrapped: Any = ExceptionWrapper
    queue.put((item[0], wrapped((RuntimeError, RuntimeError(reason), None), where="in DataLoader worker")))
    # What cannot be cleaned up for the same reason is not told as well.
    sys.stderr = StringIO()
