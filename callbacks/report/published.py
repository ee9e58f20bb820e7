"""Published numbers beside ours: agree, better or worse by both intervals, and in what the protocols differ."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from callbacks.evaluation.outcomes import RETURN
from callbacks.report.gather import Group
from callbacks.report.row import Row
from callbacks.report.scores import interval, measures
from callbacks.report.sheets import Estimate, Sheet
from callbacks.report.statistics import CONFIDENCE, Interval, wilson

ROUNDED = 0.005  # numbers are printed with two decimals
FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Published:
    """One published number. setting: parts of our label that a group must have, none for any group.

    runs, episodes: of the table it stands in, as far as is known. protocol: how that came about, in words.
    """

    title: str
    task: str
    variant: str
    setting: frozenset[str]
    model: str
    method: str
    metric: str
    mean: float
    error: float | None
    runs: int
    episodes: int
    protocol: str

    @property
    def interval(self) -> Interval:
        """At 95 %: by the printed error; of a share without one, or with none to print, Wilson's of all episodes."""
        if self.metric != RETURN and not self.error:
            played = self.runs * self.episodes
            return wilson(round(self.mean * played), played)
        reach = max(ROUNDED, (self.error or 0.0) * float(stats.norm.ppf((1 + CONFIDENCE) / 2)))
        return self.mean - reach, self.mean + reach

    def is_of(self, group: Group, task: str) -> bool:
        """Whether this number is of what the group computed."""
        there = (self.task, self.model, self.metric) == (task, group.model, group.metric)
        return there and self.setting <= set(group.label.split("+"))


@cache
def published() -> Mapping[tuple[str, str], list[Published]]:
    """All published numbers by task and model."""
    protocols = {line["table"]: line for line in _lines("published_protocols.csv")}
    found: dict[tuple[str, str], list[Published]] = {}
    for line in _lines("published.csv"):
        about = protocols[line["table"]]
        one = Published(
            about["title"], line["task"], line["variant"], frozenset(filter(None, line["setting"].split("+"))),
            line["model"], line["method"], line["metric"], float(line["mean"]),
            float(line["error"]) if line["error"] else None, int(about["runs"] or 0), int(about["episodes"] or 0),
            about["protocol"],
        )  # fmt: skip
        found.setdefault((one.task, one.model), []).append(one)
    return found


def _lines(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def verdict(ours: Interval | None, theirs: Interval) -> str:
    """Agree where the intervals meet; else better or worse."""
    if ours is None:
        return "not known"
    if ours[0] > theirs[1]:
        return "better"
    return "worse" if ours[1] < theirs[0] else "agree"


def beside_ours(groups: Sequence[Group]) -> Sheet | None:
    """A line for each published number of what was run here: ours, its interval, theirs, and what both show."""
    lines: list[dict[str, Any]] = []
    protocols: dict[str, tuple[Published, list[Row]]] = {}
    for group in groups:
        for task, rows in group.by_task().items():
            for one in published().get((task, group.model), []):
                names = [one.variant] if one.variant else list(rows[0].outcomes)[:1]
                if not one.is_of(group, task) or not (found := measures(rows, names[0], group.metric)):
                    continue
                ours = interval(found)
                lines.append({
                    "task": task + (f" {one.variant}" if one.variant else ""), "ours": group.name, "seeds": len(found),
                    "score": float(np.mean([of.mean for of in found])), "95 %": ours,
                    "published": one.method, "its score": Estimate(one.mean, one.error), "its 95 %": one.interval,
                    "ours is": verdict(ours, one.interval), "table": one.title,
                })  # fmt: skip
                protocols.setdefault(f"{one.title}, {one.runs} runs of {one.episodes} episodes", (one, rows))
    if not lines:
        return None
    notes = [
        f"Published, {name}: {one.protocol}. Ours: {ours_in_words(rows)}." for name, (one, rows) in protocols.items()
    ]
    return Sheet("Published numbers beside ours", lines, notes=notes)


def ours_in_words(rows: Sequence[Row]) -> str:
    """How rows came about, as far as they say it."""
    row = rows[0]
    seen: Any = row.settings.get("observation")
    chosen = "the best checkpoint by selection seeds" if row.selection_score is not None else "the last checkpoint"
    episodes = row.data.get("episodes")
    parts = [
        "observations as numbers" if seen == "vector" else "two cameras" if seen == "rgb" else None,
        None if episodes is None else f"{episodes} episodes of data",
        None if row.updates is None else f"{row.updates} updates",
        chosen,
        f"{next(iter(row.outcomes.values())).episodes} episodes on report seeds that nothing else uses",
        None if row.actions is None else f"actions {row.actions}",
    ]
    return ", ".join(filter(None, parts))
