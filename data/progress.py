"""What is shown while one waits: a progress bar over episodes, or a sign of life where there is no number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE = 2.0  # seconds before a progress bar appears


def waiting(title: str, wanted: bool) -> AbstractContextManager[object]:
    """A sign on the terminal that something goes on of which no number is known."""
    return Console().status(title) if wanted else nullcontext()


@contextmanager
def episodes_bar(title: str, total: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of episodes that ended; it shows a bar once PATIENCE is over."""
    bar = Progress(TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    task = bar.add_task(title, total=total)
    began = time.monotonic()

    def advance(episodes: int) -> None:
        bar.advance(task, episodes)
        if wanted and not bar.live.is_started and time.monotonic() - began > PATIENCE:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
