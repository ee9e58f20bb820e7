"""Acting: a model fed one observation at a time, exactly as it was trained on whole segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elmur.batch import SegmentBatch
from elmur.compiled import acting
from elmur.sequence_model import SequenceModel
from elmur.spec import Discrete
from elmur.state import join_lanes, take_lanes, tensors_of, with_tensors

Array = npt.NDArray[Any]


@dataclass
class Group:
    """Lanes that are at the same position of their segment: `lanes` of the batch (None: all), and their open stream."""

    lanes: Tensor | None
    stream: Any
    start: Tensor
    position: int = 0
    before: SegmentBatch | None = None


class StreamingPolicy:
    """Acts for `num_envs` environments at a constant cost per step, however long the episode is.

    Inside a segment every step adds its own tokens to cached keys and values; when the segment is full, memory is
    written and the next one opened. Lanes whose episodes began together step together; others form groups of their own,
    at most two for each position of a segment.

    sample: draw categorical actions from the softmax instead of taking the likeliest. target_return: the return asked
    of models whose tokens include the return-to-go. compiled: by torch.compile, which pays after some 100,000 steps.
    """

    def __init__(
        self,
        model: SequenceModel,
        context_length: int,
        sample: bool = False,
        target_return: float = 1.0,
        compiled: bool = False,
    ) -> None:
        self.model, self.context_length = model, context_length
        self.acting = acting(model, compiled)
        self.sample, self.target_return = sample, target_return
        self.device = next(model.parameters()).device
        self.start(0)

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything and get ready for `num_envs` episodes; `seed` for memory noise and sampled actions."""
        self.model.eval()
        self._noise = torch.Generator().manual_seed(seed)
        self._sampling = torch.Generator(self.device).manual_seed(seed) if self.sample else None
        self._groups: list[Group] = []
        self._num_envs = num_envs
        self._is_discrete = isinstance(self.model.spec.action, Discrete)
        shape = (num_envs, 1) if self._is_discrete else (num_envs, 1, *self.model.spec.action.shape)
        self._executed = torch.zeros(shape, dtype=torch.int64 if self._is_discrete else torch.float32)
        self._wanted = torch.full((num_envs, 1), self.target_return, device=self.device)
        true = torch.ones(num_envs, 1, dtype=torch.bool, device=self.device)
        self._executed, self._true = self._executed.to(self.device), true
        self._no = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self._zero = torch.zeros(num_envs, dtype=torch.int64, device=self.device)

    @torch.inference_mode()
    def act(self, observation: dict[str, Array], is_first: Array) -> Array:
        """Actions `[N]` (or `[N, A]`) for observations `[N, ...]`; where `is_first`, the lane begins a new episode."""
        if is_first.any():
            self._begin(np.flatnonzero(is_first))  # before the batch is made: it sets the return that is asked for
        now = self._batch({name: self._tensor(observation[name]) for name in self.model.spec.observation})
        if any(group.position == self.context_length for group in self._groups):
            self._commit()
        predictions = [(group.lanes, self._step(group, now)) for group in self._groups]
        if len(predictions) == 1 and predictions[0][0] is None:
            prediction = predictions[0][1]
        else:
            prediction = torch.cat([p for _, p in predictions])
            prediction = prediction[torch.cat([lanes for lanes, _ in predictions]).argsort()]  # type: ignore[misc]
        action = self.model.head.act(prediction, self._sampling)
        self._executed = action.unsqueeze(1)
        result: Array = action.cpu().numpy()
        return result

    @torch.inference_mode()
    def observe(self, action: Array, reward: Array) -> None:
        """What was really done and received: the next tokens are made of it."""
        executed = torch.as_tensor(action).to(self._executed.dtype)
        self._executed = self._moved(executed).unsqueeze(1)
        self._wanted = self._wanted - self._moved(torch.as_tensor(reward).to(self._wanted.dtype)).unsqueeze(1)

    def memory(self) -> Any:
        """The state that the current segment was opened with, lanes in order."""
        states = [group.stream.memory for group in self._groups]
        if len(states) == 1:
            return states[0]
        order = torch.cat([group.lanes for group in self._groups]).argsort()  # type: ignore[misc]
        return take_lanes(join_lanes(states), order)

    @torch.inference_mode()
    def snapshot(self) -> dict[str, Any] | None:
        """All that the next actions depend on, as arrays; None in the middle of a segment, where that is too much.

        To be asked after `observe`.
        """
        if len(self._groups) != 1 or self._groups[0].lanes is not None:
            return None
        if self._groups[0].position != self.context_length:
            return None
        self._commit()  # what the next `act` would begin with
        group, generators = self._groups[0], (self._noise, self._sampling)
        return {
            "memory": [tensor.cpu().numpy() for tensor in tensors_of(group.stream.memory)],
            "start": group.start.cpu().numpy(),
            "executed": self._executed.cpu().numpy(),
            "wanted": self._wanted.cpu().numpy(),
            "generators": [None if one is None else one.get_state().numpy() for one in generators],
        }

    @torch.inference_mode()
    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on where a snapshot was taken; `start` was called with as many environments."""
        template = self.model.initial_memory(self._num_envs, torch.Generator())
        memory = with_tensors(template, [torch.from_numpy(array) for array in snapshot["memory"]])
        self._executed = torch.from_numpy(snapshot["executed"]).to(self.device)
        self._wanted = torch.from_numpy(snapshot["wanted"]).to(self.device)
        for generator, state in zip((self._noise, self._sampling), snapshot["generators"], strict=True):
            if generator is not None:
                generator.set_state(torch.from_numpy(state))
        self._groups = [self._open(None, memory, torch.from_numpy(snapshot["start"]).to(self.device))]

    def _tensor(self, part: Array | Tensor) -> Tensor:
        if not isinstance(part, Tensor):  # a simulator on the GPU leaves its observations there
            part = torch.from_numpy(np.ascontiguousarray(part))
        return self._moved(part).unsqueeze(1)

    def _moved(self, part: Tensor) -> Tensor:
        """The tensor on the policy's device; to a GPU without waiting, for ordinary memory has been read by then."""
        return part.to(self.device, non_blocking=self.device.type == "cuda")

    def _batch(self, observation: dict[str, Tensor]) -> SegmentBatch:
        return SegmentBatch(
            observation, self._executed, self._wanted, self._true, self._true, self._no, self._no, self._zero
        )

    def _step(self, group: Group, now: SegmentBatch) -> Tensor:
        """The prediction for one group's lanes."""
        mine = now if group.lanes is None else take_lanes(now, group.lanes)
        if group.before is not None:
            # What was executed became known after that step's batch was made.
            lanes = group.lanes
            group.before.action = self._executed if lanes is None else self._executed.index_select(0, lanes)
        prediction = self.acting.step(group.stream, mine, group.before)
        group.before = mine
        group.position += 1
        return prediction

    def _begin(self, lanes: Array) -> None:
        """Fresh memory in some lanes, the others undisturbed."""
        if len(lanes) == self._num_envs:
            self._groups = [self._open(None, self.model.initial_memory(self._num_envs, self._noise), self._zero)]
            self._wanted = torch.full_like(self._wanted, self.target_return)
            return
        beginning = torch.as_tensor(lanes, device=self.device)
        self._wanted[beginning] = self.target_return
        kept = []
        for group in self._groups:
            everyone = torch.arange(self._num_envs, device=self.device) if group.lanes is None else group.lanes
            stay = (~torch.isin(everyone, beginning)).nonzero().squeeze(1)
            if len(stay):
                stream, before = take_lanes(group.stream, stay), group.before and take_lanes(group.before, stay)
                kept.append(Group(everyone[stay], stream, group.start[stay], group.position, before))
        fresh = self.model.initial_memory(len(beginning), self._noise)
        kept.append(self._open(beginning, fresh, torch.zeros_like(beginning)))
        self._groups = kept

    def _commit(self) -> None:
        """Close the groups whose segment is full, and open the next segment for all of their lanes together."""
        full = [group for group in self._groups if group.position == self.context_length]
        states = []
        for group in full:
            assert group.before is not None
            lanes = group.lanes
            group.before.action = self._executed if lanes is None else self._executed.index_select(0, lanes)
            states.append(self.acting.close_segment(group.stream, group.before))
        start = torch.cat([group.start + self.context_length for group in full])
        lanes = None if full[0].lanes is None else torch.cat([g.lanes for g in full])  # type: ignore[misc]
        merged = self._open(lanes, states[0] if len(states) == 1 else join_lanes(states), start)
        self._groups = [g for g in self._groups if g.position < self.context_length] + [merged]

    def _open(self, lanes: Tensor | None, memory: Any, start: Tensor) -> Group:
        return Group(lanes, self.acting.open_segment(memory, start, self.context_length), start)
