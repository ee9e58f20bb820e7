"""One step of acting as a function of tensors alone: observation and memory in, action and memory out."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from elmur.batch import SegmentBatch
from elmur.sequence_model import SequenceModel
from elmur.state import map_state, reset, tensors_of, with_tensors
from elmur.token_model import TokenModel

Tensors = dict[str, Tensor]
# What a program is given beside the parts of an observation, and what it gives; the memory's tensors are numbered.
IS_FIRST, LAST_ACTION, RETURN_TO_GO = "is_first", "last_action", "return_to_go"
ACTION, PREDICTION = "action", "prediction"
MEMORY, NEXT = "memory_", "next_"
STEP = "step.json"  # the file with names, types and shapes of what the programs take and give


@dataclass
class Held:
    """All that the next step depends on, in B lanes.

    state: what the open segment was opened with. observation, action, return_to_go: the segment's steps so far,
    `[B, L, ...]`, behind them what stood in those places before. position `[B]`: how many steps those are. start `[B]`:
    the first one's step within its episode.
    """

    state: Any
    observation: Tensors
    action: Tensor
    return_to_go: Tensor
    position: Int[Tensor, " B"]
    start: Int[Tensor, " B"]


class Given(nn.Module):
    """In the place of a model's observation encoder: what that one has made of each step before."""

    def forward(self, observation: Tensors) -> Tensor:
        return observation["encoded"]


