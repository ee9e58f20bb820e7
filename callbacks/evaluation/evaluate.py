"""Judging a policy by acting: episodes on given seeds, in every variant of an environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from callbacks.evaluation.device import threads
from callbacks.evaluation.halfway import Halfway
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
    the waves and all of them get the outcomes, the same as those of one; so all of them must call this.
    halfway: what of this evaluation was played before, and where it is kept. pause: called after every step.
    Where the plan isolates, an episode that is lost twice is an `env_error` (see envs/isolated.py); else the
    environments run in this process, and an error is raised.
    """
    waves = plan.waves()
    rank, count = ranks.place()
    mine = [(name, number) for name in variants for number in range(len(waves))][rank::count]
    played: dict[Wave, list[Episode]] = {}
    halfway = halfway or Halfway()
    with threads(1), shown("evaluating", len(variants), "variants", rank == 0) as bar:
        for done, (name, variant) in enumerate(variants.items()):
            numbers = [number for variant_name, number in mine if variant_name == name]
            if not numbers:
                continue

            def on_step(step: int, running: int, done: int = done, name: str = name) -> None:
                pause()
                if step % 256 == 0:
                    bar.update(done, f"{name} step {step:,}, {running} running")

            env = _open(make_env, min(plan.num_envs, plan.num_episodes), variant, plan.isolation)
            act: Play = partial(rollout, env, policy)
            if isinstance(env, IsolatedVector):
                act = partial(rollout_isolated, env, policy)
            exact = plan.isolation is None and can_keep(env, policy)
            try:
                for number in numbers:
                    wave = partial(_wave, act, waves[number], on_step)
                    played[name, number] = halfway.wave(name, number, wave, exact)
            finally:
                env.close()
    return gathered(ranks.from_all((played, halfway.spent)), variants, len(waves))


def _wave(act: Play, seeds: range, tell: Callable[[int, int], None], *keep: Observer) -> list[Episode]:
    """The episodes of a wave."""
    return act(seeds, observers=[Telling(tell), *keep])


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


def _open(make_env: MakeEnv, num_envs: int, variant: Mapping[str, Any], isolation: float | None) -> VectorEnv:
    """The environments of a variant, in this process or in one of their own."""
    if isolation is None:
        return make_env(num_envs=num_envs, **variant)
    return IsolatedVector(make_env, num_envs, variant, isolation)
