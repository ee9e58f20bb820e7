"""Collection: an expert in a vector environment -> shards. Finished shards are kept, missing ones are made."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from data.collection import LOCK, Collection, Served, find_shards, shard_name
from data.disturbed import Disturbed
from data.provenance import describe, other_versions
from data.shard import Shard, ShardError, require_same_task
from data.shard_job import CollectionError, Cut, ShardJob, make
from elmur.files import exclusive, leftovers
from envs.labelling import Learner
from envs.rollout import Policy, PreferringPolicy
from envs.ties import DrawnTies
from envs.vector import VectorEnv, spec_of

__all__ = ["CollectionError", "collect"]

log = logging.getLogger(__name__)


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
    are not, none without an expert; raises where it is not up to it. depends_on: package -> what to know of shards of
    another version. normalise: readers are to scale vector observations by the mean and deviation of the data.
    processes: more than one collect shards side by side; `make_env` and `expert` must then be picklable.
    shard_episodes: to a file of a new folder; another keeps its own. parameters: plain JSON values that, with others
    here, tell this collection from another; a folder that was collected in another way raises CollectionError. One of
    fewer episodes grows, its last shard made anew where it was not full; of one of more the first episodes serve; what
    came from elsewhere stays as it is. Of two processes one waits for the other.
    Episode i depends on (seed, i) alone; noise and the expert's own draws depend on its shard and `num_envs` as well.
    """
    _check(num_episodes=num_episodes, num_envs=num_envs, shard_episodes=shard_episodes, processes=processes, seed=seed)
    root, disturbed = Path(root), Disturbed(noise, mixture)
    shard_episodes = Collection.shard_size(root) or shard_episodes
    same: dict[str, Any] = {"env": make_env, "expert": expert, "num_episodes": num_episodes}
    same |= {"shard_episodes": shard_episodes, "seed": seed, "noise": noise, "normalise": normalise}
    later = {"mixture": mixture, "preferences": preferences, "draw_ties": draw_ties}
    wanted = _described(same, {**later, "learner": learner and learner.about}, parameters or {})
    expert = _showing(expert, mixture, preferences, draw_ties)
    with nullcontext() if _ready(root, wanted) else _alone(root):
        _check_task(root, make_env)
        missing = _missing(root, wanted, expert is not None or mixture == 1.0)
        if missing and (there := Collection.read(root)):  # of as many episodes as were asked for, or more
            cut = Cut(there.num_episodes, shard_episodes, num_envs, seed)
            job = ShardJob(make_env, expert, root, cut, disturbed, check, wanted.parameters, learner)
            make(job, missing, processes, progress)
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
