"""A progress bar over episodes that appears once it is worth looking at."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE = 2.0  # seconds before a progress bar appears


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
