"""robomimic's HDF5: `data/demo_<n>` with `obs/<key>`, `actions`, `rewards`, `dones`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data.episode import Episode
from data.readers import Pending, ReadError, rewards
from data.readers.bounded import hdf5, hdf5_array, member, names, natural


class Robomimic:
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
            demos = _group(file, "data", self.source)
            self.demos = sorted(
                (name for name in demos if name.startswith("demo")), key=lambda name: natural(Path(name))
            )
            if subset is not None:
                listed = member(file, f"mask/{subset}")[()]
                chosen = {name.decode() if isinstance(name, bytes) else str(name) for name in listed}
                self.demos = [name for name in self.demos if name in chosen]
        if not self.demos:
            raise ReadError(f"{source}: expected groups data/demo_<number>, found none of that name")

    def __len__(self) -> int:
        return len(self.demos)

    def __iter__(self) -> Iterator[Pending]:
        for name in self.demos:
            yield Pending(f"{self.source.name} data/{name}", partial(self._read, name))

    def _read(self, name: str) -> Episode:
        with hdf5(self.source) as file:
            keys = self._observation or sorted(_group(file, f"data/{name}/obs", self.source))
            seen = {key: hdf5_array(file, f"data/{name}/obs/{key}") for key in keys}
            action = hdf5_array(file, f"data/{name}/actions")
            with rewards():
                reward = None if self._reward is None else hdf5_array(file, f"data/{name}/{self._reward}")
            done = "dones" in file[f"data/{name}"] and bool(
                hdf5_array(file, f"data/{name}/dones").reshape(-1)[-1:].any()
            )
        return Episode.of(seen, action, reward, terminated=done)


def _group(file: Any, key: str, path: Path) -> list[str]:
    """The names in a group. Raises ReadError where there is no such group."""
    found = member(file, key)
    if not hasattr(found, "keys"):
        raise ReadError(f"{path}: {key}: expected a group, found a data set")
    return names(found)
