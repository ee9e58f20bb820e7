"""Acting recorded: memory at every segment's beginning, predictions and attention at every step; memory replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.evaluation.device import threads
from callbacks.inspect.attention import watched
from elmur.banks import banks
from elmur.batch import SegmentBatch
from elmur.layer import ELMURLayer
from elmur.memory import rows
from elmur.model import ELMUR
from elmur.policy import StreamingPolicy
from elmur.sequence_model import SequenceModel, Wrapping
from elmur.state import map_state
from envs.hidden import hidden_of
from envs.observers import Recorder
from envs.rollout import Episode, Observer, Trajectory, Wave, rollout
from envs.vector import VectorEnv

Change = Callable[[int, Any], Any]  # (number of the segment, memory that it would be opened with) -> memory


class Looking(Wrapping):
    """A model as it is, that tells of every segment which is opened and every step that is predicted.

    change: gives the memory that a segment is opened with in place of its own. on_open, on_step: are told.
    """

    def __init__(
        self,
        model: SequenceModel,
        change: Change,
        on_open: Callable[[Any], object],
        on_step: Callable[[Tensor], object],
    ) -> None:
        super().__init__(model)
        self.change, self.on_open, self.on_step, self.opened = change, on_open, on_step, 0

    def open_segment(self, memory: Any, start: Tensor, context_length: int) -> Any:
        memory = self.change(self.opened, memory)
        self.opened += 1
        self.on_open(memory)
        return self.model.open_segment(memory, start, context_length)

    def step(self, stream: Any, now: SegmentBatch, before: SegmentBatch | None) -> Tensor:
        prediction = self.model.step(stream, now, before)
        self.on_step(prediction)
        return prediction

    def close_segment(self, stream: Any, last: SegmentBatch) -> Any:
        return self.model.close_segment(stream, last)


@dataclass
class Recording:
    """Episodes of one wave, lanes in the order of their seeds.

    memories: the state at the beginning of each segment. predictions: float `[T, N, A]`. read: layer -> weights of the
    acting token `[T, N, H, M]`; write: layer -> a row `[N, W, T]` for each segment, of slot w's attention to the
    segment's tokens, mean of the heads; index: layer -> the slots `[N, W]` that these are of. hidden: the hidden state,
    name -> `[T + 1, N, n]`. frames: uint8 `[T, N, h, w, 3]` where the world was rendered.
    """

    episodes: list[Episode]
    context_length: int
    memories: list[Any] = field(default_factory=list)
    predictions: list[np.ndarray] = field(default_factory=list)
    read: dict[int, list[np.ndarray]] = field(default_factory=dict)
    write: dict[int, list[np.ndarray]] = field(default_factory=dict)
    index: dict[int, list[np.ndarray]] = field(default_factory=dict)
    hidden: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @property
    def segments(self) -> int:
        return len(self.memories)

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each episode, `[N]`."""
        return np.array([episode.length for episode in self.episodes])

    def reaching(self, segment: int) -> np.ndarray:
        """Whether an episode goes on in a segment, `[N]`; behind its end its lane holds nothing of it."""
        found: np.ndarray = self.lengths > segment * self.context_length
        return found

    def layers_of(self, number: int) -> list[int]:
        """The layers that a bank belongs to, all of them where one bank is shared."""
        layers = sorted({*self.read, *self.write})
        return layers if len(banks(self.memories[0])) == 1 else [layer for layer in layers if layer == number]

    def reading(self, number: int) -> np.ndarray | None:
        """Where a bank is read by the heads of its layers, `[T, N, H, M]`; None where that is not known."""
        found = [np.stack(self.read[layer]) for layer in self.layers_of(number) if layer in self.read]
        return np.concatenate(found, axis=2) if found else None

    def writing(self, number: int) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
        """The rows of `write` and `index` of a bank, one layer's slots after the other's; None where nothing writes."""
        layers = [layer for layer in self.layers_of(number) if layer in self.write]
        if not layers:
            return None
        rows = zip(*(self.write[layer] for layer in layers), strict=True)
        slots = zip(*(self.index[layer] for layer in layers), strict=True)
        return [np.concatenate(row, axis=1) for row in rows], [np.concatenate(row, axis=1) for row in slots]

    def slots(self) -> dict[str, np.ndarray]:
        """bank -> slots `[S, N, M, D]` at the beginning of each segment."""
        each = [banks(memory) for memory in self.memories]
        return {name: np.stack([found[name].slots.float().numpy() for found in each]) for name in each[0]}

    def written_at(self) -> dict[str, np.ndarray]:
        """bank -> dates `[S, N, M]` of those that are dated."""
        each = [banks(memory) for memory in self.memories]
        dated = {name for name, bank in each[0].items() if bank.written_at is not None}
        return {n: np.stack([found[n].written_at.numpy() for found in each]) for n in each[0] if n in dated}  # type: ignore[union-attr]

    @property
    def seen(self) -> list[str]:
        """The parts of an observation."""
        return [
            name for episode in self.episodes[:1] if episode.steps is not None for name in episode.steps.observation
        ]

    def of_steps(self, part: Callable[[Trajectory], np.ndarray]) -> np.ndarray:
        """A part of every step that was played, `[T, N, ...]`; nothing counts behind an episode's end."""
        longest = max(episode.length for episode in self.episodes)
        rows = [part(episode.steps) for episode in self.episodes if episode.steps is not None]
        return np.stack(
            [np.concatenate([row, np.zeros((longest - len(row), *row.shape[1:]), row.dtype)]) for row in rows], axis=1
        )

    def actions(self) -> np.ndarray:
        """What the policy chose: int `[T, N]` or float `[T, N, A]`."""
        return self.of_steps(lambda steps: steps.action)

    def played(self) -> np.ndarray:
        """Whether a step was played: bool `[T, N]`."""
        return np.arange(self.lengths.max())[:, None] < self.lengths


