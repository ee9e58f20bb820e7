"""Requests to stop that schedulers send as signals: honoured where nothing is lost, and handed on to the launcher.

`install` comes first in run.py, before the slow imports. From there on SIGTERM, SIGUSR1 and SIGUSR2 end the process at
once with exit code 128 + signal, since whatever is on disk is whole; except inside `held`, where they are noted and the
work asks for them at a point where it can be taken up again.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# Handlers there were before ours: a launcher's own (submitit's puts the job back into the queue), or the default.
_before: dict[int, Any] = {}
_received: int | None = None
_holding = 0


class StoppedError(RuntimeError):
    """The work was asked to stop, and stopped where it can be taken up again."""


def install() -> None:
    """From here on this module handles the signals; whoever handled them before is asked in `leave`."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler is not _handle:
            _before.setdefault(number, handler)
            signal.signal(number, _handle)


def received() -> int | None:
    """The signal that asked this process to stop, None where none has."""
    return _received


@contextmanager
def held() -> Iterator[None]:
    """A block in which signals are only noted; it is to ask `received` and to raise StoppedError."""
    global _holding
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1


def leave(after: Callable[[], object] = lambda: None) -> None:
    """Do as the signal asks, with everything saved: the launcher's own handler, else exit code 128 + signal.

    A launcher may ignore a signal (submitit does with SIGTERM, after which SLURM kills or requeues the job by itself):
    this then returns and the work may go on. after: called before the process ends.
    """
    global _received
    if (number := _received) is None:
        return
    after()
    handler = _before.get(number)
    if callable(handler):
        _received = None
        handler(number, None)
        return
    sys.exit(128 + number)


def _handle(number: int, frame: FrameType | None) -> None:
    """Note the signal and, unless it is held, leave."""
    global _received
    if _received is None or not callable(_before.get(_received)):
        _received = number
    if not _holding:
        leave()
