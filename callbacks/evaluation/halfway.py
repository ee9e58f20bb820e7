"""A half-done evaluation: what was played is kept on disk, and a long wave of episodes goes on at its last step."""

from __future__ import annotations

import glob
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks import signals
from elmur import ranks
from elmur.checkpoint import CheckpointError, load_plain, save_whole
from elmur.state import map_state
from envs.observers import Keep
from envs.rollout import KEPT, Episode

log = logging.getLogger(__name__)
Played = dict[str, list[dict[str, Any]]]  # wave -> its episodes


def _never(*observers: object) -> list[Episode]:
    raise AssertionError("a wave that was played is asked to be played")


class Halfway:
    """Plays each wave of an evaluation once, however often the evaluation is begun anew.

    path: where it is kept; None: nowhere. identity: what makes the evaluation this one; what is found of another is
    not used. every_seconds: how often the state inside a wave is saved, where environment and policy can give it.
    """

    def __init__(self, path: Path | None = None, identity: str = "", every_seconds: float = 30.0) -> None:
        self.path, self.identity, self.every = path, identity, every_seconds
        self.spent: dict[str, float] = {}
        self._played: Played = {}
        self._wave: dict[str, Any] | None = None
        self._since = time.monotonic()
        if path is not None and path.exists():
            self._read(path)

    @classmethod
    def of(cls, folder: Path, identity: str) -> Halfway:
        """What `folder` holds of this process's share in an evaluation."""
        rank, count = ranks.place()
        return cls(folder / f"evaluation-{rank}.partial", f"{identity} {rank} of {count}")

    def has(self, name: str, number: int) -> bool:
        """Whether this wave of a variant was played to its end."""
        return f"{name}#{number}" in self._played

    def wave(
        self, name: str, number: int, play: Callable[..., list[Episode]] = _never, exact: bool = False
    ) -> list[Episode]:
        """The episodes of a variant's wave: those kept, else those that `play(*observers)` gives.

        exact: environment and policy can give their state. A signal waits until it is saved, otherwise for nothing.
        A wave of which no episode could be played is not kept: whatever was wrong may have been mended since.
        """
        key = f"{name}#{number}"
        if key not in self._played:
            self._since = time.monotonic()
            keep = _Kept(self, key, name) if exact and self.path is not None else None
            with signals.held() if keep else nullcontext():
                episodes = play(*([keep] if keep else []))
                if all(episode.error is not None for episode in episodes):
                    return episodes
                self._played[key] = [asdict(episode) for episode in episodes]
                self._wave = None
                self.write(name)
            if keep is not None:
                signals.leave()
        return [Episode(**kept) for kept in self._played[key]]

    def apart(self, number: int) -> Halfway:
        """What a process beside this one keeps of a wave that it plays, or has kept of it; `number` names its file."""
        path = self.path and self.path.with_name(f"{self.path.stem}-{number}{self.path.suffix}")
        return Halfway(path, self.identity, self.every)

    def join(self, other: Halfway) -> None:
        """Take over what another process has played of a wave, to its end or half, and remove its file."""
        if not other._played and other._wave is None:
            return
        self._played |= other._played
        self._wave = other._wave or self._wave
        self._since = time.monotonic()  # their seconds are told by them
        for name, seconds in other.spent.items():
            self.spent[name] = self.spent.get(name, 0.0) + seconds
        self._save()  # before theirs is gone
        other.remove()

    def write(self, name: str) -> None:
        """Keep what there is; the time since the last call was spent on the variant `name`."""
        now = time.monotonic()
        self.spent[name] = self.spent.get(name, 0.0) + now - self._since
        self._since = now
        self._save()

    def _save(self) -> None:
        if self.path is not None:
            content = {"identity": self.identity, "played": self._played, "spent": self.spent, "wave": self._wave}
            save_whole(content, self.path)

    def remove(self) -> None:
        """The evaluation is over."""
        if self.path is not None:
            for path in (self.path, *self.path.parent.glob(f"{glob.escape(self.path.stem)}-*{self.path.suffix}")):
                path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        try:
            found = load_plain(path, "a half-done evaluation")
        except CheckpointError as error:
            log.warning("%s; it begins anew", error)
            return
        if not isinstance(found, dict) or found.get("identity") != self.identity:
            log.info("%s is of another evaluation; this one begins anew", path)
            return
        try:
            self._played, self.spent, self._wave = as_kept(found)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            log.warning("%s: expected a half-done evaluation, found another content (%s); it begins anew", path, error)
            return
        step = f", and at step {self._wave['state']['count']} of the next" if self._wave else ""
        log.info("going on with an evaluation: %d waves are played%s", len(self._played), step)


class _Kept(Keep):
    """The state inside one wave."""

    def __init__(self, halfway: Halfway, key: str, name: str) -> None:
        self.halfway, self.key, self.name = halfway, key, name

    def load(self) -> dict[str, Any] | None:
        wave = self.halfway._wave
        if wave is None or wave["key"] != self.key:
            return None
        return map_state(Tensor.numpy, wave["state"])  # type: ignore[arg-type]

    def due(self) -> bool:
        return signals.received() or time.monotonic() - self.halfway._since >= self.halfway.every

    def save(self, state: dict[str, Any]) -> None:
        self.halfway._wave = {"key": self.key, "state": as_tensors(state)}
        self.halfway.write(self.name)
        signals.leave()


def as_kept(found: Mapping[str, Any]) -> tuple[Played, dict[str, float], dict[str, Any] | None]:
    """What a file holds of an evaluation: waves played, seconds spent, state of a wave; an error for other content."""
    played = {str(key): [_episode(**kept) for kept in episodes] for key, episodes in found["played"].items()}
    spent, wave = {str(name): float(seconds) for name, seconds in found["spent"].items()}, found["wave"]
    if wave is not None:
        missing = {*KEPT, "observation", "policy", "env"} - wave["state"].keys()
        if not isinstance(wave["key"], str) or type(wave["state"]["count"]) is not int or missing:
            raise ValueError(f"no state of a wave, {', '.join(sorted(missing)) or 'key, count'} among it")
    return played, spent, wave


def _episode(
    *, seed: int, length: int, episode_return: float, metrics: dict[str, float], steps: None, error: str | None
) -> dict[str, Any]:
    measured = {str(name): value for name, value in metrics.items()}
    if not all(isinstance(value, bool | int | float) for value in measured.values()):
        raise TypeError("metrics that are no numbers")
    if not isinstance(error, str | None) or steps is not None:
        raise TypeError("an episode with other parts")
    return asdict(Episode(int(seed), int(length), float(episode_return), measured, None, error))


def as_tensors(node: Any) -> Any:
    """A nest with its arrays as tensors, which load without pickled code."""
    if isinstance(node, dict):
        return {key: as_tensors(value) for key, value in node.items()}
    if isinstance(node, list):
        return [as_tensors(value) for value in node]
    return torch.from_numpy(node) if isinstance(node, np.ndarray) else node