class StepProgram(nn.Module):
    """One step of `StreamingPolicy`: named tensors in and out, the border of a segment by mask, not by control flow.

    In: the parts of the observation `[B, *shape]`; is_first `[B]`, true where an episode begins, whatever the memory
    holds; last_action `[B]` or `[B, A]`, what was executed at the step before; return_to_go `[B]`; memory_0, memory_1,
    ... `[B, ...]`. Out: the likeliest action, the prediction it was taken from (the logits of a choice), and
    next_memory_0, ... for the next step. `names` are the inputs that make a difference; others need not be given.

    A step runs the model's forward on the whole open segment: steps still to come hold what stood there before, which
    no prediction looks at (`elmur.testing.check_causality`). Encodings of observations are kept, not made again. Where
    the state reads no action (`acted` false) a full segment is written at once, else with the next step, when its last
    action is known. first: the state of one lane at the beginning of an episode.
    """

    def __init__(self, model: SequenceModel, context_length: int, first: Any) -> None:
        super().__init__()
        self.spec, self.length = model.spec, context_length if model.has_segments else 1
        self.model = copy.deepcopy(model).eval()
        self.encoder: nn.Module | None = None
        if isinstance(self.model, TokenModel):
            self.encoder, self.model.observation = self.model.observation, Given()  # type: ignore[assignment]
        self.first = first
        for number, tensor in enumerate(tensors_of(first)):
            self.register_buffer(f"first_{number}", tensor.detach().clone(), persistent=False)
        self.acted = True
        with torch.no_grad():
            blank = self.encoded(SegmentBatch.zeros(self.spec, 1, 1).observation)
        self.kept = {name: (part.shape[2:], part.dtype) for name, part in blank.items()}
        self.names: tuple[str, ...] = tuple(self.example(1))

    def forward(self, given: Tensors) -> Tensors:
        is_first = given[IS_FIRST]
        fresh, blank = self.fresh(is_first), self.blank(is_first, 1)
        numbered = enumerate(tensors_of(fresh))
        held = reset(
            with_tensors(fresh, [given.get(f"{MEMORY}{n}", tensor) for n, tensor in numbered]), fresh, is_first
        )
        if self.acted:
            held.action = self.placed(held.action, given.get(LAST_ACTION, blank.action[:, 0]), held.position - 1)
            held = self.written(held, self.model(self.segment(held), held.state)[1])
        now = self.encoded({name: given[name].unsqueeze(1) for name in self.spec.observation})
        for name, part in now.items():
            held.observation[name] = self.placed(held.observation[name], part[:, 0], held.position)
        wanted = given.get(RETURN_TO_GO, blank.return_to_go[:, 0])
        held.return_to_go = self.placed(held.return_to_go, wanted, held.position)
        output, after = self.model(self.segment(held), held.state, write=not self.acted)
        index = held.position.view(-1, 1, 1).expand(-1, 1, output.prediction.shape[-1])
        prediction = output.prediction[:, 0] if self.length == 1 else output.prediction.gather(1, index)[:, 0]
        held.position = held.position + 1
        if not self.acted:
            held = self.written(held, after)
        remembered = {f"{MEMORY}{number}": tensor for number, tensor in enumerate(tensors_of(held))}
        return {
            ACTION: self.model.head.act(prediction, None),
            PREDICTION: prediction,
            **{f"{NEXT}{name}": tensor for name, tensor in remembered.items() if name in self.names},
        }

    def written(self, held: Held, after: Any) -> Held:
        """What is held once the segments that are full have been written."""
        full = held.position == self.length
        if self.length == 1 and not self.acted:
            full = torch.ones_like(full)
        start, position = torch.where(full, held.start + self.length, held.start), held.position.masked_fill(full, 0)
        state = after if self.length == 1 and not self.acted else reset(held.state, after, full)
        return Held(state, held.observation, held.action, held.return_to_go, position, start)

    def placed(self, steps: Tensor, one: Tensor, position: Int[Tensor, " B"]) -> Tensor:
        """The steps `[B, L, ...]` with `one [B, ...]` at a position of each lane; -1 is nowhere."""
        if self.length == 1 and not self.acted:
            return one.unsqueeze(1)
        there = torch.arange(self.length, device=one.device) == position.unsqueeze(1)
        return torch.where(there.view(*there.shape, *[1] * (one.ndim - 1)), one.unsqueeze(1), steps)

    def segment(self, held: Held) -> SegmentBatch:
        """The open segment as the model sees it."""
        batch = SegmentBatch.of(dict(held.observation), held.action, begins=False, ends=False)
        batch.return_to_go, batch.start = held.return_to_go, held.start
        return batch

    def encoded(self, parts: Tensors) -> Tensors:
        """A step's observation as it is kept: encoded where the model has an encoder of its own for it."""
        return parts if self.encoder is None else {"encoded": self.encoder(parts)}

    def fresh(self, is_first: Bool[Tensor, " B"]) -> Held:
        """What is held before the first step of an episode."""
        lanes = is_first.shape[0]  # any number, while a program is traced
        parts = [getattr(self, f"first_{number}") for number in range(len(tensors_of(self.first)))]
        state = with_tensors(self.first, [part.expand(lanes, *part.shape[1:]) for part in parts])
        observation = {
            name: torch.zeros(lanes, self.length, *shape, dtype=dtype) for name, (shape, dtype) in self.kept.items()
        }
        steps, zero = self.blank(is_first, self.length), torch.zeros(lanes, dtype=torch.int64)
        return Held(state, observation, steps.action, steps.return_to_go, zero, zero)

    def blank(self, is_first: Bool[Tensor, " B"], steps: int) -> SegmentBatch:
        """Steps at which all is zero."""
        one = SegmentBatch.zeros(self.spec, 1, steps)
        return map_state(lambda part: part.expand(is_first.shape[0], *part.shape[1:]), one)

    def example(self, lanes: int) -> Tensors:
        """Every input of a first step at which all that is seen is zero; of the memory nothing is read there."""
        step = SegmentBatch.zeros(self.spec, lanes, 1)
        begins = torch.ones(lanes, dtype=torch.bool)
        held = enumerate(tensors_of(self.fresh(begins)))
        return {
            **{name: part[:, 0] for name, part in step.observation.items()},
            IS_FIRST: begins,
            LAST_ACTION: step.action[:, 0],
            RETURN_TO_GO: step.return_to_go[:, 0],
            **{f"{MEMORY}{number}": torch.zeros_like(tensor) for number, tensor in held},
        }
