"""EnvFamily: a world and all that the rest of the project needs to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from envs.rollout import Policy
from envs.vector import VectorEnv

RETURN = "return"  # the metric that every environment has, beside those that it names itself


class Reference(Protocol):
    """What is known of a task's returns, as a dataclass."""

    random: float
    expert: float


@dataclass(frozen=True, kw_only=True)
class EnvFamily:
    """A world: how it is made, who shows how it is done, what is measured; the fields are the keys of `env`.

    name: of the family, conf/env/<name>.yaml. id: of the task. dataset: the folder of its shards.
    make: called as make(num_envs=N, **variant); None where there are trajectories alone. render: the same, of
    environments that can be looked at.
    variants: name -> arguments of `make`, in which a policy is reported; selection: those by which one is chosen.
    expert: shows how it is done, or None. metric: by which a policy is chosen: the environment names it, or `return`.
    chance: its value for guessing. reference: returns of random play and of the expert. suite: of tasks reported
    together. archive: reads the published episodes. benchmark: tasks whose speed is measured.
    lengths: a value that other parts of the configuration refer to.
    """

    name: str
    id: str
    dataset: str
    make: Callable[..., VectorEnv] | None = None
    expert: Policy | None = None
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"all": {}})
    selection: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"all": {}})
    metric: str = RETURN
    chance: float | None = None
    reference: Reference | None = None
    suite: str | None = None
    render: Callable[..., VectorEnv] | None = None
    archive: Callable[[], Any] | None = None
    benchmark: Sequence[Mapping[str, Any]] = ()
    lengths: Any = None

    @property
    def world(self) -> Callable[..., VectorEnv]:
        """What makes its environments. Raises ValueError where there are none to act in."""
        self.check_acts()
        assert self.make is not None
        return self.make

    def check_acts(self) -> None:
        """Raises ValueError where there are trajectories alone."""
        if self.make is None:
            raise ValueError(
                f"env={self.name}: these are trajectories alone, without an environment to act in; for success name "
                "the one that they come from, as in env=gym env.id=CartPole-v1"
            )

    def check_metric(self, env: VectorEnv) -> None:
        """Raises ValueError unless the environment measures what policies are chosen by."""
        known = [*env.metrics, RETURN]
        if self.metric not in known:
            raise ValueError(f"env.metric: expected one of {', '.join(known)}; found {self.metric!r}")
