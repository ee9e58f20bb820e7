"""Exported programs as functions of numpy arrays, compared with what the policy saw and did on a real task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from callbacks.evaluation.plan import MakeEnv, Variants
from elmur.export.program import ACTION, IS_FIRST, LAST_ACTION, MEMORY, NEXT, PREDICTION, RETURN_TO_GO
from elmur.export.trace import ExportError
from elmur.policy import StreamingPolicy
from envs.rollout import Observer, Wave, rollout

Arrays = Mapping[str, np.ndarray]
Program = Callable[[Arrays], dict[str, np.ndarray]]
TOLERANCE = 1e-4  # of a prediction, and of its own size where that is more than 1


@dataclass
class Recording:
    """T steps of one environment, one episode after another; the first axis of every array is the step.

    observation: part -> [T, ...]. is_first: [T]. action: int64 [T] or float32 [T, A], as the policy answered and as it
    was executed. return_to_go: float32 [T], what was still asked of it. prediction: float32 [T, A].
    """

    observation: dict[str, np.ndarray]
    is_first: np.ndarray
    action: np.ndarray
    return_to_go: np.ndarray
    prediction: np.ndarray

    def borders(self, context_length: int) -> int:
        """How often an episode went on behind the border of a segment."""
        begins = np.flatnonzero(self.is_first)
        within = np.arange(len(self.is_first)) - np.repeat(begins, np.diff([*begins, len(self.is_first)]))
        return int(((within > 0) & (within % context_length == 0)).sum())

    def lanes(self, count: int) -> Recording:
        """The same steps in so many lanes, `[T, N, ...]`: each begins with another episode, the first ones follow."""
        begins, steps = np.flatnonzero(self.is_first), len(self.is_first)
        order = np.stack([np.roll(np.arange(steps), -begins[lane % len(begins)]) for lane in range(count)], axis=1)
        return Recording(
            {name: part[order] for name, part in self.observation.items()},
            *(part[order] for part in (self.is_first, self.action, self.return_to_go, self.prediction)),
        )


class _Notes(Observer):
    """Every step of a policy. All its episodes draw by the same seed, as those of an export do."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_reset(self, wave: Wave) -> None:
        wave.policy.seed_episodes([0])  # type: ignore[attr-defined]
        self._wanted = np.float32(wave.policy.target_return)  # type: ignore[attr-defined]

    def on_step(self, wave: Wave) -> None:
        prediction = wave.policy.prediction[0].float().numpy().copy()  # type: ignore[attr-defined]
        self.steps.append({
            **{f"observation/{name}": np.asarray(part)[0].copy() for name, part in wave.observation.items()},
            "is_first": wave.count == 1, "action": wave.answer[0], "return_to_go": self._wanted,
            "prediction": prediction,
        })  # fmt: skip
        self._wanted = self._wanted - np.float32(wave.step.reward[0])


def record(
    policy: StreamingPolicy, make_env: MakeEnv, variants: Variants, steps: int, seeds: Sequence[int]
) -> Recording:
    """So many steps of a policy, as many in each variant, in episodes of these seeds."""
    notes, each = _Notes(), -(-steps // len(variants))
    for number, variant in enumerate(variants.values(), start=1):
        env, turns = make_env(num_envs=1, **variant), cycle(seeds)
        try:
            while left := max(0, min(number * each, steps) - len(notes.steps)):
                rollout(env, policy, [next(turns)], max_steps=left, observers=[notes])
        finally:
            env.close()
    whole = {name: np.stack([step[name] for step in notes.steps]) for name in notes.steps[0]}
    observation = {part: whole.pop(f"observation/{part}") for part in policy.model.spec.observation}
    return Recording(observation, **whole)


def onnx_program(path: Path) -> Program:
    """An ONNX file by onnxruntime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(None, dict(given)), strict=True))


def torch_program(path: Path) -> Program:
    """A program of torch.export that this command has just written: such a file of others is never loaded."""
    module = torch.export.load(path).module()

    def run(given: Arrays) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            made = module({name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in given.items()})
        return {name: part.numpy() for name, part in made.items()}

    return run


class Acting:
    """A program with its memory from one step to the next.

    signature: what stands in step.json. lanes: how many environments it acts for.
    """

    def __init__(self, program: Program, signature: Mapping[str, Any], lanes: int) -> None:
        self._program, self._inputs = program, {about["name"] for about in signature["inputs"]}
        self._memory = {
            about["name"]: np.zeros((lanes, *about["shape"]), about["dtype"])
            for about in signature["inputs"]
            if about["name"].startswith(MEMORY)
        }

    def step(self, given: Arrays) -> dict[str, np.ndarray]:
        """What the program gives for one step; of what is given it takes what it reads."""
        made = self._program({name: part for name, part in given.items() if name in self._inputs} | self._memory)
        self._memory = {name: made[f"{NEXT}{name}"] for name in self._memory}
        return made


def inputs_at(recording: Recording, step: int) -> dict[str, np.ndarray]:
    """All that a program may be given at one step of a recording in lanes."""
    return {
        **{name: part[step] for name, part in recording.observation.items()},
        IS_FIRST: recording.is_first[step],
        LAST_ACTION: recording.action[step - 1],  # before the first step it is not looked at
        RETURN_TO_GO: recording.return_to_go[step],
    }


def compare(name: str, acting: Acting, recording: Recording) -> float:
    """The largest difference of a prediction from the policy's, over all steps of a recording in lanes.

    Raises ExportError where an action is another one, or a prediction differs by more than TOLERANCE.
    """
    largest = 0.0
    for step in range(len(recording.is_first)):
        made, expected = acting.step(inputs_at(recording, step)), recording.prediction[step]
        apart = np.abs(made[PREDICTION] - expected) / np.maximum(1.0, np.abs(expected))
        largest = max(largest, float(apart.max()))
        action = recording.action[step]
        discrete = action.dtype.kind == "i"
        same = (made[ACTION] == action).all() if discrete else np.abs(made[ACTION] - action).max() <= TOLERANCE
        if not same or not largest <= TOLERANCE:
            what = f"predictions differ by {largest:.2g}, more than {TOLERANCE:g}" if same else "it acts otherwise"
            raise ExportError(
                f"{name} is not the policy: {what}, at step {step} of {len(recording.is_first)}; nothing was exported. "
                "A model's step must follow from its inputs alone; or leave this format out of export.formats"
            )
    return largest
