"""Episodes of another format -> shards: each is read and checked, and the bad ones are named, before one is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from data.aside import ASIDE
from data.bounds import clip, tell
from data.collection import Collection, find_shards
from data.episode import Episode, conform
from data.inference import Inference
from data.provenance import describe
from data.readers import Described, Pending
from data.shard import REFUSED, Shard, ShardError, check_episode
from data.writer import SHARD_BYTES, ShardWriter
from elmur.progress import shown
from elmur.spaces import Spaces
from elmur.spec import TaskSpec

log = logging.getLogger(__name__)
MOST_NAMED = 10
MOST_CLIPPED = 0.5  # share of an episode's actions; more of them outside the bounds are another kind of action


class ConvertError(ValueError):
    """Episodes that cannot be converted: which, what is wrong with each, what to do."""


def convert(
    open_reader: Callable[[], Iterable[Any]],
    root: Path | str,
    source: str,
    spec: TaskSpec | Spaces | str,
    on_bad_file: Literal["fail", "skip"] = "fail",
    normalise: bool = True,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
) -> list[Path]:
    """The shards in `root`, made from the episodes of a reader, in its order.

    open_reader: gives the reader; called twice, since all episodes are read and checked before the first shard is
    written. source: where it reads from, for the record. spec: the task, whose choices count from 0, or an
    environment's spaces, in whose values the episodes are; a name alone leaves it to the reader's format, or to what
    the arrays look like. on_bad_file: "fail", naming the bad ones, or "skip" them with a warning. Actions
    outside bounds are clipped and counted. Raises ConvertError; what was interrupted is done again.
    """
    root, source, reader = Path(root), located(source), open_reader()
    check_target(root, source, open_reader)
    made_with = dict(reader.made_with) if isinstance(reader, Described) else {}
    if isinstance(spec, str) and isinstance(reader, Described):
        spec = replace(reader.spec, name=spec)
    shape = _shaping(reader, spec)
    spec = spec.spec if isinstance(spec, Spaces) else spec
    total = len(reader) if isinstance(reader, Sized) else None
    with shown("checking", total, "episodes", progress) as bar:
        spec, bad = checked(reader, source, spec, on_bad_file, shape, bar.advance)
        count = bar.completed
    about = {"converted": source, "reader": identity(open_reader), "left_out": sorted(bad)}
    about |= {"versions": made_with} if made_with else {}
    writer = ShardWriter(root, spec, provenance=about, normalise=normalise, shard_bytes=shard_bytes, replace=True)
    with writer, shown("converting", count - len(bad), "episodes", progress) as bar:
        for where, read in _episodes(open_reader()):
            if where not in bad:
                writer.add(shape(spec, _episode(read)), clip_actions=True)
                bar.advance()
    tell(find_shards(root))
    return find_shards(root)


def checked(
    reader: Iterable[Any],
    source: str,
    spec: TaskSpec | str,
    on_bad_file: str,
    shape: Callable[[TaskSpec, Episode], Episode],
    advance: Callable[[], object],
) -> tuple[TaskSpec, dict[str, str]]:
    """The task of a reader's episodes, and what is wrong with those that are bad, by where they are from."""
    inference = Inference(spec) if isinstance(spec, str) else None
    bad: dict[str, str] = {}
    count = 0
    for count, (where, item) in enumerate(_episodes(reader), 1):  # noqa: B007 - how many there were
        if found := _fault(item, spec, inference, shape):
            bad[where] = found
        advance()
    if not count:
        raise ConvertError(f"{source}: expected episodes, found none")
    if bad and (on_bad_file == "fail" or len(bad) == count):
        raise ConvertError(f"{source}: {listed(bad, count)}; fetch them again, or leave them out")
    if bad:
        log.warning("%s: left out %s", source, listed(bad, count))
    if isinstance(spec, TaskSpec):
        return spec, bad
    assert inference is not None
    try:
        told = inference.spec()
    except ValueError as error:
        raise ConvertError(f"{source}: {error}") from error
    log.info("inferred the task %s", told.to_json())
    return told, bad


def located(value: Any) -> Any:
    """A path that is there, from the root on, so that it is the same from every working directory; else the value."""
    return str(Path(value).resolve()) if isinstance(value, str | Path) and Path(value).exists() else value


