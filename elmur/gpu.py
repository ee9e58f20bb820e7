"""What concerns training on a GPU alone: float32 products by its matrix units, and a window as a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from elmur import ranks
from elmur.batch import SegmentBatch
from elmur.objectives.objective import WindowLoss
from elmur.state import detach, tensors_of, with_tensors

log = logging.getLogger(__name__)
PRECISIONS = ("highest", "high", "medium")
CAPTURES = ("auto", "always", "never")
# What a window teaches, and the memory after it.
Window = tuple[WindowLoss, Any]
NOT_CAPTURED = "a window could not be captured as a CUDA graph (%s): training goes on without; module.gpu.capture=never"


@dataclass
class OnGpu:
    """How a run trains where it has a GPU; on a CPU none of it matters.

    matmul_precision: of products of float32 numbers, as `torch.set_float32_matmul_precision` has it: "high" rounds
    their factors to TF32 (10 bits), which the matrix units need; "highest" keeps 23 bits.
    capture: a window's forward and backward pass as CUDA graphs, one launch each instead of thousands of kernels:
    "always", "never", or "auto", where one process trains, and only if it can be done.
    """

    matmul_precision: str = "high"
    capture: str = "auto"
    _graphs: dict[Any, Callable[..., Window]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, found, known in (
            ("matmul_precision", self.matmul_precision, PRECISIONS),
            ("capture", self.capture, CAPTURES),
        ):
            if found not in known:
                raise ValueError(f"module.gpu.{name}: expected one of {', '.join(known)}; found {found!r}")

    def prepare(self, device: torch.device) -> None:
        """Set what is global, for a device that this concerns."""
        if device.type == "cuda":
            torch.set_float32_matmul_precision(self.matmul_precision)

    def run(
        self, model: nn.Module, window: Callable[..., Window], batch: SegmentBatch, carry: Any, fresh: Any
    ) -> Window:
        """`window(batch, carry, fresh)`, a function of the model: captured where that is asked for.

        What comes out of a graph is overwritten when the same graph runs again.
        """
        if batch.mask.device.type != "cuda" or self.capture == "never" or ranks.place()[1] > 1:
            return window(batch, carry, fresh)
        shapes = tuple((tuple(part.shape), part.dtype) for part in tensors_of((batch, carry, fresh)))
        key = shapes, batch.continues, torch.is_autocast_enabled("cuda")
        if key not in self._graphs:
            try:
                self._graphs[key] = captured(model, window, batch, carry, fresh)
            except RuntimeError as error:
                if self.capture == "always":
                    raise
                log.warning(NOT_CAPTURED, str(error).partition("\n")[0])
                self.capture = "never"
                return window(batch, carry, fresh)
        return self._graphs[key](batch, carry, fresh)


class Flat(nn.Module):
    """A window as a function of tensors alone, in the order of `tensors_of`, which is how graphs are captured."""

    def __init__(self, model: nn.Module, window: Callable[..., Window], template: Any) -> None:
        super().__init__()
        self.model, self.window, self.template = model, window, template
        self.balanced, self.terms, self.memory = False, list[str](), None

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Loss, score, balance loss (or a zero), how many steps counted, the loss's terms, the memory's tensors."""
        found, self.memory = self.window(*with_tensors(self.template, list(tensors)))
        self.balanced, self.terms = found.balance is not None, list(found.terms)
        balance = found.loss.new_zeros(()) if found.balance is None else found.balance
        return found.loss, found.score, balance, found.counted, *found.terms.values(), *tensors_of(self.memory)

    def window_of(self, outputs: tuple[Tensor, ...]) -> Window:
        """What `forward` has flattened."""
        summed, score, balance, counted, *rest = outputs
        terms = dict(zip(self.terms, rest, strict=False))
        memory = with_tensors(self.memory, rest[len(terms) :])
        return WindowLoss(summed, score, balance if self.balanced else None, counted, terms), detach(memory)


def captured(
    model: nn.Module, window: Callable[..., Window], batch: SegmentBatch, carry: Any, fresh: Any
) -> Callable[..., Window]:
    """The window with its two passes as CUDA graphs. What is drawn for trial runs is put back: they leave no trace."""
    nest = (replace(batch, goes_on=batch.continues), carry, fresh)
    samples = tuple(part.detach().clone() for part in tensors_of(nest))
    flat = Flat(model, window, with_tensors(nest, list(samples)))
    drawn, cached = torch.cuda.get_rng_state(), torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # a cast that is reused would lie outside the graph
    try:
        graphed: Any = torch.cuda.make_graphed_callables(flat, samples, allow_unused_input=True)
    finally:
        torch.set_autocast_cache_enabled(cached)
        torch.cuda.set_rng_state(drawn)

    def replay(batch: SegmentBatch, carry: Any, fresh: Any) -> Window:
        return flat.window_of(graphed(*tensors_of((batch, carry, fresh))))

    return replay
