"""Timing on a machine that others use too: pieces of work take turns, so that a ratio of their medians is fair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GPU, CPU = torch.device("cuda"), torch.device("cpu")
SECONDS = 5.0  # of each measurement
Rows = list[dict[str, Any]]
Work = Callable[[], Any]


def take_turns(works: Mapping[str, Work], seconds: float = SECONDS, least: int = 5) -> dict[str, float]:
    """Median seconds of one call of each, over as many rounds as fit into `seconds` but `least` at least.

    Every round calls each of them once, after one round that does not count; a GPU has done all of it by then.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    end = float("inf")
    while time.perf_counter() < end or len(next(iter(taken.values()))) <= least:
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - begin)
        end = min(end, time.perf_counter() + seconds)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def median_seconds(work: Work, number: int, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds of so many calls, after some that do not count; `time.process_time` leaves others' work out."""
    taken = []
    for _ in range(warm_up + number):
        begin = clock()
        work()
        taken.append(clock() - begin)
    return statistics.median(taken[warm_up:])


@contextmanager
def precision_of(name: str) -> Iterator[None]:
    """Products of float32 numbers in this precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def bare_products(module: nn.Module, step: Work, kind: torch.dtype, device: torch.device) -> tuple[Work, float]:
    """Forward and backward of the linear maps and convolutions that a step goes through, and nothing else.

    On a GPU as one CUDA graph; and their floating point operations.
    """
    met: list[tuple[Callable[..., Tensor], Tensor, Tensor]] = []
    operations = 0.0

    def note(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal operations
        assert isinstance(part, nn.Linear | nn.Conv2d)
        x = torch.randn_like(inputs[0], dtype=kind).requires_grad_(inputs[0].requires_grad)
        weight = torch.randn_like(part.weight, dtype=kind).requires_grad_(output.requires_grad)
        passes = 1 + (2 if x.requires_grad else 1) * output.requires_grad
        operations += 2.0 * output.numel() * part.weight[0].numel() * passes
        met.append((F.linear if isinstance(part, nn.Linear) else partial(F.conv2d, stride=part.stride), x, weight))

    with ExitStack() as hooks:
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                hooks.enter_context(part.register_forward_hook(note))
        step()

    def replay() -> None:
        for function, x, weight in met:
            y = function(x, weight)
            if wanted := [part for part in (x, weight) if part.requires_grad]:
                torch.autograd.grad(y, wanted, y)

    if device != GPU:
        return replay, operations
    with precision_of("high"):
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            replay()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replay()

    def replayed() -> int:
        graph.replay()
        return len(met)  # they must live as long as the graph, which reads them

    return replayed, operations
