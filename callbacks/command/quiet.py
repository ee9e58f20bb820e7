"""What a command leaves unsaid: what Lightning tells at every start, what all processes would tell."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from functools import partial
from types import TracebackType

from callbacks.command.processes import is_first_process
from callbacks.text import plain


def quieten() -> None:
    """Leave out what Lightning says of itself at every start, and what all processes would say; warnings stay."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(harmless)
        if isinstance(handler, logging.FileHandler):
            handler.handleError = partial(_stop_at_full_log, handler)  # type: ignore[method-assign]
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
