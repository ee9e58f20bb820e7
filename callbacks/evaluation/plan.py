"""How a policy is judged: how many episodes, on which seeds, and how it acts in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from callbacks.evaluation.device import check_device
from envs.vector import VectorEnv

FIRST_SEED_OF_COLLECTION = 1_000_000  # seeds from here on are trained on
MOST_FILMED = 64
Variants = Mapping[str, Mapping[str, Any]]  # of an env: name -> arguments
MakeEnv = Callable[..., VectorEnv]  # called as make_env(num_envs=N, **variant)


@dataclass(frozen=True)
class EvaluationPlan:
    """How a policy is judged: how many episodes, on which seeds, how many side by side, and how it acts.

    processes: how many may share the waves on the CPU, see `callbacks.evaluation.evaluate.evaluate`.
    device: on which the policy acts, as `callbacks.evaluation.device.placed` has it.
    video: episodes that are filmed (see callbacks/evaluation/video.py).
    compile: the policy's steps by torch.compile. isolate: environments run in a process of their own, where a step may
    take `step_timeout` seconds.
    cost_after: steps of one episode after which it is measured what acting takes and holds; 0: not measured.
    """

    num_episodes: int = 100
    num_envs: int = 100
    first_seed: int = 500_000
    sample: bool = False
    target_return: float = 1.0
    compile: bool = False
    isolate: bool = False
    step_timeout: float = 60.0
    video: int = 0
    device: str = "auto"
    cost_after: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        check_device(self.device)
        if not self.step_timeout > 0:
            raise ValueError(f"step_timeout={self.step_timeout}; it must be more than 0 seconds")
        if not 0 <= self.video <= MOST_FILMED:
            raise ValueError(f"video={self.video}; it must be a number of episodes from 0 to {MOST_FILMED}")
        if self.cost_after < 0 or (self.cost_after and self.device != "cpu"):
            found = f"cost_after={self.cost_after}, device={self.device}"
            raise ValueError(f"cost_after is a number of steps from 0 up, and needs device=cpu; found {found}")
        if min(self.num_episodes, self.num_envs, self.processes) < 1:
            found = f"num_episodes={self.num_episodes}, num_envs={self.num_envs}, processes={self.processes}"
            raise ValueError(f"expected num_episodes, num_envs and processes of 1 or more; found {found}")
        if not 0 <= self.first_seed <= FIRST_SEED_OF_COLLECTION - self.num_episodes:
            raise ValueError(
                f"first_seed={self.first_seed}: {self.num_episodes} seeds from there must lie between 0 and "
                f"{FIRST_SEED_OF_COLLECTION}, where those of the training data begin"
            )

    @property
    def seeds(self) -> range:
        """The seeds of its episodes."""
        return range(self.first_seed, self.first_seed + self.num_episodes)

    def waves(self) -> list[range]:
        """The seeds of the episodes that are played side by side."""
        return [self.seeds[i : i + self.num_envs] for i in range(0, self.num_episodes, self.num_envs)]

    @property
    def acting(self) -> dict[str, Any]:
        """How the policy acts: arguments of `StreamingPolicy`."""
        return {"sample": self.sample, "target_return": self.target_return, "compiled": self.compile}

    @property
    def isolation(self) -> float | None:
        """Seconds that a step may take in a process of its own; None without one."""
        return self.step_timeout if self.isolate else None
