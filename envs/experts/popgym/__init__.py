"""An expert for each of POPGym's 48 tasks; what it does follows from the observations alone, so it can be imitated."""

from __future__ import annotations

from collections.abc import Callable

from envs.experts.history import HistoryPolicy
from envs.experts.popgym.bandit import Bandit
from envs.experts.popgym.battleship import Battleship
from envs.experts.popgym.cards import Concentration, HigherLower
from envs.experts.popgym.cartpole import NoisyPositionOnly, PositionOnly, VelocityOnly
from envs.experts.popgym.labyrinth import LabyrinthEscape, LabyrinthExplore
from envs.experts.popgym.memory import Autoencode, CountRecall, RepeatFirst, RepeatPrevious
from envs.experts.popgym.minesweeper import MineSweeper
from envs.experts.popgym.pendulum import NoisyPendulum, PositionOnlyPendulum
from envs.popgym import family_and_level

EXPERTS: dict[str, Callable[[str], HistoryPolicy]] = {
    "Autoencode": Autoencode,
    "RepeatFirst": RepeatFirst,
    "RepeatPrevious": RepeatPrevious,
    "CountRecall": CountRecall,
    "HigherLower": HigherLower,
    "Concentration": Concentration,
    "MultiarmedBandit": Bandit,
    "Battleship": Battleship,
    "MineSweeper": MineSweeper,
    "LabyrinthEscape": LabyrinthEscape,
    "LabyrinthExplore": LabyrinthExplore,
    "PositionOnlyCartPole": PositionOnly,
    "VelocityOnlyCartpole": VelocityOnly,
    "NoisyPositionOnlyCartPole": NoisyPositionOnly,
    "PositionOnlyPendulum": PositionOnlyPendulum,
    "NoisyPositionOnlyPendulum": NoisyPendulum,
}


def expert_for(task: str) -> HistoryPolicy:
    """The expert for a task such as "popgym-AutoencodeEasy-v0". Raises PopGymError for a name without one."""
    family, level = family_and_level(task)
    return EXPERTS[family](level)
