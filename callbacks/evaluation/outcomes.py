"""How a policy did: figures over episodes, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from callbacks.report.statistics import CONFIDENCE, wilson
from envs.family import RETURN as RETURN
from envs.isolated import EnvError
from envs.rollout import Episode
from envs.vector import SUCCESS

LARGEST = 1e100  # a value of an episode; squares and sums of them are finite


@dataclass(frozen=True)
class Measure:
    """One metric over episodes: its mean, the standard error of it, and the interval at CONFIDENCE.

    values: of every episode, in the order of the seeds; none where a row of before kept the mean alone.
    """

    mean: float
    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Sequence[float]) -> Measure:
        """The measure of these values, of which there must be one."""
        return cls(float(np.mean(np.asarray(values, np.float64))), tuple(values))

    @property
    def is_share(self) -> bool:
        """Whether it was met or not met in every episode."""
        return bool(self.values) and all(isinstance(value, bool) for value in self.values)

    @cached_property
    def error(self) -> float:
        """Standard error of the mean; 0 of less than two values."""
        return float(stats.sem(np.asarray(self.values, np.float64))) if len(self.values) > 1 else 0.0

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's for what was met or not met, None where there are no values, else by the standard error."""
        if self.is_share:
            return wilson(sum(map(int, self.values)), len(self.values))
        reach = self.error * float(stats.norm.ppf((1 + CONFIDENCE) / 2))
        return (self.mean - reach, self.mean + reach) if self.values else None


@dataclass(frozen=True)
class Outcome:
    """How a policy did in one variant: each metric of the environment, `return` among them, and every episode.

    env_errors: the episodes that could not be played, seed -> why; they are in none of the other figures.
    """

    seeds: list[int]
    metrics: dict[str, Measure]
    mean_length: float
    wall_seconds: float
    env_errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, episodes: list[Episode], wall_seconds: float) -> Outcome:
        """The outcome of these episodes. Raises EnvError where none of them could be played."""
        lost = {str(episode.seed): episode.error for episode in episodes if episode.error is not None}
        episodes = [episode for episode in episodes if episode.error is None]
        if not episodes:
            raise EnvError(f"none of {len(lost)} episodes could be played: {next(iter(lost.values()), None)}")
        names = dict.fromkeys(name for episode in episodes for name in episode.metrics)
        # An episode that was cut off before its end met nothing.
        measured = {name: Measure.of([e.metrics.get(name, False) for e in episodes]) for name in names}
        measured[RETURN] = Measure.of([episode.episode_return for episode in episodes])
        length = float(np.mean([episode.length for episode in episodes]))
        return cls([episode.seed for episode in episodes], measured, length, wall_seconds, lost)

    def metric(self, name: str) -> float:
        """The mean of a metric. Raises ValueError where nothing of that name was measured."""
        if name not in self.metrics:
            raise ValueError(f"env.metric: expected one of {', '.join(self.metrics)}; found {name!r}")
        return self.metrics[name].mean

    @property
    def episodes(self) -> int:
        """How many episodes were played."""
        return len(self.seeds)

    def to_json(self) -> dict[str, Any]:
        """Plain values: of each metric `NAME` its mean, `NAME_interval`, and the episodes' values."""
        shown: dict[str, Any] = {"episodes": self.episodes}
        for name, measure in self.metrics.items():
            if name != RETURN:
                shown |= {name: measure.mean, f"{name}_interval": measure.interval}
        gained = self.metrics[RETURN]
        shown |= {"mean_return": gained.mean, "return_error": gained.error, "mean_length": self.mean_length}
        values = {name: list(measure.values) for name, measure in self.metrics.items() if name != RETURN}
        if SUCCESS in values:
            shown["successes"] = values.pop(SUCCESS)
        shown |= {"wall_seconds": self.wall_seconds, "seeds": self.seeds, "returns": list(gained.values)}
        return {**shown, "values": values, "env_errors": self.env_errors}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Outcome:
        """What `to_json` gave, today or in a row of before.

        Raises KeyError for what it lacks, ValueError for other values, TypeError or AttributeError where it is no row.
        """
        seeds = _checked("seeds", found["seeds"], int)
        if not seeds or found["episodes"] != len(seeds) or len(set(seeds)) < len(seeds):
            raise ValueError(f"episodes: expected 1 or more, each of its own seed; found {found['episodes']!r}")
        values = {SUCCESS: _checked("successes", found["successes"], bool)} if "successes" in found else {}
        for name, of in {**found.get("values", {}), RETURN: found["returns"]}.items():
            # An episode that was cut off before its end met nothing, also where others have numbers.
            met = name != RETURN and isinstance(of, list) and all(type(value) is bool for value in of)
            values[name] = _checked(name, of, bool if met else float)
        if short := [name for name, of in values.items() if len(of) != len(seeds)]:
            raise ValueError(f"{short[0]}: expected {len(seeds)} values, one for each seed")
        measured = {name: Measure.of(of) for name, of in values.items()}
        if "values" not in found and "success_at_end" in found:  # its episodes were not kept then
            measured["success_at_end"] = Measure(*_checked("success_at_end", [found["success_at_end"]], float))
        length, wall = (_checked(key, [found[key]], float)[0] for key in ("mean_length", "wall_seconds"))
        if length < 0 or wall < 0:
            raise ValueError("mean_length, wall_seconds: expected 0 or more")
        lost = found.get("env_errors", {})
        if not isinstance(lost, dict) or not all(isinstance(why, str) for why in lost.values()):
            raise ValueError("env_errors: expected seed -> why")
        return cls(seeds, measured, length, wall, lost)


def _checked(name: str, values: Any, kind: type) -> list[Any]:
    """A list of one kind of finite values; whole numbers will do for a float. Raises ValueError for others."""
    kinds = (int, float, bool) if kind is float else (kind,)
    if not isinstance(values, list) or not all(type(value) in kinds for value in values):
        raise ValueError(f"{name}: expected a list of {kind.__name__}")
    if kind is float and not all(abs(value) < LARGEST for value in values):  # nor is NaN
        raise ValueError(f"{name}: expected numbers below {LARGEST:.0e}")
    return [kind(value) for value in values]
