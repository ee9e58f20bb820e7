"""Timing on a machine that others use too: pieces of work take turns, so that a ratio of their medians is fair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Work = Callable[[], Any]


def take_turns(works: Mapping[str, Work], seconds: float, least: int = 5) -> dict[str, float]:
    """Median seconds of one call of each, over as many rounds as fit into `seconds` but `least` at least.

    Every round calls each of them once, after one round that does not count.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(taken.values()))) < least:
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in taken.items()}


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Torch on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def product(rows: int, inner: int, columns: int, dtype: torch.dtype = torch.float32) -> tuple[Work, float]:
    """`[rows, inner] @ [inner, columns]`, and its floating point operations."""
    left, weight = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    return lambda: F.linear(left, weight), 2.0 * rows * inner * columns


def linear_maps(model: nn.Module, work: Work) -> Work:
    """The matrix products of the linear maps that `work` goes through, and nothing else: what it cannot do without."""
    met: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        met.append((torch.ones(inputs[0].shape), module.weight.detach()))

    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_hook(note) for module in linears]
    work()
    for hook in hooks:
        hook.remove()

    def replay() -> None:
        for x, weight in met:
            F.linear(x, weight)

    return replay
