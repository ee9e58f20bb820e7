"""What acting costs: milliseconds of a step and bytes that are kept for one episode, after a history of any length."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from callbacks.evaluation.device import threads
from elmur.batch import SegmentBatch
from elmur.policy import StreamingPolicy
from elmur.sequence_model import SequenceModel
from elmur.state import bytes_of, tensors_of

TIMED = 60  # steps at least that a figure is the mean of, where the history has so many


@dataclass(frozen=True)
class ActingCost:
    """After `history` steps: `ms` of a step of all environments together, and `state_bytes` of each of them.

    The milliseconds are of processor time, which other work on the machine leaves as they are. The bytes are those of
    all that the next action depends on (a snapshot of the policy), the most of the steps timed.
    """

    history: int
    ms: float
    state_bytes: int


def cost_of_acting(
    model: SequenceModel, context_length: int, num_envs: int = 1, histories: Sequence[int] = (TIMED,)
) -> Iterator[ActingCost]:
    """The cost at each length of history, all of one long episode, numpy in and out, on one thread.

    histories: numbers of steps, rising. Timed are the last steps on the way there, whole segments of them where the
    history has so many: the writing of memory has its share.
    """
    policy = StreamingPolicy(model.eval(), context_length)
    policy.start(num_envs)
    blank = SegmentBatch.zeros(model.spec, num_envs, 1)
    observation = {name: part[:, 0].numpy() for name, part in blank.observation.items()}
    reward, timed, done = np.zeros(num_envs, np.float32), -(-TIMED // context_length) * context_length, 0
    with threads(1):
        for history in histories:
            last, took, held = min(timed, history - done), 0.0, 0
            while done < history:
                begin = time.process_time()
                policy.observe(policy.act(observation, np.full(num_envs, done == 0)), reward)
                done += 1
                if history - done < last:
                    took += time.process_time() - begin
                    held = max(held, bytes_of(tensors_of(policy.snapshot())) // num_envs)
            yield ActingCost(history, 1e3 * took / last, held)
