"""How a policy did: figures over episodes, with intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from envs.isolated import EnvError
from envs.rollout import Episode

CONFIDENCE = 0.95
METRICS = ("success", "success_at_end", "return")


def check_metric(name: str) -> None:
    """Raises ValueError where no outcome has a figure of that name."""
    if name not in METRICS:
        raise ValueError(f"env.metric: expected one of {', '.join(METRICS)}; found {name!r}")


@dataclass(frozen=True)
class Outcome:
    """How a policy did in one variant: means, 95 % intervals, and every episode by itself.

    env_errors: the episodes that could not be played, seed -> why; they are in none of the other figures.
    """

    success: float
    success_interval: tuple[float, float]
    mean_return: float
    return_error: float
    mean_length: float
    wall_seconds: float
    seeds: list[int]
    returns: list[float]
    successes: list[bool]
    env_errors: dict[str, str] = field(default_factory=dict)
    success_at_end: float = 0.0

    @classmethod
    def of(cls, episodes: list[Episode], wall_seconds: float) -> Outcome:
        """The outcome of these episodes. Raises EnvError where none of them could be played."""
        lost = {str(episode.seed): episode.error for episode in episodes if episode.error is not None}
        episodes = [episode for episode in episodes if episode.error is None]
        if not episodes:
            raise EnvError(f"none of {len(lost)} episodes could be played: {next(iter(lost.values()), None)}")
        won = [bool(episode.success) for episode in episodes]
        returns = np.array([episode.episode_return for episode in episodes], dtype=np.float64)
        interval = stats.binomtest(sum(won), len(won)).proportion_ci(CONFIDENCE, method="wilson")
        return cls(
            success=float(np.mean(won)),
            success_interval=(float(interval.low), float(interval.high)),
            mean_return=float(returns.mean()),
            return_error=float(stats.sem(returns)) if len(returns) > 1 else 0.0,
            mean_length=float(np.mean([episode.length for episode in episodes])),
            wall_seconds=wall_seconds,
            seeds=[episode.seed for episode in episodes],
            returns=returns.tolist(),
            successes=won,
            env_errors=lost,
            success_at_end=float(np.mean([episode.success_at_end for episode in episodes])),
        )

    def metric(self, name: str) -> float:
        """The figure of that name: `success`, `success_at_end` or `return`."""
        check_metric(name)
        return {"success": self.success, "success_at_end": self.success_at_end, "return": self.mean_return}[name]

    @property
    def episodes(self) -> int:
        """How many episodes were played."""
        return len(self.seeds)

    def to_json(self) -> dict[str, Any]:
        return {"episodes": self.episodes, **asdict(self)}
