"""check_model refuses what breaks the contract, each fault with its own sentence."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elmur.batch import SegmentBatch
from elmur.encoders import ObservationEncoder
from elmur.heads import head_for
from elmur.sequence_model import Output, SequenceModel
from elmur.spec import Discrete, Image, TaskSpec, Vector
from elmur.testing import check_model


class Leaky(SequenceModel):
    """A leaky sum of what was seen; what a model has to say and nothing more."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        self.spec = spec
        self.observation = ObservationEncoder(spec.observation, 8)
        self.head = head_for(spec, 8)

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        return next(self.parameters()).new_zeros(batch_size, 8)

    def encoded(self, batch: SegmentBatch) -> Tensor:
        return self.observation(batch.observation)

    def forward(
        self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Any]:
        outputs = []
        for x in self.encoded(batch).unbind(1):
            memory = 0.5 * memory + x.to(memory.dtype)
            outputs.append(memory)
        return Output(self.head(torch.stack(outputs, 1))), memory


class SeesTheFuture(Leaky):
    def encoded(self, batch: SegmentBatch) -> Tensor:
        x = super().encoded(batch)
        return x + x.mean(1, keepdim=True)


class SeesTheAnswer(Leaky):
    def encoded(self, batch: SegmentBatch) -> Tensor:
        return super().encoded(batch) + batch.action.view(*batch.mask.shape, -1).sum(-1, keepdim=True)


class MixesLanes(Leaky):
    def encoded(self, batch: SegmentBatch) -> Tensor:
        x = super().encoded(batch)
        return x + x[:1]


class KeepsItsStateInside(Leaky):
    hidden: Any = None

    def forward(self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True) -> Any:
        start = memory if self.hidden is None or self.hidden.shape != memory.shape else self.hidden
        output, self.hidden = super().forward(batch, start)
        return output, memory


class StepsOtherwise(Leaky):
    def step(self, stream: Any, now: SegmentBatch, before: SegmentBatch | None) -> Tensor:
        return super().step(stream, now, before) * 1.001


class ClosesOtherwise(Leaky):
    def close_segment(self, stream: Any, last: SegmentBatch) -> Any:
        return super().close_segment(stream, last) * 0


class Grows(Leaky):
    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Any:
        return super().initial_memory(batch_size)[:, None]

    def forward(self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True) -> Any:
        output, last = super().forward(batch, memory[:, -1])
        return output, torch.cat([memory, last[:, None]], 1)


class Hidden:
    """A stream that is no nest of tensors: whoever copies it gets the same one again."""

    def __init__(self, memory: Tensor) -> None:
        self.memory = memory


class SharesItsStream(Leaky):
    def open_segment(self, memory: Any, start: Tensor, context_length: int) -> Any:
        return Hidden(memory)

    def step(self, stream: Any, now: SegmentBatch, before: SegmentBatch | None) -> Tensor:
        output, stream.memory = self(now, stream.memory)
        return output.prediction[:, 0]

    def close_segment(self, stream: Any, last: SegmentBatch) -> Any:
        return stream.memory


class HalfPrecision(Leaky):
    def forward(self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True) -> Any:
        output, last = super().forward(batch, memory)
        return output, last.bfloat16() if torch.is_autocast_enabled("cpu") else last


class Overflows(Leaky):
    def encoded(self, batch: SegmentBatch) -> Tensor:
        return super().encoded(batch) * 1e39 / 1e39


class Idle(Leaky):
    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.idle = nn.Parameter(torch.ones(1))


class Forgets(Leaky):
    """What it computes with is another each time that it is made, and no part of its checkpoint."""

    scale: Tensor
    scales = itertools.count(1.0)

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.register_buffer("scale", torch.full((8,), next(self.scales)), persistent=False)

    def encoded(self, batch: SegmentBatch) -> Tensor:
        return super().encoded(batch) * self.scale


class NotANumber(Leaky):
    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.register_buffer("table", torch.tensor(float("nan")))


class MaskedAndTied(Leaky):
    """Two layers with the same weights, and a mask with infinities."""

    mask: Tensor

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.register_buffer("mask", torch.full((64, 64), float("-inf")).triu(1))
        self.layers = nn.ModuleList([nn.Linear(8, 8)] * 8)

    def encoded(self, batch: SegmentBatch) -> Tensor:
        x = super().encoded(batch) + self.mask.diagonal()[0]
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


REFUSED: dict[type[SequenceModel], str] = {
    SeesTheFuture: "a change of step 1 and later moves predictions before it by",
    SeesTheAnswer: "the action of step 1 moves the prediction of that action by",
    MixesLanes: "lanes depend on each other",
    KeepsItsStateInside: "the same segment and state give predictions that differ",
    StepsOtherwise: "the predictions of step and forward differ by .* in segment 0, of 3 steps",
    ClosesOtherwise: "the states of step and forward differ",
    Grows: "the state's shapes and dtypes change",
    SharesItsStream: "an open segment differs by .* once it was copied, at step 2",
    HalfPrecision: "its state is .*bfloat16.* in bfloat16 autocast",
    Overflows: "not finite in float32",
    Idle: "no gradient reaches idle",
    Forgets: "its predictions differ by .* after a checkpoint",
    NotANumber: "its checkpoint is refused: .* not finite in its weights 'model.table'",
}


def test_two_methods_are_enough() -> None:
    check_model(Leaky)


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_a_fault_is_named(kind: type[SequenceModel]) -> None:
    with pytest.raises(AssertionError, match=f"^{kind.__name__}: .*{REFUSED[kind]}"):
        check_model(kind)


def test_tied_weights_and_infinite_masks_are_kept() -> None:
    check_model(MaskedAndTied)


def test_untrained_parameters_are_those_that_are_named() -> None:
    check_model(Idle, untrained=["idle"])
    with pytest.raises(AssertionError, match=r"said to be untrained, but a gradient reaches head\.linear\.weight"):
        check_model(Idle, untrained=["idle", "head"])


def test_a_task_of_ones_own_with_images() -> None:
    check_model(Leaky, TaskSpec("look", {"camera": Image(1, 36, 36), "joints": Vector(3)}, Discrete((2,))))


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_model(Leaky)
    assert torch.equal(torch.rand(3), expected)
