"""Judging a policy by acting: episodes on given seeds, in every variant of an environment, with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy import stats

from callbacks.halfway import Halfway
from elmur import ranks
from envs.isolated import EnvError, IsolatedVector, rollout_isolated
from envs.rollout import Episode, Policy, can_keep, rollout
from envs.vector import VectorEnv

PATIENCE = 2.0  # seconds before a progress bar appears
CONFIDENCE = 0.95
FIRST_SEED_OF_COLLECTION = 1_000_000  # seeds from here on are trained on
MOST_FILMED = 64
METRICS = ("success", "success_at_end", "return")


def check_metric(name: str) -> None:
    """Raises ValueError where no outcome has a figure of that name."""
    if name not in METRICS:
        raise ValueError(f"env.metric: expected one of {', '.join(METRICS)}; found {name!r}")


@dataclass(frozen=True)
class Plan:
    """How a policy is judged: how many episodes, on which seeds, how many side by side, and how it acts.

    video: episodes that are filmed (see callbacks/video.py).
    compile: the policy's steps by torch.compile. isolate: environments run in a process of their own, where a step may
    take `step_timeout` seconds.
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

    def __post_init__(self) -> None:
        if not self.step_timeout > 0:
            raise ValueError(f"step_timeout={self.step_timeout}; it must be more than 0 seconds")
        if not 0 <= self.video <= MOST_FILMED:
            raise ValueError(f"video={self.video}; it must be a number of episodes from 0 to {MOST_FILMED}")
        if min(self.num_episodes, self.num_envs) < 1:
            raise ValueError(f"num_episodes={self.num_episodes}, num_envs={self.num_envs}; each must be 1 or more")
        if not 0 <= self.first_seed <= FIRST_SEED_OF_COLLECTION - self.num_episodes:
            raise ValueError(
                f"first_seed={self.first_seed}: {self.num_episodes} seeds from there must lie between 0 and "
                f"{FIRST_SEED_OF_COLLECTION}, where those of the training data begin"
            )

    @property
    def asked(self) -> tuple[int, int, int]:
        """How many episodes, from which seed on, how many side by side: arguments of `evaluate`."""
        return self.num_episodes, self.first_seed, self.num_envs

    @property
    def acting(self) -> dict[str, Any]:
        """How the policy acts: arguments of `StreamingPolicy`."""
        return {"sample": self.sample, "target_return": self.target_return, "compiled": self.compile}

    @property
    def isolation(self) -> float | None:
        """Seconds that a step may take in a process of its own; None without one."""
        return self.step_timeout if self.isolate else None


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


def evaluate(
    policy: Policy,
    make_env: Callable[..., VectorEnv],
    variants: Mapping[str, Mapping[str, Any]],
    num_episodes: int,
    first_seed: int,
    num_envs: int = 100,
    policy_seed: int = 0,
    progress: bool = True,
    isolation: float | None = None,
    halfway: Halfway | None = None,
    pause: Callable[[], object] = lambda: None,
) -> dict[str, Outcome]:
    """The outcome in every variant, over the episodes of seeds `first_seed .. first_seed + num_episodes - 1`.

    make_env is called as make_env(num_envs=N, **variant). Nothing here touches a global random generator, so a
    training run that evaluates goes on as if it had not.
    Episodes are played in waves of `num_envs`, each of which depends on its own seeds alone. Several processes share
    the waves and all of them get the outcomes, the same as those of one; so all of them must call this.
    halfway: what of this evaluation was played before, and where it is kept. pause: called after every step.
    isolation: environments run in a process of their own, where each step may take so many seconds; an episode that is
    lost there twice is an `env_error` (see envs/isolated.py). None: they run in this process, and an error is raised.
    """
    waves = waves_of(num_episodes, first_seed, num_envs)
    rank, count = ranks.place()
    mine = [(name, number) for name in variants for number in range(len(waves))][rank::count]
    played: dict[tuple[str, int], list[Episode]] = {}
    halfway = halfway or Halfway()
    with one_thread(), _bar(len(variants), progress and rank == 0) as show:
        for done, (name, variant) in enumerate(variants.items()):
            numbers = [number for variant_name, number in mine if variant_name == name]
            if not numbers:
                continue

            def on_step(step: int, running: int, done: int = done, name: str = name) -> None:
                pause()
                if step % 256 == 0:
                    show(done, name, step, running)

            env = _open(make_env, min(num_envs, num_episodes), variant, isolation)
            act = rollout_isolated if isinstance(env, IsolatedVector) else rollout
            play = partial(act, env, policy, on_step=on_step)  # type: ignore[arg-type]
            exact = isolation is None and can_keep(env, policy)
            try:
                for number in numbers:
                    wave = partial(play, seeds=waves[number], policy_seed=policy_seed + number)
                    played[name, number] = halfway.wave(name, number, wave, exact)
            finally:
                env.close()
    return gathered(ranks.from_all((played, halfway.spent)), variants, len(waves))


def waves_of(num_episodes: int, first_seed: int, num_envs: int) -> list[range]:
    """The seeds of the episodes that are played side by side. Raises ValueError for none."""
    if num_episodes < 1 or num_envs < 1:
        raise ValueError(f"evaluation needs num_episodes and num_envs of 1 or more; found {num_episodes}, {num_envs}")
    seeds = range(first_seed, first_seed + num_episodes)
    return [seeds[i : i + num_envs] for i in range(0, num_episodes, num_envs)]


def gathered(
    shares: list[tuple[dict[tuple[str, int], list[Episode]], dict[str, float]]], variants: Iterable[str], waves: int
) -> dict[str, Outcome]:
    """The outcome of every variant, from what each process played and the seconds that it took."""
    episodes = {item: found for share, _ in shares for item, found in share.items()}
    seconds = {name: max(share.get(name, 0.0) for _, share in shares) for name in variants}
    return {
        name: Outcome.of([e for number in range(waves) for e in episodes[name, number]], seconds[name])
        for name in variants
    }


def _open(
    make_env: Callable[..., VectorEnv], num_envs: int, variant: Mapping[str, Any], isolation: float | None
) -> VectorEnv:
    """The environments of a variant, in this process or in one of their own."""
    if isolation is None:
        return make_env(num_envs=num_envs, **variant)
    return IsolatedVector(make_env, num_envs, variant, isolation)


@contextmanager
def one_thread() -> Iterator[None]:
    """Small products gain nothing from more threads, and wait for them at every step."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _bar(total: int, wanted: bool) -> Iterator[Callable[[int, str, int, int], None]]:
    """A progress bar over variants, with the steps of the one in work; shown once it takes longer than PATIENCE."""
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, TimeRemainingColumn(), transient=True)
    task = bar.add_task("", total=total)
    begin, started = time.monotonic(), False

    def show(done: int, name: str, step: int, running: int) -> None:
        nonlocal started
        if wanted and not started and time.monotonic() - begin > PATIENCE:
            bar.start()
            started = True
        bar.update(
            task, completed=done, description=f"{name} step {step:,}, {running} episodes running" if step else name
        )

    try:
        yield show
    finally:
        if started:
            bar.stop()
