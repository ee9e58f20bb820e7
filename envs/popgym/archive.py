"""Episodes of the published POPGym archive (npz: obs, action, reward, done) as what the adapter would have shown."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from elmur.spec import Discrete
from envs.popgym import LABYRINTHS, SPECTATING, PopGym, family_and_level
from envs.rollout import Trajectory

GOALS = ("Battleship", "Concentration", "MineSweeper", *LABYRINTHS)  # families that end where all is found
ALL, MINE = 0.998, -0.5  # more than that is all that can be gained, less than that is what a mine costs


class PublishedEpisodes:
    """Turns the arrays of one file into an episode of a task: `read(arrays) -> Trajectory`.

    obs [T, 1], [T, n] or [T, 1, n]: what POPGym shows, without the wrappers it was collected with. action [T], [T, 2]
    (row and column) or [T, 1] (Pendulum). reward, done [T]; done is true at the last step of an episode that ended or
    was cut by the clock, which are told apart here.
    The previous action and the first step, which the archive left out, follow from these.
    """

    keys: tuple[str, ...] = ("obs", "action", "reward", "done")
    made_with: Mapping[str, str] = {"popgym": "1.0.6"}  # the version whose episodes the archive holds

    def __init__(self, id: str) -> None:
        env = PopGym(id)
        self.spec, self._shape, self._first_judged = env.task_spec, env._shape, env._first_judged
        self._family, _ = family_and_level(id)
        env.close()

    def read(self, arrays: Mapping[str, np.ndarray]) -> Trajectory:
        """The episode. Raises ValueError where the arrays are not as above; values are checked by the writer."""
        reward, done = (self._line(arrays, key) for key in ("reward", "done"))
        if len(done) != len(reward):
            raise ValueError(f"done: expected {len(reward)} steps, found {len(done)}")
        length = len(reward)
        shown = self.spec.observation["observation"]
        observation = {"observation": self._rows("obs", arrays["obs"], length, shown.shape[0])}
        action = arrays["action"]
        if isinstance(self.spec.action, Discrete):
            if self._shape is not None:
                pair = self._rows("action", action, length, 2)
                if (pair < 0).any() or (pair >= np.array(self._shape)).any():
                    raise ValueError(f"action: expected rows and columns below {list(self._shape)}")
                action = pair[:, 0] * self._shape[1] + pair[:, 1]
            else:
                action = self._rows("action", action, length, 1)[:, 0]
            action = whole("action", action)
            before = np.concatenate([[0], action[:-1] + 1])[:, None]
        else:  # the environment clips what lies outside
            low, high = np.array([self.spec.action.low, self.spec.action.high], np.float32)
            action = np.clip(self._rows("action", action, length, self.spec.action.size).astype(np.float32), low, high)
            before = np.concatenate([np.zeros_like(action[:1]), action[:-1]])
        told = {"previous_action": before, "first": (np.arange(length) == 0).astype(np.int64)[:, None]}
        observation |= {name: told[name] for name in self.spec.observation if name in told}
        if isinstance(shown, Discrete):
            observation["observation"] = whole("obs", observation["observation"])
        if done[:-1].astype(bool).any():
            raise ValueError(f"done: expected the end of the episode last, found it at step {int(done[:-1].argmax())}")
        judged = np.arange(length) >= self._first_judged
        ended = bool(done[-1]) and (length != self.spec.horizon or ended_by_itself(self._family, reward))
        return Trajectory(observation, action, reward.astype(np.float32), ended, not ended, judged)

    @staticmethod
    def _line(arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
        values = arrays[key]
        if values.ndim != 1 or not len(values) or values.dtype.kind not in "biuf":
            raise ValueError(f"{key}: expected numbers [T], found {values.dtype} {list(values.shape)}")
        return values

    @staticmethod
    def _rows(key: str, values: np.ndarray, length: int, size: int) -> np.ndarray:
        """The array as [T, size]."""
        if values.dtype.kind not in "biuf" or len(values) != length or values.size != length * size:
            raise ValueError(
                f"{key}: expected {length} steps of {size} numbers, found {values.dtype} {list(values.shape)}"
            )
        return values.reshape(length, size)


def ended_by_itself(family: str, reward: np.ndarray) -> bool:
    """Whether an episode of full length reached an end of its own, and was not cut by the clock there.

    Where nothing is done but watching, the deck ends it; what is steered, and a bandit, has no end but the clock.
    """
    if family not in GOALS:
        return family in SPECTATING
    return bool(reward[reward > 0].sum() > ALL or reward[-1] < MINE)


def whole(key: str, values: np.ndarray) -> np.ndarray:
    """The array as integers. Raises ValueError where it holds others."""
    integers = values.astype(np.int64)
    if (integers != values).any():
        raise ValueError(f"{key}: expected whole numbers, found {values[integers != values][0]}")
    return integers
