"""What collecting will take, said before it begins: episodes, steps, bytes and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.filesize import decimal

from data.columns import columns
from elmur.progress import spelled
from elmur.spec import TaskSpec

MORE = 5  # steps, beside the first, of the beginning by which the time of a step is told from that of a reset


def forecast(
    spec: TaskSpec, play: Callable[[int], object], episodes: int, waves: float, optional: Sequence[str] = ()
) -> str:
    """A sentence on what `episodes` of a task take at most, in memory: pictures are compressed on disk.

    play: called with a number of steps, plays them from the beginning of a wave of episodes. waves: how many come one
    after another. optional: what is recorded beside the arrays of every shard (data.columns.OPTIONAL).
    """

    def seconds(steps: int) -> float:
        begin = time.perf_counter()
        play(steps)
        return time.perf_counter() - begin

    row = step_bytes(spec, optional)
    if spec.horizon is None:
        return f"{episodes:,} episodes of unknown length, {decimal(row)} a step"
    seconds(1)  # what is done once, such as compiling shaders
    first, more = seconds(1), seconds(1 + MORE)
    all_of_it = waves * (first + (spec.horizon - 1) * max(0.0, more - first) / MORE)
    steps = episodes * spec.horizon
    return (
        f"{episodes:,} episodes of {spec.horizon:,} steps at most, {steps:,} in all; {decimal(row)} a step, "
        f"at most {decimal(steps * row)}; " + spelled(all_of_it)
    )


def step_bytes(spec: TaskSpec, optional: Sequence[str] = ()) -> int:
    """What a step of a task takes in memory; pictures are compressed on disk."""
    return sum(column.row_bytes for column in columns(spec, optional).values() if not column.per_episode)
