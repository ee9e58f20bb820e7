"""SegmentBatch: the steps that a model sees, for B lanes and T steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from elmur.spec import Discrete, Field, Image, TaskSpec
from elmur.state import map_state

# The fields that have a row for each step; the last two may be None.
OF_STEPS = ("observation", "action", "return_to_go", "mask", "loss_mask", "label", "preference")


@dataclass(frozen=True)
class Reads:
    """What a way of learning reads of the data beside observations, actions and returns-to-go.

    transitions: rewards, how episodes ended, and the step that follows each window.
    preferences: what the expert held of each action.
    best_fraction: the share of episodes that is learned from, those of the highest returns; None: all of them.
    """

    transitions: bool = False
    preferences: bool = False
    best_fraction: float | None = None


@dataclass
class SegmentBatch:
    """B lanes of T consecutive steps; a window when it comes from the data, a segment once split.

    observation: one tensor `[B, T, ...]` per named part of the TaskSpec.
    action: `[B, T]` int64 (categorical) or `[B, T, A]` float (continuous); what was done at each step.
    return_to_go: `[B, T]` float, the sum of rewards from this step to the end of the episode.
    mask: `[B, T]`, true where the step is real, false where it is padding.
    loss_mask: `[B, T]`, true where the step is real and its action counts in the loss.
    is_first: `[B]`, true where the first step of this batch begins an episode (memory is reset there).
    is_last: `[B]`, true where nothing of this episode follows after this batch (its memory is read no more).
    start: `[B]` int64, index within the episode of the first step of this batch.
    goes_on: whether an episode goes on after this batch, where the host knows it (see `continues`).
    outcome: what came of the steps, of windows alone and only where it is asked for (`Reads.transitions`).
    label: as `action`, what the expert would have done, where another policy acted; None: `action` is the expert's.
    preference: `[B, T, A]` float16, what the expert held of each action as shares of 1, all 0 where the step is
        padding; only where it is asked for (`Reads.preferences`).
    """

    observation: dict[str, Tensor]
    action: Tensor
    return_to_go: Float[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    loss_mask: Bool[Tensor, "B T"]
    is_first: Bool[Tensor, " B"]
    is_last: Bool[Tensor, " B"]
    start: Int[Tensor, " B"]
    goes_on: bool | None = None
    outcome: Outcome | None = None
    label: Tensor | None = None
    preference: Float[Tensor, "B T A"] | None = None

    @classmethod
    def of(cls, observation: dict[str, Tensor], action: Tensor, begins: bool = True, ends: bool = True) -> SegmentBatch:
        """Steps 0, 1, ... of B episodes, all of them real, without return-to-go.

        begins, ends: whether memory is reset before them, and whether nothing follows.
        """
        batch_size, num_steps = action.shape[:2]
        true = torch.ones(batch_size, num_steps, dtype=torch.bool, device=action.device)
        return cls(
            observation=observation,
            action=action,
            return_to_go=torch.zeros(batch_size, num_steps, device=action.device),
            mask=true,
            loss_mask=true,
            is_first=true.new_full((batch_size,), begins),
            is_last=true.new_full((batch_size,), ends),
            start=torch.zeros(batch_size, dtype=torch.int64, device=action.device),
        )

    @classmethod
    def zeros(cls, spec: TaskSpec, lanes: int, steps: int) -> SegmentBatch:
        """Steps in the midst of episodes of a task, in which every number is zero."""
        types = {Discrete: torch.int64, Image: torch.uint8}

        def blank(part: Field) -> Tensor:
            return torch.zeros(lanes, steps, *part.shape, dtype=types.get(type(part)))

        action = spec.action
        acted = torch.zeros(lanes, steps, dtype=torch.int64) if isinstance(action, Discrete) else blank(action)
        observation = {name: blank(part) for name, part in spec.observation.items()}
        return cls.of(observation, acted, begins=False, ends=False)

    @property
    def batch_size(self) -> int:
        return self.mask.shape[0]

    @property
    def num_steps(self) -> int:
        return self.mask.shape[1]

    @property
    def target(self) -> Tensor:
        """What is to be imitated at each step."""
        return self.action if self.label is None else self.label

    @property
    def continues(self) -> bool:
        """Whether something follows of any episode; after `to` the host knows, and need not wait for a GPU."""
        return not bool(self.is_last.all()) if self.goes_on is None else self.goes_on

    def split(self, context_length: int) -> Iterator[SegmentBatch]:
        """Segments of `context_length` steps, in order; the last is shorter where T is not a multiple.

        Only the first keeps `is_first`, only the last keeps `is_last`; `start` moves along.
        """
        for begin in range(0, self.num_steps, context_length):
            cut = slice(begin, begin + context_length)
            first, last = begin == 0, begin + context_length >= self.num_steps
            yield SegmentBatch(
                **{name: map_state(lambda part, cut=cut: part[:, cut], getattr(self, name)) for name in OF_STEPS},
                is_first=self.is_first if first else torch.zeros_like(self.is_first),
                is_last=self.is_last if last else torch.zeros_like(self.is_last),
                start=self.start + begin,
            )

    def followed_by(self, later: SegmentBatch) -> SegmentBatch:
        """These steps and then those of `later`, of the same lanes and episodes: what `split` took apart."""
        pairs = {name: (getattr(self, name), getattr(later, name)) for name in OF_STEPS}
        joined = {name: map_state(lambda *parts: torch.cat(parts, dim=1), *pair) for name, pair in pairs.items()}
        return SegmentBatch(**joined, is_first=self.is_first, is_last=later.is_last, start=self.start)

    def to(self, device: torch.device | str) -> SegmentBatch:
        """The same batch on another device (Lightning calls this); nobody waits for what goes to a GPU."""
        there = torch.device(device)
        later = there.type == "cuda"  # the other way the numbers would be read before they have come
        if there == self.is_last.device or there.type == "cpu":
            goes_on = self.goes_on
        else:
            goes_on = self.continues
        return replace(map_state(lambda part: part.to(there, non_blocking=later), self), goes_on=goes_on)

    def pin_memory(self) -> SegmentBatch:
        """The same batch in page-locked memory (the DataLoader calls this); what is on a GPU already stays there."""
        return map_state(lambda part: part.pin_memory() if part.device.type == "cpu" else part, self)


@dataclass
class Outcome:
    """What came of the steps of a window.

    reward: `[B, T]` float, what each step's action earned.
    terminated: `[B]`, true where the episode ends inside the window and in a terminal state, after which nothing is
        earned; an episode that ends otherwise was cut short, and what followed is not known.
    after: the one step that follows the window, `mask` false in the lanes whose episode has none.
    """

    reward: Float[Tensor, "B T"]
    terminated: Bool[Tensor, " B"]
    after: SegmentBatch
