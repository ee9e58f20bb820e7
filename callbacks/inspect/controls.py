"""The history told otherwise: whether memory and answers depend on the order and the pace of what was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from callbacks.inspect.interventions import relative, same_actions
from callbacks.inspect.recording import Recording
from elmur.banks import banks
from elmur.batch import SegmentBatch
from elmur.sequence_model import SequenceModel
from envs.rollout import Trajectory

ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "reversed": lambda steps: steps[::-1],
    "twice as slow": lambda steps: np.repeat(steps, 2),
    "twice as fast": lambda steps: steps[::2],
}


@dataclass(frozen=True)
class Control:
    """What a history that is told otherwise makes of memory, and of the answers in the segment that follows it.

    memory: distance of each bank from that of the true history, over its size. same: share of the last segment's steps
    whose action is the one that the true history gives.
    """

    history: str
    memory: dict[str, float]
    same: float
    episodes: int


def controls(model: SequenceModel, recording: Recording) -> list[Control]:
    """The history of each episode in other orders, then its own last segment; recorded actions are shown again.

    Of the episodes whose last segment is the commonest one. None where episodes are one segment, and none of a policy
    that generates its actions from noise, whose answers differ in any case.
    """
    if model.head.generative:
        return []
    length = recording.context_length
    kept = [episode.steps for episode in recording.episodes if episode.steps is not None]
    begins = [(len(steps.reward) - 1) // length * length for steps in kept]
    ((begin, _),) = Counter(begins).most_common(1)
    chosen = [steps for steps, at in zip(kept, begins, strict=True) if at == begin]
    if begin < length:
        return []
    end = min(len(steps.reward) for steps in chosen)
    last, found = (begin, end), []
    true_memory, true_answers = retold(model, chosen, np.arange(begin), last, length)
    for name, order in ORDERS.items():
        memory, answers = retold(model, chosen, order(np.arange(begin)), last, length)
        apart = {bank: relative(true_memory[bank], held) for bank, held in memory.items()}
        found.append(Control(name, apart, float(same_actions(answers, true_answers).mean()), len(chosen)))
    return found


@torch.no_grad()
def retold(
    model: SequenceModel, episodes: list[Trajectory], order: np.ndarray, last: tuple[int, int], length: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The banks `[N, M, D]` after a history of the steps `order`, and the actions `[T, N]` of the steps `last` then.

    The last segment of the history is filled up by its last step.
    """
    memory = model.initial_memory(len(episodes), torch.Generator().manual_seed(0))
    start, order = 0, np.concatenate([order, np.repeat(order[-1:], -len(order) % length)])
    for begin in range(0, len(order), length):
        steps = order[begin : begin + length]
        _, memory = model(shown(episodes, steps, start), memory)
        start += len(steps)
    held = {name: bank.slots.float().numpy().copy() for name, bank in banks(memory).items()}
    output, _ = model(shown(episodes, np.arange(*last), start), memory, write=False)
    answers = [model.head.act(output.prediction[:, step], None) for step in range(output.prediction.shape[1])]
    return held, torch.stack(answers).numpy()


def shown(episodes: list[Trajectory], steps: np.ndarray, start: int) -> SegmentBatch:
    """A segment that shows these steps of every episode, the first of them as step `start`."""
    observation = {
        name: torch.from_numpy(np.stack([episode.observation[name][steps] for episode in episodes]))
        for name in episodes[0].observation
    }
    action = torch.from_numpy(np.stack([episode.action[steps] for episode in episodes]))
    batch = SegmentBatch.of(observation, action, begins=start == 0, ends=False)
    to_go = np.stack([np.cumsum(episode.reward[::-1])[::-1][steps] for episode in episodes])
    batch.return_to_go = torch.from_numpy(to_go.astype(np.float32))
    batch.start = batch.start + start
    return batch
