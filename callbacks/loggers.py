"""Sinks beside the local files: told of settings, metrics and the result, they may fail without harm to the run."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from callbacks.command.settings import leaves
from callbacks.report.row import Row
from callbacks.report.sheets import Sheet
from callbacks.report.show import sheet_of
from elmur.files import write_text

if TYPE_CHECKING:
    from callbacks.report.report import Report

PATIENCE, STARTING = 5, 60  # seconds in which a server has to answer; in which wandb's own process, where there is none
log = logging.getLogger(__name__)
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
    """A logger that can be told how a run went, and what many runs reached."""

    def show_result(self, result: Result) -> None:
        """Pass it on."""

    def show_report(self, report: Report) -> None:
        """Pass on its tables and figures."""


def wandb_logger(
    project: str, save_dir: str, mode: Literal["auto", "online", "offline"] = "auto", **settings: Any
) -> list[Logger]:
    """Weights & Biases; `auto` goes offline, and says so, where there is no account here.

    A server that does not answer within PATIENCE, or goes away later, ends the sending and nothing else.
    """
    import wandb  # noqa: F401 - an extra, and whoever lacks it is told so before the run

    if mode not in ("auto", "online", "offline"):
        raise ValueError(f"logger.mode must be auto, online or offline; found {mode!r}")
    offline = mode == "offline" or (mode == "auto" and not has_account())
    if offline:
        log.warning("wandb: logging offline into %s; send it later with `wandb sync`", Path(save_dir) / "wandb")
    return [Wandb(save_dir, project=project, offline=offline, **settings)]


class Wandb(Logger):
    """Weights & Biases, connected to when it is first needed; at its first error it is given up with a warning.

    It is closed when the run is over, else the next run of this process, of a sweep, would be logged into this one.
    settings: as Lightning's WandbLogger takes them.
    """

    name, version, save_dir = "wandb", "logs", ""

    def __init__(self, save_dir: str, **settings: Any) -> None:
        super().__init__()
        self.save_dir, self._settings = save_dir, settings
        self._logger: Any = None
        self._is_given_up = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._do(lambda made: made.log_metrics(dict(metrics), step))

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._do(lambda made: made.log_hyperparams(params, *args, **kwargs))

    @rank_zero_only
    def show_result(self, result: Result) -> None:
        """Table, figure, video and numbers."""

        def show(made: Any) -> None:
            import wandb

            shown: dict[str, Any] = {"table": wandb.Table(columns=[*result.sheet.headings], data=result.sheet.cells())}
            if result.figure is not None:
                shown["figure"] = wandb.Image(str(result.figure))
            if result.video is not None:
                kind: Literal["gif", "mp4"] = "gif" if result.video.suffix == ".gif" else "mp4"
                shown["video"] = wandb.Video(str(result.video), format=kind)
            made.experiment.log({**shown, **result.numbers})

        self._do(show)

    @rank_zero_only
    def show_report(self, report: Report) -> None:
        """The page as it is, and each table as one that can be sorted."""

        def show(made: Any) -> None:
            import wandb

            made.experiment.name = report.about["title"]
            sheets = {one.title: wandb.Table(columns=[*one.headings], data=one.cells()) for one in report.sheets}
            made.experiment.log({"report": wandb.Html(report.html(), inject=False), **sheets})

        self._do(show)

    @rank_zero_only
    def save(self) -> None:
        if self._logger is not None:
            self._do(lambda made: made.save())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._logger is not None:
            self._do(lambda made: made.finalize(status))

    def close(self) -> None:
        """End the logger; the next call makes it anew."""
        if self._logger is not None:
            with suppress(Exception):  # what a client raises when its server is gone does not end the run
                self._logger.experiment.finish()
        self._logger = None

    def _do(self, what: Callable[[Any], object]) -> None:
        """Do something with the logger; whatever it raises ends the sink."""
        if self._is_given_up:
            return
        try:
            self._logger = self._logger or self._connected()
            what(self._logger)
        except Exception as error:  # a client raises what it likes when its server or its process is gone
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("wandb: given up, the run goes on with its local files alone (%s)", reason)
            self._logger, self._is_given_up = None, True

    def _connected(self) -> Any:
        """Lightning's logger, under an id that is kept beside the run: the same when it goes on."""
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        path = Path(self.save_dir, "wandb.id")
        if not path.exists():
            write_text(path, secrets.token_hex(4))
        patience = STARTING if self._settings.get("offline") else PATIENCE
        limits: dict[str, Any] = dict.fromkeys(("init_timeout", "login_timeout", "finish_timeout"), patience)
        limits |= dict.fromkeys(("x_graphql_retry_max", "x_file_stream_retry_max", "x_file_transfer_retry_max"), 1)
        made = WandbLogger(
            save_dir=self.save_dir, settings=wandb.Settings(**limits), id=path.read_text().strip(), resume="allow",
            **self._settings,
        )  # fmt: skip
        made.experiment  # noqa: B018 - connects, which may fail
        return made


def has_account() -> bool:
    """Whether a key of Weights & Biases is in the environment or in the user's netrc file, and may be used."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False


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


def tell_report(loggers: Iterable[Any], report: Report) -> None:
    """Tell every logger that can be told what many runs reached, and close it."""
    with open_until_the_end(loggers):
        for logger in loggers:
            if isinstance(logger, ShowsResults):
                logger.show_report(report)


@contextmanager
def open_until_the_end(loggers: Iterable[Any]) -> Iterator[None]:
    """A block behind which the loggers that can be closed are, in whatever way it ends."""
    try:
        yield
    finally:
        for logger in loggers:
            if isinstance(logger, Wandb):
                logger.close()
