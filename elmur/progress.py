"""How far something is, for a person who waits: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

PATIENCE = 2.0  # seconds before a bar appears
REFRESH = 0.25  # seconds between two looks at the figures
LOG_EVERY = 30.0  # seconds between two lines where there is no terminal (the log of a cluster job)
log = logging.getLogger(__name__)


def spelled(seconds: float) -> str:
    """A time that something will take, as people say it."""
    return "less than a minute" if seconds < 60 else f"about {timedelta(seconds=round(seconds))}"


class Progress:
    """`title  ===>   12/150 unit  0:00:10  figures`: shown once it has taken longer than PATIENCE.

    total: how many there are, None where nobody knows. Its parts fit 80 columns with figures of up to 34 characters.
    """

    def __init__(self, title: str, total: int | None, unit: str = "", completed: int = 0, patience: float = PATIENCE):
        self.title, self.total, self.unit, self.completed = title, total, unit, completed
        self._shown_from = time.monotonic() + patience
        self._logged = time.monotonic()
        self._bar: Any = None

    def advance(self, number: int = 1) -> None:
        """So many more are done."""
        self.update(self.completed + number)

    def update(self, completed: int, figures: str | Callable[[], str] = "") -> None:
        """So many are done in all; `figures` tell how it goes, and are asked for only when they are shown."""
        self.completed, now = completed, time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=completed)
            if now - self._logged >= REFRESH:
                self._logged = now
                self._bar.update(self._bar.task_ids[0], figures=figures() if callable(figures) else figures)
        elif now >= self._shown_from and (made := self._made()) is not None:
            self._bar = made
            self._bar.start()
        elif now - self._logged >= LOG_EVERY:
            self._logged = now
            of = f" of {self.total}" if self.total is not None else ""
            text = figures() if callable(figures) else figures
            log.info("%s: %d%s %s  %s", self.title, completed, of, self.unit, text)

    def close(self, leave: bool = False) -> None:
        """Take the bar away, or leave it as it stands."""
        if self._bar is not None:
            self._bar.live.transient = not leave
            self._bar.stop()
            self._bar, self._shown_from = None, float("inf")

    def _made(self) -> Any:
        """The bar of a terminal, None where there is none."""
        try:
            from rich import progress
            from rich.console import Console
        except ImportError:  # the library alone does without
            return None
        console = Console()
        if not console.is_terminal:
            self._shown_from = float("inf")
            return None
        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=12),
            progress.MofNCompleteColumn(),
            progress.TextColumn(self.unit),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn("{task.fields[figures]}"),
        )
        bar = progress.Progress(*columns, console=console)
        bar.add_task(self.title, total=self.total, completed=self.completed, figures="")
        return bar


@contextmanager
def shown(title: str, total: int | None, unit: str = "", wanted: bool = True) -> Iterator[Progress]:
    """A Progress for the length of a block; `wanted=False` shows and logs nothing."""
    made = Progress(title, total, unit, patience=PATIENCE if wanted else float("inf"))
    if not wanted:
        made._logged = float("inf")
    try:
        yield made
    finally:
        made.close()
