"""The shards of a collection, made one after another or side by side: episodes of an expert, a learner, random play."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.bounds import CLIPPED, clip, tell
from data.collection import shard_name
from data.columns import LABEL, PREFERENCE
from data.disturbed import Disturbed, episode_seed
from data.forecast import forecast
from data.shard import write_shard
from elmur.children import follow_parent
from elmur.progress import shown
from elmur.spec import TaskSpec, Vector
from envs.labelling import Labelling, Learner
from envs.observers import Noise, Recorder
from envs.rollout import Episode, Observer, Policy, RandomPolicy, Wave, rollout
from envs.vector import VectorEnv

log = logging.getLogger(__name__)
POLICY_STREAM, NOISE_STREAM = 1, 2


class CollectionError(ValueError):
    """A folder that was collected in another way than is asked for."""


@dataclass(frozen=True)
class Cut:
    """How many episodes there are, in a shard and side by side, and the seed that theirs follow from."""

    num_episodes: int
    shard_episodes: int
    num_envs: int
    seed: int

    def episodes_of(self, number: int) -> range:
        """Numbers of the episodes in one shard."""
        return range(number * self.shard_episodes, min((number + 1) * self.shard_episodes, self.num_episodes))


@dataclass(frozen=True)
class ShardJob:
    """All that a process needs to make any shard of a collection."""

    make_env: Callable[..., VectorEnv]
    expert: Policy | None
    root: Path
    cut: Cut
    disturbed: Disturbed
    check: Callable[..., object] | None
    parameters: Mapping[str, Any]
    learner: Learner | None = None

    def make(self, number: int, advance: Callable[[int], None]) -> int:
        """Collect and publish one shard; gives its number of episodes. `advance` is told of episodes as they end."""
        numbers = self.cut.episodes_of(number)
        env = self.make_env(num_envs=min(self.cut.num_envs, len(numbers)))
        try:
            seeds = [episode_seed(self.cut.seed, i) for i in numbers]
            random = [self.disturbed.random_play(self.cut.seed, i) for i in numbers]
            spec, stream = env.spec, (self.cut.seed, number)
            own = [seed for seed, at_random in zip(seeds, random, strict=True) if not at_random]
            others = [seed for seed, at_random in zip(seeds, random, strict=True) if at_random]
            ended = _Ended(advance)
            by_expert = iter(_play(env, self.acting(spec), own, stream, [*self.watching(stream), ended]))
            by_chance = iter(_play(env, RandomPolicy(spec), others, stream, [Recorder(), ended]))
        finally:
            env.close()
        episodes = [next(by_chance if at_random else by_expert) for at_random in random]
        if self.check is not None and self.disturbed == Disturbed():
            self.check(returns=[episode.episode_return for episode in episodes])
        steps = [episode.steps for episode in episodes if episode.steps is not None]
        optional = self.optional()
        clipped = {key: clip(spec, steps, key) for key in ("action", LABEL) if key in ("action", *optional)}  # type: ignore[arg-type]
        provenance = {
            CLIPPED: clipped["action"],
            "collection": dict(self.parameters),
            "expert": self.parameters["expert"],
            **vars(self.disturbed),
            "random_play": [i for i, at_random in zip(numbers, random, strict=True) if at_random],
            "episodes": [numbers.start, numbers.stop],
            "seed": self.cut.seed,
            "seed_range": [min(seeds), max(seeds)],
            "success": float(np.mean([episode.success for episode in episodes])),
            "num_envs": self.cut.num_envs,
        }
        path, scaled = self.root / shard_name(number), self.parameters["normalise"]
        vectors = [name for name, part in spec.observation.items() if scaled and isinstance(part, Vector)]
        write_shard(path, spec, steps, provenance, seeds=seeds, normalise=vectors, optional=optional)
        return len(numbers)

    def optional(self) -> list[str]:
        """What is recorded beside the arrays of every shard."""
        return [LABEL] * (self.learner is not None) + [PREFERENCE] * bool(self.parameters.get("preferences"))

    def watching(self, stream: tuple[int, int]) -> list[Observer]:
        """Those who record the expert's episodes, disturbed as is asked for, or a learner's that it labels."""
        recorder = Recorder(labelled=self.learner is not None, preferences=PREFERENCE in self.optional())
        if self.learner is not None:
            seed = _drawn(*stream, NOISE_STREAM)
            return [recorder, Labelling(self.learner.policy, self.learner.expert_share, seed)]
        noise = self.disturbed.noise
        return [recorder, *([Noise(noise, np.random.default_rng([*stream, NOISE_STREAM]))] if noise else [])]

    def acting(self, spec: TaskSpec) -> Policy:
        """Who shows how it is done; where all is random play, nobody need."""
        return RandomPolicy(spec) if self.expert is None else self.expert

    def rehearse(self, missing: Sequence[int], processes: int, progress: bool) -> int:
        """Say what these shards will take, from a short beginning; check an expert whose episodes will be disturbed.

        Gives the number of episodes in them.
        """
        numbers = self.cut.episodes_of(missing[0])
        seeds = [episode_seed(self.cut.seed, i) for i in numbers[: self.cut.num_envs]]
        episodes = sum(len(self.cut.episodes_of(number)) for number in missing)

        if progress:
            log.info("collecting %s: the first steps", self.root.name)
        with closing(self.make_env(num_envs=len(seeds))) as env:
            watching = [Recorder()] if self.learner is None else self.watching((self.cut.seed, missing[0]))
            play = partial(rollout, env, self.acting(env.spec), seeds, observers=watching)
            in_a_shard = min(episodes, self.cut.shard_episodes)
            waves = (
                -(-in_a_shard // len(seeds)) * -(-episodes // self.cut.shard_episodes) / min(processes, len(missing))
            )
            found = forecast(env.spec, lambda steps: play(max_steps=steps), episodes, waves, self.optional())
            if self.check is not None and self.disturbed != Disturbed():
                played = play() if self.expert is not None else []
                self.check(returns=[episode.episode_return for episode in played])
        log.info("collecting %s: %s", self.root.name, found)
        return episodes


def _play(
    env: VectorEnv, policy: Policy, seeds: Sequence[int], stream: tuple[int, int], observers: Sequence[Observer]
) -> list[Episode]:
    """One episode for each seed."""
    return rollout(env, policy, seeds, policy_seed=_drawn(*stream, POLICY_STREAM), observers=observers)


def _drawn(*numbers: int) -> int:
    """A seed of 32 bits, a function of the numbers alone."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class _Ended(Observer):
    """Tells `advance` how many episodes ended at each step."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def on_reset(self, wave: Wave) -> None:
        self.running = wave.running

    def on_step(self, wave: Wave) -> None:
        if wave.running != self.running:
            self.advance(self.running - wave.running)
            self.running = wave.running


def make(job: ShardJob, missing: Sequence[int], processes: int, progress: bool) -> None:
    """Make the missing shards of a collection, and say what that takes and what they hold."""
    episodes = job.rehearse(missing, processes, progress)
    with shown("collecting", episodes, "episodes", progress) as bar:
        _run(job, missing, min(processes, len(missing)), bar.advance)
    tell([job.root / shard_name(number) for number in missing])


def _run(job: ShardJob, missing: Sequence[int], processes: int, advance: Callable[[int], None]) -> None:
    """Make the missing shards, one after another or side by side."""
    if processes == 1:
        for number in missing:
            job.make(number, advance)
        return
    # spawn: a fork would copy the locks of whatever threads the caller has (torch's, a logger's, a renderer's)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=follow_parent) as pool:
        futures = [pool.submit(job.make, number, _ignore) for number in missing]
        try:
            for future in as_completed(futures):
                advance(future.result())
        except BaseException as error:
            if not isinstance(error, Exception):  # asked to end: shards that are not finished are made anew
                for process in multiprocessing.active_children():
                    process.terminate()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise CollectionError(
                    f"{job.root}: a process that collected was ended by the system, mostly for want of memory; the "
                    "same command goes on with the shards that are missing, with collect.processes=1 it needs less"
                ) from error
            raise


def _ignore(episodes: int) -> None:
    """Progress inside another process is not shown; its whole shards are."""