class _Hidden(Observer):
    """Keeps the hidden state of every moment, and changes the episodes right after they have begun."""

    def __init__(self, kept: dict[str, list[np.ndarray]], begin: Callable[[Wave], object]) -> None:
        self._kept, self._begin = kept, begin

    def on_reset(self, wave: Wave) -> None:
        self._begin(wave)
        self.on_step(wave)

    def on_step(self, wave: Wave) -> None:
        for name, value in hidden_of(wave.env).items():
            self._kept.setdefault(name, []).append(value.reshape(len(value), -1).copy())


@dataclass
class Player:
    """Plays the same episodes again and again, one wave of them, so that segments are the same steps for all.

    acting: arguments of `StreamingPolicy`. max_steps: where longer episodes are cut.
    """

    model: SequenceModel
    context_length: int
    env: VectorEnv
    seeds: Sequence[int]
    acting: dict[str, Any] = field(default_factory=dict)
    max_steps: int | None = None

    def __call__(
        self,
        change: Change = lambda number, memory: memory,
        begin: Callable[[Wave], object] = lambda wave: None,
        attention: bool = False,
        observers: Sequence[Observer] = (),
    ) -> Recording:
        """The episodes, recorded.

        change: gives the memory of each segment, see `Looking`. begin: called when the first observations are there.
        attention: whether weights are kept, of a model that has layers of ELMUR. observers: look on beside.
        """
        found, latest = Recording([], self.context_length), dict[int, np.ndarray]()

        def predicted(prediction: Tensor) -> None:
            found.predictions.append(prediction.detach().float().cpu().numpy())
            for layer, weights in latest.items():
                found.read.setdefault(layer, []).append(weights)

        looking = Looking(
            self.model,
            change,
            on_open=lambda memory: found.memories.append(map_state(lambda part: part.detach().cpu().clone(), memory)),
            on_step=predicted,
        )
        policy = StreamingPolicy(looking, self.context_length, **self.acting)

        def tell(what: str, layer: int, weights: Tensor) -> None:
            if what == "read":  # also of the last action, when a segment is closed, which is no step
                latest[layer] = weights[:, :, -1].float().cpu().numpy()
                return
            found.write.setdefault(layer, []).append(weights.mean(1).float().cpu().numpy())
            found.index.setdefault(layer, []).append(written_slots(self.model, layer, found.memories[-1]))

        watching = watched(self.model, tell) if attention else nullcontext()
        looking_on = [_Hidden(found.hidden, begin), Recorder(), *observers]
        with threads(1), watching:
            found.episodes = rollout(self.env, policy, self.seeds, max_steps=self.max_steps, observers=looking_on)
        return found


def written_slots(model: SequenceModel, layer: int, memory: Any) -> np.ndarray:
    """The slots `[N, W]` to which a layer's candidates belong, in their order."""
    assert isinstance(model, ELMUR)
    layers = [module for module in model.modules() if isinstance(module, ELMURLayer)]
    bank, rule = model.bank_per_layer(memory)[layer], layers[layer].write_rule
    assert bank is not None and rule is not None
    lanes, size = bank.written_at.shape
    now = bank.written_at.max().expand(lanes, 1) + 1
    steps = now.expand(lanes, rule.slots_per_write)
    for _ in range(layer if model.design and model.design.shared else 0):  # the layers before wrote to the same bank
        plan = rule.plan(bank, steps, now[:, 0])
        bank = rule.commit(bank, bank.slots if plan.index is None else rows(bank.slots, plan.index), plan)
    index = rule.plan(bank, steps, now[:, 0]).index
    return (torch.arange(size).expand(lanes, size) if index is None else index).numpy()
