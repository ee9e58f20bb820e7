"""Collection: an expert in a vector environment -> shards. Finished shards are kept, missing ones are made."""

from __future__ import annotations

import errno
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.bounds import CLIPPED, clip, tell
from data.collection import Collection, Served, find_shards, shard_name
from data.forecast import forecast
from data.provenance import describe, other_versions
from data.shard import LABEL, PREFERENCE, Shard, ShardError, require_same_task, write_shard
from elmur.children import follow_parent
from elmur.files import exclusive, leftovers
from elmur.progress import shown
from elmur.spec import TaskSpec, Vector
from envs.labelling import Labelling, Learner
from envs.observers import Noise, Recorder
from envs.rollout import Episode, Observer, Policy, PreferringPolicy, RandomPolicy, Wave, rollout
from envs.ties import DrawnTies
from envs.vector import VectorEnv, spec_of

log = logging.getLogger(__name__)

FIRST_SEED = 1_000_000  # seeds below are for evaluation, so that no evaluated episode was trained on
POLICY_STREAM, NOISE_STREAM = 1, 2
LOCK = ".collecting"


class CollectionError(ValueError):
    """A folder that was collected in another way than is asked for."""


@dataclass(frozen=True)
class _Cut:
    """How many episodes there are, in a shard and side by side, and the seed that theirs follow from."""

    num_episodes: int
    shard_episodes: int
    num_envs: int
    seed: int

    def episodes_of(self, number: int) -> range:
        """Numbers of the episodes in one shard."""
        return range(number * self.shard_episodes, min((number + 1) * self.shard_episodes, self.num_episodes))


@dataclass(frozen=True)
class _Job:
    """All that a process needs to make any shard of a collection."""

    make_env: Callable[..., VectorEnv]
    expert: Policy | None
    root: Path
    cut: _Cut
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
                self.check(returns=[episode.episode_return for episode in play()])
        log.info("collecting %s: %s", self.root.name, found)
        return episodes


def collect(
    make_env: Callable[..., VectorEnv],
    expert: Policy | None,
    root: Path | str,
    num_episodes: int,
    seed: int,
    num_envs: int = 64,
    noise: float = 0.0,
    mixture: float = 0.0,
    preferences: bool = False,
    draw_ties: bool = False,
    shard_episodes: int = 1000,
    processes: int = 1,
    progress: bool = True,
    normalise: bool = False,
    check: Callable[..., object] | None = None,
    depends_on: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    learner: Learner | None = None,
) -> Served:
    """The finished shards of `num_episodes` expert episodes in `root`, of which only missing ones are made now.

    make_env: called as make_env(num_envs=N). expert: None for random play alone. noise, mixture: see Disturbed.
    preferences, draw_ties: see _showing. learner: acts, while the expert labels.
    check: called as check(returns=[...]) before a shard is published, and for disturbed episodes once, with some that
    are not; raises where the expert is not up to it. depends_on: package -> what to know of shards of another version.
    normalise: readers are to scale vector observations by the mean and deviation of the data.
    processes: more than one collect shards side by side; `make_env` and `expert` must then be picklable.
    parameters: plain JSON values that, with the others here, tell this collection from another; a folder that was
    collected in another way raises CollectionError. One of fewer episodes grows, its last shard made anew where it was
    not full; of one of more the first episodes serve; what came from elsewhere stays as it is. Of two processes one
    waits for the other.
    Episode i depends on (seed, i) alone; noise and the expert's own draws depend on its shard and `num_envs` as well.
    """
    _check(num_episodes=num_episodes, num_envs=num_envs, shard_episodes=shard_episodes, processes=processes, seed=seed)
    root, disturbed = Path(root), Disturbed(noise, mixture)
    same: dict[str, Any] = {"env": make_env, "expert": expert, "num_episodes": num_episodes}
    same |= {"shard_episodes": shard_episodes, "seed": seed, "noise": noise, "normalise": normalise}
    later = {"mixture": mixture, "preferences": preferences, "draw_ties": draw_ties}
    wanted = _described(same, {**later, "learner": learner and learner.about}, parameters or {})
    expert = _showing(expert, mixture, preferences, draw_ties)
    with nullcontext() if _ready(root, wanted) else _alone(root):
        _check_task(root, make_env)
        missing = _missing(root, wanted, expert is not None or mixture == 1.0)
        if missing and (there := Collection.read(root)):  # of as many episodes as were asked for, or more
            cut = _Cut(there.num_episodes, shard_episodes, num_envs, seed)
            job = _Job(make_env, expert, root, cut, disturbed, check, wanted.parameters, learner)
            _make(job, missing, processes, progress)
    return _served(root, wanted, depends_on or {})


