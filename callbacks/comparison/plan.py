"""Who is compared with whom: what is tried for each contender, what is reported, and that all are treated alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from callbacks.command.parts import evaluation_plan
from callbacks.command.settings import Settings, leaves
from callbacks.comparison.forecast import Cost
from callbacks.errors import UsageError
from callbacks.report.row import ROW, Row, read_row

SWEEP, SEARCH_SWEEP = "sweep=compare", "sweep=compare_search"
# What contenders on one task have in common: as much training on the same data, chosen and judged in the same way.
ALIKE = ("trainer.max_steps.", "trainer.max_epochs.", "trainer.max_time.", "data.root.", "data.lanes.",
         "data.validation_fraction.", "collect.", "evaluation.", "selection.", "env.", "observation.")  # fmt: skip

Overrides = tuple[str, ...]


@dataclass
class Contender:
    """One model on one task.

    name: the model, and what else it differs in from the others. overrides: what makes it this one, a command's.
    points: the values that are tried, overrides each. seeds: of the runs that are reported; search_seeds: of those of
    the search. searched, reported: the rows, once there are any. cost: as it was measured.
    """

    name: str
    overrides: Overrides
    points: tuple[Overrides, ...]
    seeds: tuple[int, ...]
    search_seeds: tuple[int, ...]
    searched: dict[Overrides, list[Row]] = field(default_factory=dict)
    reported: list[Row] = field(default_factory=list)
    cost: Cost | None = None

    @property
    def first(self) -> Overrides:
        """The overrides of a run that may be reported."""
        return (*self.overrides, *self.points[0], f"seed={self.seeds[0]}")

    def search(self) -> Iterator[tuple[Overrides, Overrides]]:
        """(point, overrides) of every run of the search; none where there is nothing to choose from."""
        if len(self.points) > 1:
            own = tuple(SEARCH_SWEEP if override == SWEEP else override for override in self.overrides)
            for point in self.points:
                yield from ((point, (*own, *point, f"seed={seed}")) for seed in self.search_seeds)

    def report(self, seed: int) -> Overrides | None:
        """The overrides of the run of this seed that is reported; None where every run of the search has failed."""
        return None if self.chosen is None else (*self.overrides, *self.chosen, f"seed={seed}")

    @property
    def chosen(self) -> Overrides | None:
        """The point of the highest mean score over the search's seeds, the first of equal ones."""
        if len(self.points) == 1:
            return self.points[0]
        scores = {point: float(np.mean([row.score() for row in rows])) for point, rows in self.searched.items() if rows}
        return max(scores, key=lambda point: (scores[point], -self.points.index(point))) if scores else None


def contenders(jobs: Sequence[Sequence[str]], search: Sequence[str], search_seeds: Sequence[int]) -> list[Contender]:
    """The contenders of all combinations of what is swept.

    jobs: the overrides of each combination. search: keys whose values are tried. Raises UsageError for seeds of the
    search that are reported too.
    """

    def part(job: Sequence[str], wanted: Callable[[str], bool]) -> Overrides:
        return tuple(override for override in job if wanted(override.partition("=")[0].lstrip("+")))

    points = tuple(dict.fromkeys(part(job, lambda key: key in search) for job in jobs))
    seeds = tuple(dict.fromkeys(int(part(job, lambda key: key == "seed")[-1].partition("=")[2]) for job in jobs))
    if both := set(seeds) & set(search_seeds):
        raise UsageError(
            f"seed={min(both)}: by this seed of hydra.sweeper.search_seeds learning rates are chosen; it cannot be "
            "reported too, choose another"
        )
    others = dict.fromkeys(part(job, lambda key: key != "seed" and key not in search) for job in jobs)
    differ = {
        key
        for key in dict.fromkeys(o.partition("=")[0] for job in others for o in job)
        if len({value_of(job, key) for job in others}) > 1
    }
    return [Contender(named(job, differ), job, points, seeds, tuple(search_seeds)) for job in others]


def value_of(overrides: Sequence[str], key: str) -> str | None:
    """What is typed for a key; None where nothing is."""
    return next((o.partition("=")[2] for o in reversed(overrides) if o.partition("=")[0].lstrip("+") == key), None)


def named(overrides: Overrides, differ: Collection[str]) -> str:
    """A contender in short: its model, and what else it has of what differs between contenders."""
    model = value_of(overrides, "model") or "the usual model"
    others = [o for o in overrides if o.partition("=")[0] in differ and o.partition("=")[0] not in ("model", "task")]
    return " ".join([model, *others])


def rows_of(folders: Sequence[Path]) -> list[Row]:
    """The rows of those runs that have finished."""
    return [row for folder in folders if (row := read_row(folder / ROW)) is not None]


def check_alike(named: Iterable[tuple[str, Settings]]) -> None:
    """Raises UsageError where contenders, each with its name, on one task are not trained and judged alike."""
    first: dict[str, tuple[str, Settings]] = {}
    for name, settings in named:
        other, known = first.setdefault(settings.env["id"], (name, settings))
        ours, theirs = ({k: v for k, v in leaves(vars(s)) if f"{k}.".startswith(ALIKE)} for s in (settings, known))
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                raise UsageError(
                    f"{key}: {ours.get(key)} for {name} and {theirs.get(key)} for {other}, which is no fair "
                    f"comparison; type {key}=VALUE for all of them"
                )


def check_apart(searched: Settings, reported: Settings) -> None:
    """Raises UsageError where the search plays episodes of the report, or those by which checkpoints are chosen."""
    plan, report = evaluation_plan(searched), evaluation_plan(reported)
    chosen_by = range((reported.selection or {}).get("num_episodes", 1))
    for name, seeds in (("report", report.seeds), ("selection of checkpoints", chosen_by)):
        if max(plan.seeds.start, seeds.start) < min(plan.seeds.stop, seeds.stop):
            raise UsageError(
                f"evaluation.first_seed={plan.first_seed}: the search would play episodes of the {name}, seeds "
                f"{seeds[0]} to {seeds[-1]}; leave it as conf/sweep/compare_search.yaml has it"
            )
