"""What helping processes are given to do in tests; importing it takes no time. `owner` is whoever may do it as well."""

from __future__ import annotations

import os
import signal
import time


def square(owner: int, item: int) -> tuple[int, int]:
    """The result, and who made it."""
    return item**2, os.getpid()


def lost(owner: int, item: int) -> tuple[int, int]:
    """Ends any other process as the system does where memory runs out."""
    if os.getpid() != owner:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(owner, item)


def refused(owner: int, item: int) -> tuple[int, int]:
    """Raises an error."""
    raise ZeroDivisionError(f"of {item}")


def asleep(owner: int, item: int) -> tuple[int, int]:
    """Takes longer than any test."""
    time.sleep(600)
    return square(owner, item)


class OfOneProcess:
    """Cannot be loaded elsewhere, as a class of a package that is not found there."""

    def __init__(self, owner: int) -> None:
        if os.getpid() != owner:
            raise ModuleNotFoundError("No module named 'mine'")
        self.owner = owner

    def __call__(self, item: int) -> tuple[int, int]:
        return square(self.owner, item)

    def __reduce__(self) -> tuple[type[OfOneProcess], tuple[int]]:
        return OfOneProcess, (self.owner,)
