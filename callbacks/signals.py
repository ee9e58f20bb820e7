"""Requests to stop that arrive as signals: honoured where nothing is lost, then handed on to the launcher.

`install` comes first in run.py, before the slow imports. From there on Ctrl-C, a terminal that is closed, SIGTERM,
SIGUSR1 and SIGUSR2 end the process at once with exit code 128 + signal, since whatever is on disk is whole; except
inside `held`, where they are only noted, and the work calls `leave` wherever it can be taken up again. A second Ctrl-C
ends the process there as well, and so does a block that comes to no such place within PATIENCE.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
PATIENCE = 60.0  # seconds from a signal that is held to a place where it can be honoured, or the process hangs
# Handlers there were before ours: a launcher's own (submitit's puts the job back into the queue), or the default.
_before: dict[int, Any] = {}
_received: list[int] = []
_holding = 0
_interrupted = False  # by Ctrl-C
_since = 0.0  # when the first signal came that is held; 0: none is
_watch: threading.Thread | None = None
_code: int | None = None  # of the exit that a signal asked for
_way_on = "give the same command again to go on"


def install() -> None:
    """From here on this module handles the signals; whoever handled them before is asked in `leave`.

    Ctrl-C and a closed terminal stay ignored where they are (nohup, a shell's background): they are not meant for us.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler is signal.SIG_IGN and number in (signal.SIGINT, signal.SIGHUP):
            continue
        if handler is not _handle:
            _before.setdefault(number, handler)
            signal.signal(number, _handle)


def received() -> bool:
    """Whether this process was asked to stop."""
    return bool(_received)


def ask(number: int = signal.SIGTERM) -> None:
    """Note a request as if it had been a signal: another process of this run received one."""
    _received.append(number)


def acting() -> None:
    """Say that a signal which is held is being acted on, so that nothing hangs, however long it takes."""
    global _since
    _since = 0.0


def way_on(sentence: str) -> None:
    """What is said of how to go on, where the process ends because a signal asked for it."""
    global _way_on
    _way_on = sentence


@contextmanager
def held() -> Iterator[None]:
    """A block in which signals are only noted; the work inside is to call `leave` now and then."""
    global _holding, _watch
    if _watch is None:  # here, for a handler must not take the locks that starting a thread takes
        _watch = threading.Thread(target=_end_what_hangs, daemon=True)
        _watch.start()
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
    global _code, _since
    if not _received:
        return
    _since = 0.0
    with held():  # a second signal does not disturb saving
        save()
    while _received:
        number = _received.pop(0)
        handler = _before.get(number)
        if not callable(handler) or handler is signal.default_int_handler:
            _code = 128 + number
            atexit.register(_say, f"stopped by {signal.Signals(number).name}; {_way_on}")
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
    global _interrupted, _since
    if number == signal.SIGINT and _interrupted:
        _end(number, "ended by a second Ctrl-C")
    _interrupted = _interrupted or number == signal.SIGINT
    _received.append(number)
    if not _holding:
        leave()
        return
    if number == signal.SIGINT:
        _say("Ctrl-C: stopping as soon as nothing is lost by it; a second one ends at once")
    _since = _since or time.monotonic()


def _end_what_hangs() -> None:
    """End the process where a signal is held for longer than PATIENCE: a worker, a disk or another process hangs."""
    while not _since or time.monotonic() - _since < PATIENCE:
        time.sleep(1.0)
    why = f"asked to stop {PATIENCE:.0f} s ago, and the work has come to no place where it could"
    _end(_received[-1] if _received else signal.SIGTERM, why)


def _end(number: int, why: str) -> None:
    """End the process here and now: what is on disk is whole."""
    _say(f"{why}; {_way_on} from what was saved last")
    os._exit(128 + number)


def _say(sentence: str) -> None:
    """A line on the terminal, past Python's buffers, which a handler must not touch; by one process of a run."""
    from callbacks.command.processes import is_first_process

    if not is_first_process():
        return
    shown = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides the cursor
    with suppress(OSError):  # the terminal is gone
        os.write(2, f"{shown}{sentence}\n".encode())
