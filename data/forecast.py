"""What collecting will take, said before it begins: episodes, steps, bytes and time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import h5py

from data.shard import Array, Steps, columns, create
from elmur.spec import TaskSpec

log = logging.getLogger(__name__)
FEW, MORE = 1, 6  # steps of the two short beginnings whose difference tells what a step takes


@dataclass(frozen=True)
class Forecast:
    """What a collection will take, about.

    seconds: of all of it; step_bytes: of one step in memory; stored_bytes: on disk, where pictures are compressed.
    """

    episodes: int
    steps: int | None
    step_bytes: int
    stored_bytes: float
    seconds: float | None

    def __str__(self) -> str:
        per_step = f"{readable(self.step_bytes)} a step"
        if self.stored_bytes < 0.9 * self.step_bytes:
            per_step += f", about {readable(self.stored_bytes)} compressed"
        if self.steps is None or self.seconds is None:
            return f"{self.episodes:,} episodes of unknown length, {per_step}"
        time_of_all = "less than a minute" if self.seconds < 60 else f"about {timedelta(seconds=round(self.seconds))}"
        total = readable(self.steps * self.stored_bytes)
        return (
            f"{self.episodes:,} episodes of {self.steps // self.episodes:,} steps at most, {self.steps:,} in all; "
            f"{per_step}, at most {total} on disk; {time_of_all}"
        )


def forecast(
    spec: TaskSpec, play: Callable[[int], Steps], episodes: int, shard_episodes: int, num_envs: int, processes: int
) -> Forecast:
    """What `episodes` of a task take, `num_envs` side by side in each process, from short beginnings of some.

    play: called with a number of steps, begins `num_envs` episodes and gives the first of them.
    """
    row = sum(column.row_bytes for column in columns(spec).values() if not column.per_episode)
    play(FEW)  # what is done once, such as compiling shaders
    few, _ = _timed(play, FEW)
    more, made = _timed(play, MORE)
    steps = len(made.reward)
    stored = row + sum(_saved(spec, name, values) for name, values in made.observation.items()) / steps
    if spec.horizon is None:
        return Forecast(episodes, None, row, stored, None)
    step = max(0.0, more - few) / max(1, steps - FEW)
    wave = max(0.0, few - FEW * step) + spec.horizon * step
    waves = -(-min(episodes, shard_episodes) // num_envs) * -(-episodes // shard_episodes)
    return Forecast(episodes, episodes * spec.horizon, row, stored, waves * wave / processes)


def _timed(play: Callable[[int], Steps], steps: int) -> tuple[float, Steps]:
    """Seconds for so many steps, and the first episode of them."""
    begin = time.perf_counter()
    first = play(steps)
    return time.perf_counter() - begin, first


def _saved(spec: TaskSpec, name: str, values: Array) -> int:
    """Bytes that compressing these rows adds, below zero where it saves some; 0 for what is not compressed."""
    column = columns(spec).get(f"observation/{name}")
    if column is None or not column.is_image:
        return 0
    with h5py.File("forecast", "w", driver="core", backing_store=False) as file:
        stored = create(file, column, len(values))
        stored[:] = values
        size: int = stored.id.get_storage_size()
    return size - len(values) * column.row_bytes


def readable(size: float) -> str:
    """Bytes in the largest unit of which there is one."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 10 else f"{size:.1f} {unit}"
