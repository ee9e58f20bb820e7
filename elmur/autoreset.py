"""Where episodes begin in vector environments that reset themselves, as Gymnasium's do."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
MODES = ("NextStep", "SameStep")  # `gymnasium.vector.AutoresetMode`, by its values


class EpisodeStarts:
    """`is_first` for `StreamingPolicy.act`, of a vector environment that resets itself.

        starts = EpisodeStarts(env.metadata["autoreset_mode"])
        observation, _ = env.reset(seed=0)
        is_first = starts.reset(env.num_envs)
        while ...:
            observation, reward, terminated, truncated, _ = env.step(policy.act(observation, is_first))
            is_first = starts.step(terminated, truncated)

    SameStep: the step that ends an episode already shows the first observation of the next. NextStep: it shows the last
    one of the old episode; what is done about it is ignored, and the step after it shows the first of the next. In
    both, nothing of an episode is in the memory that the next one begins with.
    """

    def __init__(self, mode: Any) -> None:
        """mode: an `AutoresetMode` or its value. Raises ValueError for one that leaves resetting to the caller."""
        self._mode = getattr(mode, "value", mode)
        if self._mode not in MODES:
            raise ValueError(
                f"autoreset_mode: expected {' or '.join(MODES)}, found {self._mode!r}; where you reset environments "
                "yourself, is_first is true for those that you have just reset"
            )

    def reset(self, num_envs: int) -> Flags:
        """After `env.reset`: true for every environment."""
        self._ended = np.zeros(num_envs, np.bool_)
        return np.ones(num_envs, np.bool_)

    def step(self, terminated: Flags, truncated: Flags) -> Flags:
        """After `env.step`: true where the observation that it gave is the first of an episode."""
        ended = np.asarray(terminated, np.bool_) | np.asarray(truncated, np.bool_)
        before, self._ended = self._ended, ended
        return ended if self._mode == "SameStep" else before
