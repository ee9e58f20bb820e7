"""The contract that every model keeps: (segment, memory) -> (output, memory), and the same thing one step at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elmur.batch import SegmentBatch
from elmur.heads import Head
from elmur.spec import TaskSpec
from elmur.state import lane_of


@dataclass
class Output:
    """prediction `[B, steps, A]`, what the head says of every step's action; balance_loss, a scalar, or None."""

    prediction: Float[Tensor, "B steps A"]
    balance_loss: Tensor | None = None


@dataclass
class OpenSegment:
    """The stream of the default: the state that a segment was opened with, its first step's index, its steps so far."""

    memory: Any
    start: Int[Tensor, " B"]
    steps: SegmentBatch

    def add(self, now: SegmentBatch, before: SegmentBatch | None) -> None:
        """One more step; the action of the one before is known by now."""
        if before is None:
            self.steps = replace(now, action=now.action.clone(), start=self.start)
            return
        self.steps.action[:, -1:] = before.action
        self.steps = replace(self.steps.followed_by(now), start=self.start)


class SequenceModel(nn.Module, ABC):
    """A policy network that sees one segment at a time. `State` is whatever it carries from one to the next.

    A state is a nest of tensors whose first dimension is the lane (`elmur.state`); it is passed in and returned, never
    kept inside. A model has to say two things: its state at the beginning of an episode, and its forward. Acting opens
    a segment, steps through it and closes it:

        stream = model.open_segment(state, start, context_length)
        prediction = model.step(stream, now, before)   # once per step, exactly what forward says of that step
        state = model.close_segment(stream, last)

    By default a step runs forward on the open segment so far, which is exact for every model whose predictions look
    at no later step. A model that can add a step to what it has computed before replaces these three.

    has_segments: whether it matters where a segment ends. A recurrent network says false: one step after another, a
    segment each, gives what whole segments give.
    """

    spec: TaskSpec
    head: Head
    has_segments = True

    @abstractmethod
    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Any:
        """The state at the beginning of an episode."""

    @abstractmethod
    def forward(
        self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Any]:
        """Predictions for a segment and the state after it.

        `write=False`: the state is not needed, the one that came in may be returned. `write_grad=False`: it is needed,
        but no loss reaches back through it.
        """

    def open_segment(self, memory: Any, start: Int[Tensor, " B"], context_length: int) -> Any:
        """A stream for the segment that begins at step `start` of its episode."""
        no_steps = start.new_empty(start.shape[0], 0)
        return OpenSegment(memory, start, SegmentBatch.of(dict.fromkeys(self.spec.observation, no_steps), no_steps))

    def step(self, stream: Any, now: SegmentBatch, before: SegmentBatch | None) -> Float[Tensor, "B A"]:
        """The prediction for one more step (`now`, T = 1; its action is not looked at).

        `before` is the previous step of the same segment with the action that was executed, None at the first.
        """
        stream.add(now, before)
        output, _ = self(stream.steps, stream.memory, write=False)
        return output.prediction[:, -1]

    def close_segment(self, stream: Any, last: SegmentBatch) -> Any:
        """The state after the segment, whose last step was `last`, with the action that was executed."""
        stream.steps.action[:, -1:] = last.action
        return self(stream.steps, stream.memory)[1]

    @cached_property
    def lane(self) -> str:
        """What a lane of its state is, as `lane_of` says it."""
        return lane_of(self.initial_memory(1, torch.Generator()))

    def check_state(self, memory: Any) -> None:
        """Raises ValueError where a state is not one of this model; nothing is checked while it is compiled."""
        if not torch.compiler.is_compiling() and (found := lane_of(memory)) != self.lane:
            raise ValueError(
                f"the state is not one of this {type(self).__name__}: expected {self.lane} per lane, found {found}; "
                "give it what its own initial_memory or forward returned"
            )

    @property
    def write_has_loss(self) -> bool:
        """Whether making the next state adds a loss of its own, so that its graph is needed in any case."""
        return False

    @property
    def asks_for_return(self) -> bool:
        """Whether its predictions depend on the return that is still to come, which somebody has to ask for."""
        return False

    def num_parameters(self) -> int:
        """How many numbers are learned."""
        return sum(parameter.numel() for parameter in self.parameters())


class Wrapping(SequenceModel):
    """A model around another, with its state and its predictions; the streaming is the default's."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model, self.spec, self.head = model, model.spec, model.head

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Any:
        return self.model.initial_memory(batch_size, generator)

    def forward(
        self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Any]:
        return self.model(batch, memory, write, write_grad)
