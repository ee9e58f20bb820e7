"""Judging a policy by acting: episodes on given seeds, in every variant of an environment."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import torch

from callbacks.evaluation.device import threads
from callbacks.evaluation.halfway import Halfway
from callbacks.evaluation.helpers import Helpers
from callbacks.evaluation.outcomes import Outcome
from callbacks.evaluation.plan import EvaluationPlan, MakeEnv, Variants
from elmur import ranks
from elmur.progress import shown
from envs.isolated import IsolatedVector, rollout_isolated
from envs.observers import Telling, can_keep
from envs.rollout import Episode, Observer, Policy, rollout
from envs.vector import VectorEnv

Play = Callable[..., list[Episode]]
Wave = tuple[str, int]  # a variant, and which of its waves


def evaluate(
    policy: Policy,
    make_env: MakeEnv,
    variants: Variants,
    plan: EvaluationPlan,
    *,
    halfway: Halfway | None = None,
    pause: Callable[[], object] = lambda: None,
) -> dict[str, Outcome]:
    """The outcome in every variant, over the episodes of seeds `first_seed .. first_seed + num_episodes - 1`.

    make_env is called as make_env(num_envs=N, **variant). Nothing here touches a global random generator, so a
    training run that evaluates goes on as if it had not.
    Episodes are played in waves of `num_envs`, each of which depends on its own seeds alone. Several processes share
    the waves and all of them get the outcomes, the same as those of one; so all of them must call this. A process alone
    gets others to help it, as many as the plan has and torch has threads.
    halfway: what of this evaluation was played before, and where it is kept. pause: called after every step.
    Where the plan isolates, an episode that is lost twice is an `env_error` (see envs/isolated.py); else the
    environments run in this process, and an error is raised.
    """
    rank, count = ranks.place()
    waves = [(name, number) for name in variants for number in range(len(plan.waves()))]
    mine = {wave: place for place, wave in enumerate(waves[rank::count])}
    halfway = halfway or Halfway()
    played = {wave: halfway.wave(*wave) for wave in mine if halfway.has(*wave)}
    left = deque(wave for wave in mine if wave not in played)
    play = partial(_Playing, policy, make_env, variants, plan)
    apart = partial(_apart, play, (halfway.path, halfway.identity, halfway.every), mine)
    helpers = Helpers(_helpers(policy, plan) if count == 1 else 0, left, apart)
    with (
        threads(1), shown("evaluating", len(variants), "variants", rank == 0) as bar, closing(play()) as playing,
        helpers,
    ):  # fmt: skip

        def on_step(name: str, step: int, running: int) -> None:
            pause()
            helpers.offer()
            if step % 256 == 0:
                bar.update(len(played) * len(variants) // len(mine), f"{name} step {step:,}, {running} running")

        while left:
            while left:
                wave = left.popleft()
                halfway.join(halfway.apart(mine[wave]))
                played[wave] = playing.wave(wave, halfway, partial(on_step, wave[0]))
            bar.update(len(played) * len(variants) // len(mine), "the last ones, in other processes")
            for wave, theirs in helpers.collect(pause).items():
                halfway.join(theirs)
                played[wave] = halfway.wave(*wave)
    return gathered(ranks.from_all((played, halfway.spent)), variants, len(plan.waves()))


class _Playing:
    """Plays waves, with the environments of one variant at a time."""

    def __init__(self, policy: Policy, make_env: MakeEnv, variants: Variants, plan: EvaluationPlan) -> None:
        self.policy, self.make_env, self.variants, self.plan = policy, make_env, variants, plan
        self._open: tuple[str, VectorEnv] | None = None

    def wave(self, wave: Wave, halfway: Halfway, tell: Callable[[int, int], None]) -> list[Episode]:
        """The episodes of a wave, those that were not played before."""
        (name, number), plan = wave, self.plan
        env = self._env(name)
        act: Play = partial(rollout, env, self.policy)
        if isinstance(env, IsolatedVector):
            act = partial(rollout_isolated, env, self.policy)

        def play(*keep: Observer) -> list[Episode]:
            return act(plan.waves()[number], observers=[Telling(tell), *keep])

        return halfway.wave(name, number, play, plan.isolation is None and can_keep(env, self.policy))

    def close(self) -> None:
        """Close the environments."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _env(self, name: str) -> VectorEnv:
        """The environments of a variant, in this process or in one of their own."""
        if self._open is not None and self._open[0] == name:
            return self._open[1]
        self.close()
        num_envs, variant = min(self.plan.num_envs, self.plan.num_episodes), self.variants[name]
        env: VectorEnv
        if self.plan.isolation is None:
            env = self.make_env(num_envs=num_envs, **variant)
        else:
            env = IsolatedVector(self.make_env, num_envs, variant, self.plan.isolation)
        self._open = name, env
        return env


def _apart(
    play: Callable[[], _Playing], kept: tuple[Path | None, str, float], places: Mapping[Wave, int], wave: Wave
) -> Halfway:
    """What a process beside this one has played of a wave, kept in a file of its own."""
    halfway = Halfway(*kept).apart(places[wave])
    with threads(1), closing(play()) as playing:
        playing.wave(wave, halfway, lambda step, running: None)
    return halfway


def _helpers(policy: Policy, plan: EvaluationPlan) -> int:
    """How many processes may help: beside a GPU, an isolated environment or a compiled policy, none."""
    device = getattr(policy, "device", None)
    if plan.isolate or plan.compile or (device is not None and device.type != "cpu"):
        return 0
    return min(plan.processes, torch.get_num_threads()) - 1


def gathered(
    shares: list[tuple[dict[Wave, list[Episode]], dict[str, float]]], variants: Iterable[str], waves: int
) -> dict[str, Outcome]:
    """The outcome of every variant, from what each process played and the seconds that it took."""
    episodes = {item: found for share, _ in shares for item, found in share.items()}
    seconds = {name: max(share.get(name, 0.0) for _, share in shares) for name in variants}
    return {
        name: Outcome.of([e for number in range(waves) for e in episodes[name, number]], seconds[name])
        for name in variants
    }
