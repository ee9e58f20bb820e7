"""robomimic's HDF5: `data/demo_<n>` with `obs/<key>`, `actions`, `rewards`, `dones`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.episode import Episode
from data.readers import EpisodeReader, ReadError, rewards
from data.readers.bounded import hdf5, hdf5_array, member, names, natural


class Robomimic(EpisodeReader):
    """The demonstrations of one file, by number.

    observation: keys of `obs` to take; null: all of them. reward: the name of the rewards, or null to store zeros,
    which imitation does not read. subset: the name of a list in `mask`, such as train; null: all. `dones` says whether
    the last step ended the task; robomimic sets it earlier too, at every step where the goal is met.
    """

    def __init__(
        self,
        source: Path | str,
        observation: Sequence[str] | None = None,
        reward: str | None = "rewards",
        subset: str | None = None,
    ) -> None:
        self.source, self._observation, self._reward = Path(source), observation, reward
        with hdf5(self.source) as file:
            found = _group(file, "data", self.source)
            demos = sorted((name for name in found if name.startswith("demo")), key=lambda name: natural(Path(name)))
            if subset is not None:
                listed = member(file, f"mask/{subset}")[()]
                chosen = {name.decode() if isinstance(name, bytes) else str(name) for name in listed}
                demos = [name for name in demos if name in chosen]
        if not demos:
            raise ReadError(f"{source}: expected groups data/demo_<number>, found none of that name")
        self.places = {f"{self.source.name} data/{name}": name for name in demos}

    def read(self, place: str) -> Episode:
        with hdf5(self.source) as file:
            demo = f"data/{place}"
            keys = self._observation or sorted(_group(file, f"{demo}/obs", self.source))
            seen = {key: hdf5_array(file, f"{demo}/obs/{key}") for key in keys}
            action = hdf5_array(file, f"{demo}/actions")
            reward = rewards(self._reward, lambda name: hdf5_array(file, f"{demo}/{name}"))
            done = "dones" in file[demo] and bool(hdf5_array(file, f"{demo}/dones").reshape(-1)[-1:].any())
        return Episode.of(seen, action, reward, terminated=done)


def _group(file: Any, key: str, path: Path) -> list[str]:
    """The names in a group. Raises ReadError where there is no such group."""
    found = member(file, key)
    if not hasattr(found, "keys"):
        raise ReadError(f"{path}: {key}: expected a group, found a data set")
    return names(found)
