"""Result rows of many runs: found below a folder, grouped by what may be compared, and their figures with intervals."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from callbacks.report.row import ROW, Row, read_row

log = logging.getLogger(__name__)
CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Group:
    """Rows of one stage and one model with one set of settings, which `label` names: what was set by the command."""

    stage: str
    model: str
    label: str
    metric: str
    suite: str | None
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """Model and settings."""
        name = self.model if self.label == "default" else f"{self.model} ({self.label})"
        return name if self.stage == "train" else f"{name}, acting again"

    def by_task(self) -> dict[str, list[Row]]:
        """The rows of each task, by seed."""
        tasks = sorted({row.task for row in self.rows})
        seeded = sorted(self.rows, key=lambda row: -1 if row.seed is None else row.seed)
        return {task: [row for row in seeded if row.task == task] for task in tasks}


def groups(source: Path) -> list[Group]:
    """The rows below a folder, grouped. Raises ValueError where there are none.

    Damaged ones are left out, and copies of one run, and that is said.
    """
    found: dict[tuple[str, str, str, str, str | None], dict[tuple[str, int | None], Row]] = {}
    for path in sorted(source.rglob(ROW)):
        try:
            row = read_row(path)
        except ValueError as error:
            log.warning("left out: %s", error)
            continue
        if row is not None:
            label = path.parent.parent.name if row.label is None else row.label
            group = found.setdefault((row.stage, row.model, label, row.metric, row.suite), {})
            if (row.task, row.seed) in group and row.seed is not None:
                log.warning("left out: %s, %s with seed %s and the same settings once more", path, row.task, row.seed)
                continue
            group[row.task, row.seed] = row
    if not found:
        raise ValueError(f"source={source}: expected a folder of runs, found no {ROW} below it")
    return [Group(*key, tuple(rows.values())) for key, rows in found.items()]


def mean_and_error(values: Sequence[float], otherwise: float) -> tuple[float, float]:
    """Mean over seeds and its standard error; of a single one, the error of its own episodes."""
    return float(np.mean(values)), float(stats.sem(values)) if len(values) > 1 else otherwise


def wilson(won: int, played: int) -> tuple[float, float]:
    """Wilson's interval of a share."""
    interval = stats.binomtest(won, played).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap(scores: Mapping[str, Sequence[float]], over_tasks: bool, seed: int = 0) -> tuple[float, float]:
    """The interval of the mean over tasks of the mean over seeds: percentiles over resampled seeds within each task.

    over_tasks: tasks are resampled as well, for what would be said of other tasks of this kind.
    """
    rng = np.random.default_rng(seed)
    means = np.stack([
        np.asarray(values)[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
        for values in scores.values()
    ])  # fmt: skip
    if not over_tasks:
        return _percentiles(means.mean(axis=0))
    # A task that is drawn twice brings two resamples of its seeds.
    drawn = rng.integers(len(means), size=means.shape)
    resample = rng.integers(RESAMPLES, size=means.shape)
    return _percentiles(means[drawn, resample].mean(axis=0))


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
