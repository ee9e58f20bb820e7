"""What a command leaves unsaid: what Lightning tells at every start, what all processes would tell."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import warnings
from functools import partial
from types import TracebackType
from typing import Any

from callbacks.command.processes import is_first_process
from callbacks.report.text import plain


def quieten() -> None:
    """Leave out what Lightning says of itself at every start, and what all processes would say; warnings stay."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(harmless)
        if isinstance(handler, logging.FileHandler):
            handler.handleError = partial(_stop_at_full_log, handler)  # type: ignore[method-assign]
            if isinstance(handler.stream, io.TextIOWrapper):  # a folder may be named in signs that the locale lacks
                handler.stream.reconfigure(errors="backslashreplace")
    if not is_first_process():
        logging.getLogger().setLevel(logging.WARNING)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.checkpoint_connector"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning on torch 2.13, nothing of ours
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")  # no validation set
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # one process is what was asked for
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # reading is not what takes the time
    sys.excepthook = _of_the_main_thread


def harmless(record: logging.LogRecord) -> bool:
    """Passes every record, with what files put into its message made harmless for a terminal."""
    record.msg, record.args = plain(record.getMessage(), keep="\n\t", most=None), None
    return True


def _of_the_main_thread(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error, but not of the thread that hands tensors to a worker that was killed: the loader tells of it."""
    lost = isinstance(error, ConnectionError | EOFError)
    if not lost or threading.current_thread() is threading.main_thread():
        sys.__excepthook__(kind, error, trace)


def _stop_at_full_log(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    """Let what went wrong in writing a log end the run, instead of a traceback for each line of it."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        raise type(error)(error.errno, f"could not write {handler.baseFilename}: {error.strerror}") from error
    logging.Handler.handleError(handler, record)


def sturdy_output() -> None:
    """From here on nothing fails because it cannot be shown: what was computed is written, and that is what counts.

    A reader that leaves (`| head`), a full disk behind `>`, a closed terminal or stream: what is written to stdout and
    stderr then goes nowhere. Signs that the stream's encoding lacks are replaced.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed; else the next file to be opened would take its number, and what is printed with it
            os.open(os.devnull, os.O_RDWR)
        if number and not isinstance(getattr(sys, name), _Shown):
            stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115 (as long as the process)
            setattr(sys, name, _Shown(stream))


class _Shown(io.TextIOWrapper):
    """A text stream over another's that loses what cannot be written."""

    def __init__(self, stream: Any) -> None:
        stream.flush()
        lossy = _Lossy(stream.fileno(), "w", closefd=False)
        buffered = io.BufferedWriter(lossy)
        super().__init__(
            buffered, encoding=stream.encoding, errors="replace", newline=None, line_buffering=stream.line_buffering
        )
        self._kept = stream  # else it would be closed, and the file with it


class _Lossy(io.FileIO):
    """A file that takes everything; what the system refuses is lost."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except BlockingIOError:
            raise
        except OSError:
            return memoryview(content).nbytes
