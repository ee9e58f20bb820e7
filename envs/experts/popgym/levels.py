"""What random play and the experts score on each task, and whether given episodes are up to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs.popgym import family_and_level

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
    """Raises LevelError when the mean of an expert's returns is lower than chance explains."""
    level = level_of(task)
    least = level.expert - MOST_ERRORS * level.spread / np.sqrt(len(returns)) - ROUNDING
    mean = float(np.mean(returns))
    if mean < least:
        raise LevelError(
            f"{task}: the expert scored {mean:.3f} on {len(returns)} episodes, expected at least {least:.3f} "
            f"(its mean is {level.expert:.3f}, random play {level.random:.3f}): check the installed version of popgym"
        )


# 1000 episodes each, seeds 1000000 to 1000999, popgym 1.0.7 and gymnasium 1.4.0.
LEVELS = {
    "popgym-AutoencodeEasy-v0": Level(-0.497, 1.0000, 0.000),
    "popgym-AutoencodeMedium-v0": Level(-0.498, 1.0000, 0.000),
    "popgym-AutoencodeHard-v0": Level(-0.500, 1.0000, 0.000),
    "popgym-RepeatFirstEasy-v0": Level(-0.504, 1.0000, 0.000),
    "popgym-RepeatFirstMedium-v0": Level(-0.501, 1.0000, 0.000),
    "popgym-RepeatFirstHard-v0": Level(-0.500, 1.0000, 0.000),
    "popgym-RepeatPreviousEasy-v0": Level(-0.495, 1.0000, 0.000),
    "popgym-RepeatPreviousMedium-v0": Level(-0.501, 1.0000, 0.000),
    "popgym-RepeatPreviousHard-v0": Level(-0.498, 1.0000, 0.000),
    "popgym-CountRecallEasy-v0": Level(-0.927, 1.0000, 0.000),
    "popgym-CountRecallMedium-v0": Level(-0.925, 1.0000, 0.000),
    "popgym-CountRecallHard-v0": Level(-0.882, 1.0000, 0.000),
    "popgym-HigherLowerEasy-v0": Level(0.003, 0.5290, 0.095),
    "popgym-HigherLowerMedium-v0": Level(-0.004, 0.5152, 0.070),
    "popgym-HigherLowerHard-v0": Level(-0.001, 0.5102, 0.057),
    "popgym-ConcentrationEasy-v0": Level(-0.203, 0.8150, 0.038),
    "popgym-ConcentrationMedium-v0": Level(-0.184, 0.8148, 0.025),
    "popgym-ConcentrationHard-v0": Level(-0.839, 0.6975, 0.025),
    "popgym-MultiarmedBanditEasy-v0": Level(0.008, 0.7307, 0.206),
    "popgym-MultiarmedBanditMedium-v0": Level(-0.000, 0.8259, 0.130),
    "popgym-MultiarmedBanditHard-v0": Level(0.001, 0.8615, 0.098),
    "popgym-BattleshipEasy-v0": Level(-0.449, 0.6337, 0.114),
    "popgym-BattleshipMedium-v0": Level(-0.415, 0.6523, 0.108),
    "popgym-BattleshipHard-v0": Level(-0.402, 0.6631, 0.101),
    "popgym-MineSweeperEasy-v0": Level(-0.243, 0.7878, 0.534),
    "popgym-MineSweeperMedium-v0": Level(-0.398, 0.6247, 0.642),
    "popgym-MineSweeperHard-v0": Level(-0.434, 0.6169, 0.642),
    "popgym-LabyrinthEscapeEasy-v0": Level(-0.425, 0.9664, 0.016),
    "popgym-LabyrinthEscapeMedium-v0": Level(-0.811, 0.9337, 0.035),
    "popgym-LabyrinthEscapeHard-v0": Level(-0.961, 0.8906, 0.060),
    "popgym-LabyrinthExploreEasy-v0": Level(-0.357, 0.9695, 0.009),
    "popgym-LabyrinthExploreMedium-v0": Level(-0.609, 0.9271, 0.016),
    "popgym-LabyrinthExploreHard-v0": Level(-0.747, 0.8670, 0.019),
    "popgym-PositionOnlyCartPoleEasy-v0": Level(0.111, 1.0000, 0.000),
    "popgym-PositionOnlyCartPoleMedium-v0": Level(0.055, 1.0000, 0.000),
    "popgym-PositionOnlyCartPoleHard-v0": Level(0.037, 1.0000, 0.000),
    "popgym-VelocityOnlyCartpoleEasy-v0": Level(0.111, 1.0000, 0.000),
    "popgym-VelocityOnlyCartpoleMedium-v0": Level(0.055, 1.0000, 0.000),
    "popgym-VelocityOnlyCartpoleHard-v0": Level(0.037, 1.0000, 0.000),
    "popgym-NoisyPositionOnlyCartPoleEasy-v0": Level(0.111, 0.9871, 0.073),
    "popgym-NoisyPositionOnlyCartPoleMedium-v0": Level(0.111, 0.6634, 0.272),
    "popgym-NoisyPositionOnlyCartPoleHard-v0": Level(0.111, 0.3865, 0.196),
    "popgym-PositionOnlyPendulumEasy-v0": Level(0.242, 0.9136, 0.047),
    "popgym-PositionOnlyPendulumMedium-v0": Level(0.243, 0.8849, 0.063),
    "popgym-PositionOnlyPendulumHard-v0": Level(0.242, 0.8273, 0.092),
    "popgym-NoisyPositionOnlyPendulumEasy-v0": Level(0.242, 0.8942, 0.066),
    "popgym-NoisyPositionOnlyPendulumMedium-v0": Level(0.242, 0.7486, 0.066),
    "popgym-NoisyPositionOnlyPendulumHard-v0": Level(0.242, 0.6862, 0.057),
}