def identity(open_reader: Callable[[], Iterable[Any]]) -> Any:
    """What a reader is and what it reads: its name and its arguments, paths as `located` gives them."""
    if not isinstance(open_reader, partial):
        return describe(open_reader)
    told = open_reader.keywords
    paths = ("source",) if "source" in told else tuple(told)
    return describe(partial(open_reader.func, **{**told, **{key: located(told[key]) for key in paths}}))


def check_target(root: Path, source: str, open_reader: Callable[[], Iterable[Any]]) -> None:
    """Raises ConvertError where the folder holds other data than an earlier conversion by this reader and source."""
    recorded, shards = Collection.read(root), find_shards(root / ASIDE) or find_shards(root)
    if recorded is None and not shards:
        return
    here, found = identity(open_reader), ""
    is_other = recorded is None or located(recorded.parameters.get("converted")) != source
    made = _reader_of(shards[0]) if shards and not is_other else None
    if made is not None and made not in (here, describe(open_reader)):  # which had paths as they were given
        is_other, found = True, f" by {here}; they were read by {made}"
    if is_other:
        raise ConvertError(
            f"{root} holds other data than those of {source}{found}; delete it, or name another folder with "
            "env.dataset=NAME, which training then needs as well"
        )


def _reader_of(path: Path) -> Any:
    """What a shard was read by, None where it does not say, or cannot be read."""
    try:
        with Shard(path) as shard:
            return shard.attribute("provenance").get("reader")
    except ShardError:
        return None


def listed(bad: Mapping[str, str], total: int) -> str:
    """How many episodes are bad, and what is wrong with the first of them."""
    named = "; ".join(f"{name}: {found}" for name, found in list(bad.items())[:MOST_NAMED])
    rest = list(bad)[MOST_NAMED:]
    more = f"; and {', '.join(rest[:MOST_NAMED])}" + ", ..." * (len(rest) > MOST_NAMED) if rest else ""
    return f"{len(bad)} of {total} episodes are bad: {named}{more}"


def _episodes(reader: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Where each episode comes from, and the episode or what reads it."""
    for number, item in enumerate(reader):
        yield (item.where, item) if isinstance(item, Pending) else (f"episode {number}", item)


def _episode(item: Any) -> Episode:
    """What a reader gave, as an episode. Raises ValueError for what is none."""
    found = item.read() if isinstance(item, Pending) else item
    if isinstance(found, Mapping):
        try:
            return Episode.of(**found)
        except TypeError as error:
            raise ValueError(f"expected the arguments of Episode.of, found {', '.join(map(str, found))}") from error
    if isinstance(found, Episode):
        return found
    try:  # what an env's decoder gives
        names = ("observation", "action", "reward", "terminated", "truncated", "loss_mask")
        return Episode(**{name: getattr(found, name) for name in names})
    except AttributeError:
        raise ValueError(f"expected an Episode or a dictionary, found {type(found).__name__}") from None


def _shaping(reader: Iterable[Any], spec: TaskSpec | Spaces | str) -> Callable[[TaskSpec, Episode], Episode]:
    """What makes the columns of a task of an episode; those of a format that describes its task are that already."""
    if isinstance(reader, Described):
        told = reader.spec
        return lambda task, episode: conform(task, episode) if task.differences(told) else episode
    return partial(conform, own=spec if isinstance(spec, Spaces) else None)


def _fault(
    item: Any,
    spec: TaskSpec | str,
    inference: Inference | None,
    shape: Callable[[TaskSpec, Episode], Episode],
) -> str | None:
    """What is wrong with an episode, None where nothing is."""
    try:
        read = _episode(item)
        task = _own_task(read, inference) if isinstance(spec, str) else spec
        episode = shape(task, replace(read))
        clipped, steps = clip(task, [episode]), len(episode.reward)
        if clipped > MOST_CLIPPED * steps:
            return (
                f"{clipped} of {steps} actions outside the bounds {task.action}, so they are no actions of this "
                "task (absolute positions, where it takes differences?)"
            )
        check_episode(Path(), task, episode)
        if inference is not None:
            inference.add(read)
    except ShardError as error:
        advice = f"; {error.advice}" if error.advice not in ("", REFUSED) else ""
        return f"{error.key}: found {error.found}, expected {error.expected}{advice}"
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())
    return None


def _own_task(episode: Episode, inference: Inference | None) -> TaskSpec:
    """The task that an episode looks like by itself, by which its numbers are checked."""
    assert inference is not None
    alone = Inference(inference.name)
    alone.add(episode)
    return alone.spec()
