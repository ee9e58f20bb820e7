"""Environments for tests of what Gymnasium's registry gives, under ids of their own."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Walk(gymnasium.Env[Any, Any]):
    """Of `length` steps; the observation counts them from a number that the seed draws, the last info says success.

    key: what it is called there, None: it says nothing. drifts: every episode of this process begins elsewhere.
    """

    count = 0

    def __init__(self, length: int = 4, key: str | None = "is_success", drifts: bool = False) -> None:
        self.length, self.key, self.drifts = length, key, drifts
        self.observation_space = spaces.Dict({"at": spaces.Box(-np.inf, np.inf, (1,)), "name": spaces.Text(5)})
        self.action_space = spaces.MultiDiscrete([2, 2])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        Walk.count += 1
        self.at, self.steps = float(self.np_random.integers(100)) + (Walk.count if self.drifts else 0), 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at, self.steps = self.at + 1, self.steps + 1
        over = self.steps >= self.length
        info = {self.key: bool(action[1])} if over and self.key else {}
        return self._seen(), float(action[0]), over, False, info

    def _seen(self) -> Any:
        return {"at": np.array([self.at], np.float32), "name": "walk"}


class Faulty(Walk):
    """Wrong in one way. fault: which."""

    def __init__(self, fault: str) -> None:
        if fault == "init":
            raise RuntimeError("licence not found")
        self.fault, self.action_space = fault, spaces.Discrete(2)
        if fault != "space":
            self.observation_space = spaces.Box(-1, 1, (2,))

    def reset(self, **given: Any) -> Any:
        self.steps = 0
        if self.fault == "seed" and "seed" in given:
            raise TypeError("reset() got an unexpected keyword argument 'seed'")
        seen = np.zeros(3 if self.fault == "shape" else 2, np.float32)
        return seen if self.fault == "alone" else (seen, {})

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.fault == "key" and self.steps == 2:
            raise KeyError("velocity")
        seen, reward = np.zeros(2, np.float32), None if self.fault == "reward" else 0.0
        return (seen, 0.0, False, {}) if self.fault == "four" else (seen, reward, False, False, {})


gymnasium.register("tests/Faulty-v0", entry_point=lambda **arguments: Faulty(**arguments), max_episode_steps=3)
for _name, _limit in {"Walk": 3, "Endless": None}.items():
    gymnasium.register(f"tests/{_name}-v0", entry_point=lambda **arguments: Walk(**arguments), max_episode_steps=_limit)
gymnasium.register("tests/Needy-v0", entry_point="package_that_nobody_has:Env")
