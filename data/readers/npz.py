"""A folder of npz files, one episode each, whose arrays are named by the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data.episode import Episode
from data.readers import EpisodeReader, ReadError, rewards
from data.readers.bounded import inside, natural, npz


class NpzFolder(EpisodeReader):
    """The episodes of the files `*.npz` in a folder, in the order of their names, numbers as numbers.

    observation: the name of the array, or part -> name. action, reward: names; reward=null stores zeros, which
    imitation does not read. terminated, truncated: names of one truth or one for each step; null: the recording was cut
    short. Nothing is unpickled. Raises ReadError where there is no file.
    """

    def __init__(
        self,
        source: Path | str,
        observation: str | Mapping[str, str] = "observation",
        action: str = "action",
        reward: str | None = "reward",
        terminated: str | None = None,
        truncated: str | None = None,
    ) -> None:
        self.source = Path(source)
        files = sorted(self.source.glob("*.npz"), key=natural) if self.source.is_dir() else []
        if not files:
            raise ReadError(f"source={source}: expected a folder of files *.npz, found none")
        self.places = {path.name: path for path in files}
        self._observation, self._reward = observation, reward
        self._names = {"action": action, "terminated": terminated, "truncated": truncated}

    def read(self, place: Path) -> Episode:
        whole = self._observation
        parts = {"": whole} if isinstance(whole, str) else dict(whole)
        named = {key: name for key, name in self._names.items() if name is not None}
        reward = rewards(self._reward, lambda name: npz(inside(self.source, place), [name])[name])
        arrays = npz(inside(self.source, place), list({*parts.values(), *named.values()}))
        seen = arrays[whole] if isinstance(whole, str) else {part: arrays[name] for part, name in parts.items()}
        action, *ends = (arrays[named[key]] if key in named else None for key in ("action", "terminated", "truncated"))
        return Episode.of(seen, action, reward, False if ends[0] is None else ends[0], ends[1])
