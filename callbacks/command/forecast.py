"""What a sweep will take, said before it begins: runs, time and disk, from what such runs took when measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from joblib import cpu_count
from rich.filesize import decimal

ANY = "any"  # the unit cost of a run that no override has a cost of its own for

Units = Mapping[str, Mapping[str, Any]]  # override -> seconds and megabytes of a run with it, on one core


def jobs(config: Any) -> list[list[str]]:
    """The overrides of each run of a multirun, as Hydra's basic sweeper will launch them."""
    params = config.hydra.sweeper.get("params") or {}
    given = [f"{key}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return [list(job) for job in BasicSweeper.split_arguments(parser.parse_overrides(given), None)[0]]


def forecast(jobs: Sequence[Sequence[str]], units: Units, at_once: int = 1) -> str:
    """How many runs there are, how long they take and how much disk.

    units: see Units; the first override of a job that has one gives its cost, else `any`. at_once: runs side by side,
    -1 for one a core. Raises KeyError where a job has no cost.
    """
    costs = [next((units[key] for key in job if key in units), units.get(ANY)) for job in jobs]
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        raise KeyError(ANY)
    side_by_side = max(1, min(len(jobs), cpu_count() if at_once == -1 else at_once))
    seconds = sum(float(cost["seconds"]) for cost in known) / side_by_side
    size = round(1e6 * sum(float(cost["megabytes"]) for cost in known))
    return (
        f"{len(jobs)} runs, {side_by_side} side by side: about {timedelta(seconds=60 * round(seconds / 60) or 60)} and "
        f"{decimal(size)} where none is finished; what is finished is kept, and the same command goes on"
    )
