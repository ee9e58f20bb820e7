"""What random play and the experts score on each task, and whether given episodes are up to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.popgym import family_and_level
from envs.suites import read_table

# How far a mean may fall below the expert's by chance, in its standard errors, and what is lost to rounding.
MOST_ERRORS, ROUNDING = 4.0, 2e-3


class LevelError(RuntimeError):
    """Episodes of an expert that are worse than the expert is known to be."""


@dataclass(frozen=True)
class Level:
    """Mean return of random play and of the expert, and the standard deviation of the expert's return."""

    random: float
    expert: float
    spread: float

    def normalised(self, mean_return: float) -> float:
        """0 for random play, 1 for the expert."""
        return (mean_return - self.random) / (self.expert - self.random)


def level_of(task: str) -> Level:
    """The level of a task such as "popgym-AutoencodeEasy-v0". Raises PopGymError for a name without one."""
    family_and_level(task)
    return LEVELS[task]


def check_level(task: str, returns: Sequence[float]) -> None:
    """Raises LevelError when the mean of an expert's returns is lower than chance explains; where there are any."""
    level = level_of(task)
    if not len(returns):
        return
    least = level.expert - MOST_ERRORS * level.spread / np.sqrt(len(returns)) - ROUNDING
    mean = float(np.mean(returns))
    if mean < least:
        raise LevelError(
            f"{task}: the expert scored {mean:.3f} on {len(returns)} episodes, expected at least {least:.3f} "
            f"(its mean is {level.expert:.3f}, random play {level.random:.3f}): check the installed version of popgym; "
            "an expert of your own is taken as it is with collect.check=null"
        )


LEVELS = {
    line.pop("task"): Level(**{name: float(value) for name, value in line.items()})
    for line in read_table(Path(__file__).with_name("levels.csv"))
}
