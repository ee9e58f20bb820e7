"""ShardWriter: arrays in memory -> a collection that training reads, of several shards where they are large."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from data.aside import ASIDE, put_aside, put_back
from data.bounds import CLIPPED, clip
from data.collection import COLLECTION, LOCK, Collection, find_shards, shard_name
from data.columns import columns
from data.episode import Episode, EpisodeError, conform
from data.inference import Inference
from data.shard import REFUSED, ShardError, check_episode, write_shard
from elmur.files import exclusive
from elmur.spaces import Spaces
from elmur.spec import TaskSpec, Vector

log = logging.getLogger(__name__)
SHARD_BYTES = 1 << 27  # of arrays in one shard, which is put together in memory


class ShardWriter:
    """Writes episodes into a folder of shards: `with ShardWriter(path) as writer: writer.append(...)`.

    path: a new or empty folder, `outputs/shards/NAME` for `env=data env.id=NAME`. spec: the task, whose choices count
    from 0, or the `Spaces` of an environment, in whose own values the arrays are; None infers the task from the
    episodes that the first shard holds, under the folder's name. normalise: vectors are to be scaled by the mean and
    deviation of the data. provenance: JSON on where the data come from, kept in every shard. shard_bytes: of arrays in
    one shard; no more is held in memory. replace: shards of before in the folder are removed at the end; until then
    they lie in its folder `replaced`.

    The collection is there when it is closed, as at the end of the block; until then readers refuse it as unfinished.
    `spec` is the task, once known. Raises ShardError in one sentence for an episode that does not fit, and after an
    exception in the block nothing of the collection stays, and shards of before are there as they were.
    """

    def __init__(
        self,
        path: Path | str,
        spec: TaskSpec | Spaces | None = None,
        *,
        normalise: bool = True,
        provenance: Mapping[str, Any] | None = None,
        shard_bytes: int = SHARD_BYTES,
        replace: bool = False,
    ) -> None:
        if shard_bytes < 1:
            raise ValueError(f"shard_bytes: expected 1 or more, found {shard_bytes}")
        self._own = spec if isinstance(spec, Spaces) else None
        self.path, self.spec, self.normalise = Path(path), spec.spec if isinstance(spec, Spaces) else spec, normalise
        self.provenance = dict(provenance or {"converted": "arrays"})
        self.shard_bytes, self.replace = shard_bytes, replace
        self.episodes = 0
        self._inference = Inference(self.path.name) if spec is None else None
        self._held: list[Episode] = []
        self._bytes = self._clipped = 0
        self._shards: list[Path] = []
        self._open = ExitStack()
        self._claim()

    def _claim(self) -> None:
        """Take the folder, alone; what is there must be allowed to go."""
        self._open.enter_context(exclusive(self.path / LOCK))
        there = find_shards(self.path)
        if (there or (self.path / COLLECTION).exists()) and not self.replace:
            self._open.close()
            advice = "delete it, name another folder, or give replace=True"
            raise ShardError(self.path, "folder", f"{len(there)} shards of before", "a new or an empty folder", advice)
        if self.replace and (aside := put_aside(self.path)) is not None:
            log.info("the shards of before are kept in %s until all is written", aside)
        self._record(missing=1)

    def __enter__(self) -> Self:
        return self

    def append(self, observation: Any, action: Any, reward: Any, *ends: Any, **about: Any) -> None:
        """Add one episode of T steps. Raises ShardError.

        ends, about: terminated, truncated, loss_mask and seed; what each argument may be is said by `Episode.of`.
        """
        try:
            episode = Episode.of(observation, action, reward, *ends, **about)
            if self.spec is not None:
                episode = conform(self.spec, episode, self._own)
        except EpisodeError as error:
            raise self._refusal(error) from None
        self.add(episode)

    def add(self, episode: Episode, clip_actions: bool = False) -> None:
        """Add one episode as `conform` makes it; clip_actions: those outside the bounds are moved there, and counted.

        Raises ShardError where it does not fit the task, or those before.
        """
        if self._inference is not None and self.spec is None:
            try:
                self._inference.add(episode)
            except EpisodeError as error:
                raise self._refusal(error) from None
        else:
            assert self.spec is not None
            if clip_actions:
                self._clipped += clip(self.spec, [episode])
            self._check(self.spec, episode, self.episodes)
        self._held.append(episode)
        self.episodes += 1
        self._bytes += sum(array.nbytes for array in (*episode.observation.values(), episode.action, episode.reward))
        if self._bytes >= self.shard_bytes:
            self._flush()

    def close(self) -> None:
        """Write what is held and finish the collection. Raises ShardError where there is no episode."""
        try:
            if not self.episodes:
                raise ShardError(self.path, "episodes", "none", "one episode or more", REFUSED)
            self._flush()
            self._record()
            shutil.rmtree(self.path / ASIDE, ignore_errors=True)
        finally:
            self._open.close()
        assert self.spec is not None
        log.info("%s: %d episodes in %d shards of %s", self.path, self.episodes, len(self._shards), self.spec.to_json())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with ExitStack() as undo:
            undo.callback(self._discard)
            if kind is None:
                self.close()
                undo.pop_all()

    def _discard(self) -> None:
        """Remove what was written, so that no half of a collection stays; what was there before is there again."""
        put_back(self.path)
        self._open.close()

    def _flush(self) -> None:
        """Publish the episodes that are held as the next shard."""
        if not self._held:
            return
        if self.spec is None:
            assert self._inference is not None
            try:
                self.spec = self._inference.spec()
                columns(self.spec)
            except EpisodeError as error:
                raise self._refusal(error) from None
            first = self.episodes - len(self._held)
            self._held = [conform(self.spec, episode) for episode in self._held]
            for number, episode in enumerate(self._held, first):
                self._check(self.spec, episode, number)
            log.info("inferred %s", self.spec.to_json())
        parts = self.spec.observation.items()
        path = self.path / shard_name(len(self._shards))
        self._record(missing=2)  # this one, and another until the end
        about = {
            **self.provenance,
            "episodes": [self.episodes - len(self._held), self.episodes],
            CLIPPED: self._clipped,
        }
        write_shard(
            path, self.spec, self._held, about, seeds=[episode.seed for episode in self._held],
            normalise=[name for name, part in parts if self.normalise and isinstance(part, Vector)],
        )  # fmt: skip
        self._shards.append(path)
        self._held, self._bytes, self._clipped = [], 0, 0

    def _record(self, missing: int = 0) -> None:
        """Say how many shards there are to be: until the end more than there are, so that nobody reads a half."""
        about = {"converted": self.provenance.get("converted", "arrays"), "episodes": self.episodes}
        Collection(about, len(self._shards) + missing).write(self.path)

    def _check(self, spec: TaskSpec, episode: Episode, number: int) -> None:
        try:
            check_episode(self.path, spec, episode, number)
        except ShardError as error:
            if self._inference is None:
                raise
            advice = f"{REFUSED}; the TaskSpec was inferred from the episodes before, give one that fits all"
            raise ShardError(self.path, error.key, error.found, error.expected, advice) from None

    def _refusal(self, error: EpisodeError) -> ShardError:
        found = f"{error.found} in episode {self.episodes}"
        return ShardError(self.path, error.key, found, error.expected, error.advice or REFUSED)
