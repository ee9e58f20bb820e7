"""Collection: an expert in a vector environment -> shards. Finished shards are kept, missing ones are made."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.atomic import exclusive, leftovers
from data.children import end_with_parent
from data.errors import ShardError, require_same_task
from data.index import Collection, find_shards, shard_name
from data.shard import Shard, write_shard
from elmur.spec import Vector
from envs.rollout import Episode, Policy, rollout
from envs.vector import VectorEnv

log = logging.getLogger(__name__)

FIRST_SEED = 1_000_000  # seeds below are for evaluation, so that no evaluated episode was trained on
PATIENCE = 2.0  # seconds before a progress bar appears
POLICY_STREAM, NOISE_STREAM = 1, 2
LOCK = ".collecting"


class CollectionError(ValueError):
    """A folder that was collected in another way than is asked for."""


@dataclass(frozen=True)
class _Job:
    """All that a process needs to make any shard of a collection."""

    make_env: Callable[..., VectorEnv]
    expert: Policy
    root: Path
    num_episodes: int
    shard_episodes: int
    seed: int
    num_envs: int
    noise: float
    parameters: Mapping[str, Any]
    normalise: bool

    def episodes_of(self, number: int) -> range:
        """Numbers of the episodes in one shard."""
        return range(number * self.shard_episodes, min((number + 1) * self.shard_episodes, self.num_episodes))

    def make(self, number: int, advance: Callable[[int], None]) -> int:
        """Collect and publish one shard; gives its number of episodes. `advance` is told of episodes as they end."""
        numbers = self.episodes_of(number)
        env = self.make_env(num_envs=min(self.num_envs, len(numbers)))
        try:
            seeds = [episode_seed(self.seed, i) for i in numbers]
            episodes = _play(env, self.expert, seeds, self.noise, (self.seed, number), advance)
            spec = env.spec
        finally:
            env.close()
        steps = [episode.steps for episode in episodes if episode.steps is not None]
        provenance = {
            "collection": dict(self.parameters),
            "expert": self.parameters["expert"],
            "noise": self.noise,
            "episodes": [numbers.start, numbers.stop],
            "seed": self.seed,
            "seed_range": [min(seeds), max(seeds)],
            "success": float(np.mean([episode.success for episode in episodes])),
            "num_envs": self.num_envs,
        }
        vectors = [name for name, part in spec.observation.items() if self.normalise and isinstance(part, Vector)]
        write_shard(self.root / shard_name(number), spec, steps, provenance, seeds=seeds, normalise=vectors)
        return len(numbers)


def collect(
    make_env: Callable[..., VectorEnv],
    expert: Policy,
    root: Path | str,
    num_episodes: int,
    seed: int,
    num_envs: int = 64,
    noise: float = 0.0,
    shard_episodes: int = 1000,
    processes: int = 1,
    progress: bool = True,
    normalise: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> list[Path]:
    """The finished shards of `num_episodes` expert episodes in `root`, of which only missing ones are made now.

    make_env: called as make_env(num_envs=N). noise: probability that an executed action is a random one.
    normalise: readers are to scale vector observations by the mean and deviation of the data.
    processes: more than one collect shards side by side; `make_env` and `expert` must then be picklable.
    parameters: plain JSON values that, with the others here, tell this collection from another; a folder that was
    collected in another way raises CollectionError. A folder of shards that came from elsewhere is left as it is.
    If another process collects into the same folder, this one waits for it and then uses what it made.

    Episode i depends on (seed, i) alone; noise and the expert's own draws depend on its shard and `num_envs` as well.
    """
    _check(num_episodes=num_episodes, num_envs=num_envs, shard_episodes=shard_episodes, processes=processes)
    if not 0.0 <= noise <= 1.0 or seed < 0:
        raise ValueError(f"collect: expected noise from 0 to 1 and a seed from 0, found noise={noise}, seed={seed}")
    root = Path(root)
    asked = _describe(
        {
            "env": make_env,
            "expert": expert,
            "num_episodes": num_episodes,
            "shard_episodes": shard_episodes,
            "seed": seed,
            "noise": noise,
            "normalise": normalise,
            **(parameters or {}),
        }
    )
    job = _Job(make_env, expert, root, num_episodes, shard_episodes, seed, num_envs, noise, asked, normalise)
    with exclusive(root / LOCK, wait=True):
        if Collection.read(root) is None:
            _check_task(root, make_env)
        missing = _missing(root, Collection(asked, -(-num_episodes // shard_episodes)))
        if missing:
            with _bar(f"collecting {root.name}", sum(len(job.episodes_of(n)) for n in missing), progress) as advance:
                _run(job, missing, min(processes, len(missing)), advance)
    return find_shards(root)


def _check(**counts: int) -> None:
    """Raises ValueError where a count is below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: expected 1 or more, found {count}")


