"""Acting the slow way, which streaming is measured against: the model's forward pass at every step."""

from __future__ import annotations

import numpy as np
import torch

from elmur.batch import SegmentBatch
from elmur.sequence_model import SequenceModel
from elmur.spec import Discrete, Image, TaskSpec


class RecomputingPolicy:
    """Acts by the model's forward pass on the segment so far at every step (`whole`: on a segment of full length)."""

    def __init__(self, model: SequenceModel, context_length: int, whole: bool) -> None:
        self.model, self.context_length, self.whole = model.eval(), context_length, whole

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Fresh memory and an empty segment."""
        self._memory = self.model.initial_memory(num_envs, torch.Generator().manual_seed(seed))
        self._segment = filled(self.model.spec, num_envs, self.context_length)
        self._count = 0

    @torch.inference_mode()
    def act(self, observation: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        """Actions for the newest observation; all lanes are taken to have begun together."""
        if self._count == self.context_length:
            self._memory = self.model(self._segment, self._memory)[1]
            self._segment.start = self._segment.start + self.context_length
            self._count = 0
        for name, part in observation.items():
            self._segment.observation[name][:, self._count] = torch.from_numpy(part)
        self._count += 1
        window = self._segment if self.whole else next(self._segment.split(self._count))
        prediction = self.model(window, self._memory, write=False)[0].prediction
        action = self.model.head.act(prediction[:, self._count - 1], None)
        self._segment.action[:, self._count - 1] = action
        chosen: np.ndarray = action.numpy()
        return chosen

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:
        """Nothing more is needed."""


def filled(spec: TaskSpec, lanes: int, steps: int) -> SegmentBatch:
    """A segment of zeros for a task."""
    types = {Discrete: torch.int64, Image: torch.uint8}
    observation = {
        name: torch.zeros(lanes, steps, *field.shape, dtype=types.get(type(field)))
        for name, field in spec.observation.items()
    }
    discrete = isinstance(spec.action, Discrete)
    action = torch.zeros((lanes, steps) if discrete else (lanes, steps, *spec.action.shape))
    return SegmentBatch.of(observation, action.long() if discrete else action, begins=False, ends=False)
