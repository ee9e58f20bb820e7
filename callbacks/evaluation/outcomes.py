"""How a policy did: figures over episodes, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from envs.family import RETURN as RETURN
from envs.isolated import EnvError
from envs.rollout import Episode
from envs.vector import SUCCESS

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measure:
    """One metric over episodes: its mean, the standard error of it, and the interval at CONFIDENCE.

    values: of every episode, in the order of the seeds; none where a row of before kept the mean alone. The interval
    is Wilson's for what was met or not met, None where there are no values, else by the standard error.
    """

    mean: float
    error: float = 0.0
    interval: tuple[float, float] | None = None
    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Sequence[float]) -> Measure:
        """The measure of these values, of which there must be one."""
        numbers = np.asarray(values, np.float64)
        mean, error = float(numbers.mean()), float(stats.sem(numbers)) if len(numbers) > 1 else 0.0
        if all(isinstance(value, bool) for value in values):
            found = stats.binomtest(int(numbers.sum()), len(numbers)).proportion_ci(CONFIDENCE, method="wilson")
            return cls(mean, error, (float(found.low), float(found.high)), tuple(values))
        reach = error * float(stats.norm.ppf((1 + CONFIDENCE) / 2))
        return cls(mean, error, (mean - reach, mean + reach), tuple(values))


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
        """What `to_json` gave, today or in a row of before. Raises KeyError or TypeError for anything else."""
        if found["episodes"] != len(found["seeds"]):
            raise ValueError(f"episodes: expected {len(found['seeds'])}, one for each seed; found {found['episodes']}")
        values = {SUCCESS: found["successes"]} if "successes" in found else {}
        values |= found.get("values", {})
        measured = {name: Measure.of(list(of)) for name, of in values.items()}
        if "values" not in found and "success_at_end" in found:  # its episodes were not kept then
            measured["success_at_end"] = Measure(float(found["success_at_end"]))
        measured[RETURN] = Measure.of([float(value) for value in found["returns"]])
        about = float(found["mean_length"]), float(found["wall_seconds"]), dict(found.get("env_errors", {}))
        return cls([int(seed) for seed in found["seeds"]], measured, *about)
