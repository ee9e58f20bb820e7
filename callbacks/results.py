"""What the sinks beside the local files are told of a run: its settings when it begins, its result when it is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from callbacks.command.settings import leaves
from callbacks.report.row import Row
from callbacks.report.sheets import Sheet
from callbacks.report.show import sheet_of

FIGURE, VIDEOS = "success.png", ("video.mp4", "video.gif")  # in the folder of a run


@dataclass(frozen=True)
class Result:
    """How a run went: the table of its row, its metrics by name, its figure and its video where there are some."""

    sheet: Sheet
    numbers: dict[str, float]
    figure: Path | None
    video: Path | None

    @classmethod
    def of(cls, row: Row, folder: Path) -> Result:
        """The result in the folder of a run.

        numbers: `result/VARIANT/METRIC`, and `hp_metric`, the mean of the row's metric over its variants, by which
        TensorBoard compares settings.
        """
        numbers = {
            f"result/{variant}/{name}": outcome.metric(name)
            for variant, outcome in row.outcomes.items()
            for name in outcome.metrics
        }
        numbers["hp_metric"] = row.score()
        there = [folder / name for name in (FIGURE, *VIDEOS) if (folder / name).is_file()]
        video = next((path for path in there if path.name in VIDEOS), None)
        return cls(sheet_of(row), numbers, next((path for path in there if path.name == FIGURE), None), video)


@runtime_checkable
class ShowsResults(Protocol):
    """A logger that can be told how a run went."""

    def show_result(self, result: Result) -> None:
        """Pass it on."""


@runtime_checkable
class Closes(Protocol):
    """A logger that has to be closed."""

    def close(self) -> None:
        """End it."""


def tell_settings(loggers: Iterable[Any], settings: Mapping[str, Any]) -> None:
    """Tell every logger the settings of a run, dotted key -> value."""
    flat = {key: value for key, value in leaves(settings) if value is not None}
    for logger in loggers:
        logger.log_hyperparams(flat)


def tell_result(loggers: Iterable[Any], result: Result) -> None:
    """Tell every logger that can be told how a run went."""
    for logger in loggers:
        if isinstance(logger, ShowsResults):
            logger.show_result(result)


@contextmanager
def open_until_the_end(loggers: Iterable[Any]) -> Iterator[None]:
    """A block behind which the loggers that can be closed are, in whatever way it ends."""
    try:
        yield
    finally:
        for logger in loggers:
            if isinstance(logger, Closes):
                logger.close()