def _described(same: dict[str, Any], later: Mapping[str, Any], parameters: Mapping[str, Any]) -> Collection:
    """What tells a collection from another.

    later: left out where it is not asked for, so that folders from before there was such a thing are the same still.
    """
    asked = describe({**same, **{key: value for key, value in later.items() if value}, **parameters})
    return Collection(asked, -(-same["num_episodes"] // same["shard_episodes"]))


def _showing(expert: Policy | None, mixture: float, preferences: bool, draw_ties: bool) -> Policy | None:
    """Who shows how it is done.

    preferences: what the expert holds of every action is recorded. draw_ties: of the actions that it holds equally good
    it does any one. Raises CollectionError where the expert does not say what it holds of them, or others play.
    """
    if not (preferences or draw_ties):
        return expert
    asked = "collect.preferences and collect.draw_ties"
    if mixture:
        raise CollectionError(f"{asked}: expected collect.mixture=0.0, found {mixture}; random play prefers nothing")
    if not isinstance(expert, PreferringPolicy):
        raise CollectionError(
            f"{asked}: expected an expert that says what it holds of every action, found {type(expert).__name__}, "
            "which says only what it does; leave them out, and learn from that: module=imitation"
        )
    return DrawnTies(expert) if draw_ties else expert


def _check(**counts: int) -> None:
    """Raises ValueError where a count is below 1, or a seed below 0."""
    for name, count in counts.items():
        if count < (least := 0 if name == "seed" else 1):
            raise ValueError(f"{name}: expected {least} or more, found {count}")


def episode_seed(seed: int, number: int) -> int:
    """The env's seed of episode `number`, FIRST_SEED to 2**31 - 1, a function of the two arguments alone.

    Its parity is that of `number`, so that what an environment ties to the parity of its seed (the T-Maze's goal side)
    is balanced in every run of consecutive episodes.
    """
    word = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    drawn = FIRST_SEED + word % (2**31 - FIRST_SEED)
    return drawn - drawn % 2 + number % 2


def _missing(root: Path, asked: Collection, is_shown: bool) -> list[int]:
    """Numbers of the shards to make. Raises CollectionError where the folder was collected in another way.

    is_shown: whether there is who plays the episodes; where there is not, missing ones raise CollectionError.
    """
    recorded = Collection.read(root)
    if (recorded is None and find_shards(root)) or (recorded is not None and recorded.converted):
        log.info("using the shards in %s, which were not collected here", root)
        return []
    if recorded is not None and recorded.has(asked, root):
        return []
    if not is_shown:
        raise CollectionError(
            f"{root} has no trajectories, and env.expert names nobody who shows how it is done: name a policy, "
            "env.expert._target_=mypkg.Expert plugins=[mypkg], take random play, collect.mixture=1.0, or bring "
            "trajectories of your own, stage=convert"
        )
    if recorded is not None and not recorded.serves(asked):
        keys = sorted(recorded.parameters.keys() | asked.parameters.keys())
        pairs = [(key, recorded.parameters.get(key), asked.parameters.get(key)) for key in keys]
        differ = "; ".join(f"{key} was {old!r}, now {new!r}" for key, old, new in pairs if old != new)
        raise CollectionError(
            f"{root} was collected in another way ({differ}); choose another folder, or delete this one to collect anew"
        )
    for path in leftovers(root):  # we hold the lock, so whoever wrote these was killed
        path.unlink()
    if recorded is None or recorded.num_episodes < asked.num_episodes:
        if recorded is not None and (last := recorded.unfilled()) is not None:
            (root / last).unlink(missing_ok=True)  # before the record: it would pass for the longer one
        asked.write(root)
    absent = set(asked.missing(root))
    return [number for number in range(asked.num_shards) if shard_name(number) in absent]


def _served(root: Path, asked: Collection, depends_on: Mapping[str, str]) -> Served:
    """What was asked for: the first episodes of the collection, or all that there are of another origin."""
    _warn_of_versions(root, depends_on)
    recorded = Collection.read(root)
    ours = recorded is not None and not recorded.converted
    return Served([root / name for name in asked.names()], asked.num_episodes) if ours else Served(find_shards(root))


def _ready(root: Path, asked: Collection) -> bool:
    """Whether all was collected: then nobody need wait for a process that adds to it."""
    recorded = Collection.read(root)
    return recorded is not None and not recorded.converted and recorded.has(asked, root)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """A block in which no other process collects into the folder; of one that is read-only nothing need be locked."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(root / LOCK, wait=True))
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM) or not find_shards(root):
                raise
            log.info("%s cannot be written; its shards are used as they are", root)
        yield


def _warn_of_versions(root: Path, depends_on: Mapping[str, str]) -> None:
    """Warn where the shards were made with another version of a package than the one that is installed."""
    try:
        with Shard(find_shards(root)[0]) as shard:
            made = shard.attribute("provenance").get("versions", {})
    except (ShardError, IndexError):
        return  # the index says what is wrong
    for package, made_with, installed in other_versions(made, depends_on):
        log.warning(
            "%s was made with %s %s, %s is installed (%s): scores may not compare; to collect anew, delete that folder "
            "and repeat the command", root, package, made_with, installed, depends_on[package],
        )  # fmt: skip


def _check_task(root: Path, make_env: Callable[..., VectorEnv]) -> None:
    """Raises ShardError where the folder holds shards from elsewhere, and they are of another task than the env."""
    if (recorded := Collection.read(root)) is not None and not recorded.converted:
        return
    for path in find_shards(root):
        try:
            with Shard(path) as shard:
                found = shard.spec
        except ShardError:
            continue  # the index says what is wrong, or skips it
        require_same_task(path, spec_of(make_env), found)
        return  # that all shards are of one task, the index makes sure


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


def _make(job: _Job, missing: Sequence[int], processes: int, progress: bool) -> None:
    """Make the missing shards, and say what that takes and what they hold."""
    episodes = job.rehearse(missing, processes, progress)
    with shown("collecting", episodes, "episodes", progress) as bar:
        _run(job, missing, min(processes, len(missing)), bar.advance)
    tell([job.root / shard_name(number) for number in missing])


def _run(job: _Job, missing: Sequence[int], processes: int, advance: Callable[[int], None]) -> None:
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


MIXTURE_STREAM = 3  # apart from the streams of collection


@dataclass(frozen=True)
class Disturbed:
    """How far episodes are not the expert's own, so that their returns differ.

    noise: probability that an expert's action is replaced by a random one; those steps are masked out of the loss.
    mixture: share of whole episodes that are random play; these count in the loss, for a policy that is asked for a
    return is to learn what a low one looks like.
    """

    noise: float = 0.0
    mixture: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name}: expected a share from 0 to 1, found {value}")

    def random_play(self, seed: int, number: int) -> bool:
        """Whether episode `number` is random play: a function of the arguments alone."""
        return bool(np.random.default_rng([seed, number, MIXTURE_STREAM]).random() < self.mixture)
