"""Published numbers beside ours: agree, better or worse by both intervals, and in what the protocols differ."""

from __future__ import annotations

import csv
from collections import Counter
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
ABLATION = "experiment=ablation_"  # in a label
FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper: runs, and episodes of each, as far as they are known; how it came about, in words."""

    title: str
    runs: int
    episodes: int
    protocol: str


@dataclass(frozen=True)
class Published:
    """One published number. setting: parts of our label that a group must have, none for any group."""

    table: PublishedTable
    task: str
    variant: str
    setting: frozenset[str]
    model: str
    method: str
    metric: str
    value: Estimate

    @property
    def interval(self) -> Interval:
        """At 95 %: by the printed error; of a share without one, or with none to print, Wilson's of all episodes."""
        mean, error = self.value
        if self.metric != RETURN and not error:
            played = self.table.runs * self.table.episodes
            return wilson(round(mean * played), played)
        reach = max(ROUNDED, (error or 0.0) * float(stats.norm.ppf((1 + CONFIDENCE) / 2)))
        return mean - reach, mean + reach


@cache
def published() -> Mapping[tuple[str, str], list[Published]]:
    """All published numbers by task and model."""
    tables = {
        line["table"]: PublishedTable(
            line["title"], int(line["runs"] or 0), int(line["episodes"] or 0), line["protocol"]
        )
        for line in _lines("published_protocols.csv")
    }
    found: dict[tuple[str, str], list[Published]] = {}
    for line in _lines("published.csv"):
        parts = frozenset(filter(None, line["setting"].split("+")))
        value = Estimate(float(line["mean"]), float(line["error"]) if line["error"] else None)
        names = line["task"], line["variant"], parts, line["model"], line["method"], line["metric"]
        found.setdefault((line["task"], line["model"]), []).append(Published(tables[line["table"]], *names, value))
    return found


@cache
def experts() -> Mapping[str, float]:
    """The success of the expert of each task, where it was measured."""
    return {line["task"]: float(line["success"]) for line in _lines("experts.csv")}


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


def applies(one: Published, group: Group) -> bool:
    """Whether a number is of what the group ran; what an ablation took away is not in the method's main numbers."""
    of = set(group.label.split("+"))
    ablated = any(part.startswith(ABLATION) for part in of - {f"{ABLATION}baseline"})
    is_own = any(part.startswith(ABLATION) for part in one.setting)
    return one.metric == group.metric and one.setting <= of and (is_own or not ablated)


def beside_ours(groups: Sequence[Group]) -> Sheet | None:
    """A line for each published number of what was run here: ours, its interval, theirs, and what both show."""
    lines: list[dict[str, Any]] = []
    protocols: dict[str, dict[str, list[str]]] = {}  # of a table -> ours in words -> the groups
    for group in groups:
        for task, rows in group.by_task().items():
            for one in published().get((task, group.model), []):
                names = [one.variant] if one.variant else list(rows[0].outcomes)[:1]
                if not applies(one, group) or not (found := measures(rows, names[0], group.metric)):
                    continue
                ours = interval(found)
                lines.append({
                    "task": task + (f" {one.variant}" if one.variant else ""), "ours": group.name, "seeds": len(found),
                    "score": float(np.mean([of.mean for of in found])), "95 %": ours,
                    "published": one.method, "its score": one.value, "its 95 %": one.interval,
                    "ours is": verdict(ours, one.interval), "table": one.table.title,
                })  # fmt: skip
                how = f"{one.table.title}, {one.table.runs} runs of {one.table.episodes} episodes: {one.table.protocol}"
                of_words = protocols.setdefault(how, {}).setdefault(ours_in_words(rows), [])
                of_words += [group.name] if group.name not in of_words else []
    if not lines:
        return None
    counted = Counter(line["ours is"] for line in lines)
    notes = [
        "Ours is: " + ", ".join(f"{words} {count} times" for words, count in counted.most_common()) + ". Agree: the "
        "intervals at 95 % meet. Where protocols differ, better or worse is none of the method."
    ]
    for how, words in protocols.items():
        told = "; ".join(said + f" ({', '.join(names)})" * (len(words) > 1) for said, names in words.items())
        notes.append(f"Published, {how}. Ours: {told}.")
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
