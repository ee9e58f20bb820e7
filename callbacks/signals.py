"""Requests to stop that arrive as signals: honoured where nothing is lost, then handed on to the launcher.

`install` comes first in run.py, before the slow imports. From there on SIGTERM, SIGUSR1 and SIGUSR2 end the process at
once with exit code 128 + signal, since whatever is on disk is whole; except inside `held`, where they are only noted,
and the work calls `leave` wherever it can be taken up again.
"""

from __future__ import annotations

import atexit
import os
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
_received: list[int] = []
_holding = 0
_code: int | None = None  # of the exit that a signal asked for


def install() -> None:
    """From here on this module handles the signals; whoever handled them before is asked in `leave`."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler is not _handle:
            _before.setdefault(number, handler)
            signal.signal(number, _handle)


def received() -> bool:
    """Whether this process was asked to stop."""
    return bool(_received)


def ask(number: int = signal.SIGTERM) -> None:
    """Note a request as if it had been a signal: another process of this run received one."""
    _received.append(number)


@contextmanager
def held() -> Iterator[None]:
    """A block in which signals are only noted; the work inside is to call `leave` now and then."""
    global _holding
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1


def leave(save: Callable[[], object] = lambda: None) -> None:
    """Do as the signals ask, after `save`: the launcher's own handler, else exit code 128 + signal.

    Nothing happens where none was received. A launcher may ignore one (submitit ignores SIGTERM, after which SLURM
    ends or requeues the job itself): then this returns and the work goes on.
    """
    global _code
    if not _received:
        return
    with held():  # a second signal does not disturb saving
        save()
    while _received:
        number = _received.pop(0)
        handler = _before.get(number)
        if not callable(handler):
            _code = 128 + number
            sys.exit(_code)
        handler(number, None)


@contextmanager
def quick_end() -> Iterator[None]:
    """A block that ends the process at once where a signal asked for it.

    What `atexit` holds is done, so sinks and logs are closed; the seconds in which Python takes all objects apart, many
    where the machine is busy, are saved. Any other exit is raised again.
    """
    try:
        yield
    except SystemExit as asked:
        if _code is None or asked.code != _code:
            raise
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_code)


def _handle(number: int, frame: FrameType | None) -> None:
    """Note the signal and, unless signals are held, leave."""
    _received.append(number)
    if not _holding:
        leave()
