"""What MIKASA-Robo's experts share: one player per episode, who has seen what the vector observation showed so far."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from envs.experts.history import HistoryPolicy
from envs.experts.mikasa.arm import Arm
from envs.mikasa.scene import PER_OBJECT
from envs.vector import Observation, as_array


@dataclass(frozen=True)
class Seen:
    """One step of one episode, as numbers.

    joints: proprioception. visible: bool [objects]; places: float64 [objects, 3], metres, zero where not visible;
    heading: the angle of an object that has one; told: the angle that the task tells, while it does, else None.
    """

    joints: np.ndarray
    visible: np.ndarray
    places: np.ndarray
    heading: float | None
    told: float | None


class Player(ABC):
    """Plays one episode. It has no access to the simulator, so what it does follows from what was shown."""

    def __init__(self, arm: Arm) -> None:
        self.arm = arm

    @abstractmethod
    def act(self, seen: Seen) -> np.ndarray:
        """The action, float32 [8], after this step's observation."""


class MotionPolicy(HistoryPolicy):
    """A policy that has a `Player` for each episode. What was done shows in the joints."""

    def __init__(self, player: Callable[[Arm], Player]) -> None:
        self._player = player
        self._arm: Arm | None = None
        super().__init__()

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._players: list[Player | None] = [None] * num_envs

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """Actions float32 [N, 8]. Raises ValueError without the vector observation."""
        if "objects" not in observation:
            raise ValueError(f"the expert needs the vector observation (privileged=true); found {sorted(observation)}")
        if self._arm is None:
            self._arm = Arm()
        parts = {name: as_array(observation[name]) for name in ("joints", "objects", "cue") if name in observation}
        answers = np.zeros((len(is_first), 8), np.float32)
        for i, first in enumerate(is_first.tolist()):
            player = self._players[i]
            if first or player is None:
                player = self._players[i] = self._player(self._arm)
            answers[i] = player.act(_seen({name: part[i] for name, part in parts.items()}))
        return answers

    def __getstate__(self) -> dict[str, object]:
        return {"_player": self._player, "_arm": None, "_players": []}


def _seen(parts: dict[str, np.ndarray]) -> Seen:
    """One row of the vector observation, taken apart."""
    numbers = parts["objects"].astype(np.float64)
    count = len(numbers) // PER_OBJECT
    rows = numbers[: count * PER_OBJECT].reshape(count, PER_OBJECT)
    rest = numbers[count * PER_OBJECT :]
    heading = float(np.arctan2(rest[1], rest[0])) if len(rest) == 2 else None
    cue = parts.get("cue")
    told = float(cue[1]) if cue is not None and cue[0] > 0 else None
    return Seen(parts["joints"], rows[:, 0] > 0.5, rows[:, 1:], heading, told)