def episode_seed(seed: int, number: int) -> int:
    """The env's seed of episode `number`, FIRST_SEED to 2**31 - 1, a function of the two arguments alone.

    Its parity is that of `number`, so that what an environment ties to the parity of its seed (the T-Maze's goal side)
    is balanced in every run of consecutive episodes.
    """
    word = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    drawn = FIRST_SEED + word % (2**31 - FIRST_SEED)
    return drawn - drawn % 2 + number % 2


def _missing(root: Path, asked: Collection) -> list[int]:
    """Numbers of the shards to make. Raises CollectionError where the folder was collected in another way."""
    recorded = Collection.read(root)
    if recorded is None and find_shards(root):
        log.info("using the shards in %s, which were not collected here", root)
        return []
    for path in leftovers(root):  # we hold the lock, so whoever wrote these was killed
        path.unlink()
    if recorded is None:
        asked.write(root)
    elif recorded.parameters != asked.parameters:
        keys = sorted(recorded.parameters.keys() | asked.parameters.keys())
        pairs = [(key, recorded.parameters.get(key), asked.parameters.get(key)) for key in keys]
        differ = "; ".join(f"{key} was {old!r}, now {new!r}" for key, old, new in pairs if old != new)
        raise CollectionError(
            f"{root} was collected in another way ({differ}); choose another folder, or delete this one to collect anew"
        )
    absent = set(asked.missing(root))
    return [number for number in range(asked.num_shards) if shard_name(number) in absent]


def _check_task(root: Path, make_env: Callable[..., VectorEnv]) -> None:
    """Raises ShardError where the folder holds shards from elsewhere, and they are of another task than the env."""
    for path in find_shards(root):
        try:
            with Shard(path) as shard:
                found = shard.spec
        except ShardError:
            continue  # the index says what is wrong, or skips it
        env = make_env(num_envs=1)
        try:
            require_same_task(path, env.spec, found)
        finally:
            env.close()
        return  # that all shards are of one task, the index makes sure


def _play(
    env: VectorEnv,
    expert: Policy,
    seeds: Sequence[int],
    noise: float,
    stream: tuple[int, int],
    advance: Callable[[int], None],
) -> list[Episode]:
    """One recorded episode for each seed."""
    rng = np.random.default_rng([*stream, NOISE_STREAM]) if noise else None
    policy_seed = int(np.random.SeedSequence([*stream, POLICY_STREAM]).generate_state(1)[0])
    on_step = _Ended(len(seeds), env.num_envs, advance)
    return rollout(env, expert, seeds, policy_seed=policy_seed, record=True, noise=noise, rng=rng, on_step=on_step)


@dataclass
class _Ended:
    """Tells `advance` how many episodes ended at each step of a rollout, which reports how many still run."""

    waiting: int
    num_envs: int
    advance: Callable[[int], None]
    running: int = 0

    def __call__(self, step: int, running: int) -> None:
        if step == 1:  # a wave has begun
            self.running = min(self.waiting, self.num_envs)
            self.waiting -= self.running
        if running != self.running:
            self.advance(self.running - running)
            self.running = running


def _run(job: _Job, missing: Sequence[int], processes: int, advance: Callable[[int], None]) -> None:
    """Make the missing shards, one after another or side by side."""
    if processes == 1:
        for number in missing:
            job.make(number, advance)
        return
    # spawn: a fork would copy the locks of whatever threads the caller has (torch's, a logger's, a renderer's)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=end_with_parent) as pool:
        futures = [pool.submit(job.make, number, _ignore) for number in missing]
        try:
            for future in as_completed(futures):
                advance(future.result())
        except BaseException as error:
            if not isinstance(error, Exception):  # asked to end: shards that are not finished are made anew
                for process in multiprocessing.active_children():
                    process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _ignore(episodes: int) -> None:
    """Progress inside another process is not shown; its whole shards are."""


@contextmanager
def _bar(title: str, total: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of episodes that ended; it shows a bar once PATIENCE is over."""
    bar = Progress(TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    task = bar.add_task(title, total=total)
    began = time.monotonic()

    def advance(episodes: int) -> None:
        bar.advance(task, episodes)
        if wanted and not bar.live.is_started and time.monotonic() - began > PATIENCE:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


def _describe(thing: Any) -> Any:
    """What identifies a callable or an object in a record: its name, and the arguments bound to it."""
    if isinstance(thing, functools.partial):
        name = _describe(thing.func)
        return {"call": name, **{key: _describe(value) for key, value in sorted(thing.keywords.items())}}
    if isinstance(thing, Mapping):
        return {str(key): _describe(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_describe(value) for value in thing]
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"
