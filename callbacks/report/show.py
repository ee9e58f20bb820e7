"""What a person looks at in the end: a table in the terminal, a figure beside the result row."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from callbacks.evaluation.outcomes import RETURN, Outcome
from callbacks.report.panels import figure, label
from callbacks.report.row import ROW, Row
from callbacks.report.sheets import Sheet
from envs.vector import SUCCESS

log = logging.getLogger(__name__)
NUMBERED = re.compile(r"[^\d]*(\d{1,15})$")


def show(row: Row, folder: Path, chance: float | None = None) -> None:
    """One row of `folder` as a table and, where its variants are numbered, as a figure beside it."""
    sheet_of(row).show(Console())
    drawn = draw_success({row.model: row}, folder / "success.png", chance)
    log.info("result row: %s", folder / ROW)
    if drawn:
        log.info("figure: %s", folder / "success.png")


def sheet_of(row: Row) -> Sheet:
    """The outcomes of one result row as a table."""
    about = [row.task, row.model, row.label if row.label != "default" else None]
    about.append(f"seed {'unknown' if row.seed is None else row.seed}")
    about.append(f"{row.actions} actions" if row.actions else None)
    rounds = len(row.data.get("rounds") or [])
    about.append(f"{rounds} round{'s' * (rounds > 1)} of labelling" if rounds else None)
    return Sheet(
        " · ".join(filter(None, about)), [_cells(name, outcome, row) for name, outcome in row.outcomes.items()]
    )


def _cells(name: str, outcome: Outcome, row: Row) -> dict[str, str]:
    """One line of the table of a row: heading -> text. The return alone where that is what the task is about."""
    lost = len(outcome.env_errors)
    cells = {"variant": name, "episodes": str(outcome.episodes) + (f" + {lost} env_error" if lost else "")}
    for metric, measure in outcome.metrics.items() if row.metric != RETURN else ():
        if metric != RETURN:
            cells[metric.replace("_", " ")] = f"{measure.mean:.2f}"
        if metric == row.metric and measure.interval:
            cells["95 % of it"] = "{:.2f}-{:.2f}".format(*measure.interval)
    gained = outcome.metrics[RETURN]
    cells["return"] = f"{gained.mean:.2f} ± {gained.error:.2f}"
    if row.reference:
        cells |= {name: f"{row.reference[name]:.2f}" for name in ("expert", "random")}
        cells["normalised"] = f"{row.normalised(gained.mean):.2f}"
    return cells | {"steps": f"{outcome.mean_length:,.0f}", "seconds": f"{outcome.wall_seconds:.1f}"}


def draw_success(rows: Mapping[str, Row], path: Path | str, chance: float | None = None) -> bool:
    """A PNG of success against the number in the variants' names, a line per row (label -> row).

    chance: the success of guessing, drawn as a dotted line. Gives False, and draws nothing, where no variant has one.
    """
    lines = {name: numbered(row) for name, row in rows.items()}
    if not any(lines.values()):
        return False
    with figure(path, (7, 3.6)) as axes:
        for name, points in lines.items():
            x = [number for number, _ in points]
            y = [outcome.metric(SUCCESS) for _, outcome in points]
            axes.plot(x, y, marker="o", label=label(name))
            low, high = zip(*[outcome.metrics[SUCCESS].interval or (0.0, 1.0) for _, outcome in points], strict=True)
            axes.fill_between(x, low, high, alpha=0.2)
        found = [NUMBERED.match(name) for row in rows.values() for name in row.outcomes]
        names = {match.string[: match.start(1)].rstrip("= ") for match in found if match}
        axes.set(xscale="log", ylim=(-0.03, 1.03), xlabel=", ".join(sorted(names)), ylabel="success")
        if chance is not None:
            axes.axhline(chance, color="grey", linestyle=":", linewidth=1, label="guessing")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left")
    return True


def numbered(row: Row) -> list[tuple[int, Outcome]]:
    """The outcomes whose variant ends in a number, by that number, where success was measured."""
    measured = {name: outcome for name, outcome in row.outcomes.items() if SUCCESS in outcome.metrics}
    found = [(NUMBERED.match(name), outcome) for name, outcome in measured.items()]
    return sorted(((int(match[1]), outcome) for match, outcome in found if match), key=lambda pair: pair[0])
