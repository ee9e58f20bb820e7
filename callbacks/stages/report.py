"""stage=report: what the runs below folders reached, as a page, tables, files and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from callbacks.command.arguments import folders, usual
from callbacks.command.parts import loggers
from callbacks.command.settings import Settings


def run(settings: Settings) -> None:
    """The report on the folders that `source` names, into the output folder and the loggers."""
    from callbacks.loggers import tell_report
    from callbacks.report.report import report

    sinks = loggers(settings.logger)
    about: dict[str, Any] = {"is_asked": settings.title is not None, "command": settings.command}
    if settings.title is not None:
        about["title"] = settings.title
    made = report(folders(settings.source or "outputs/runs"), Path(settings.run_dir), defaults=usual, **about)
    tell_report(sinks, made)
