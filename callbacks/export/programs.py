"""Exported programs as functions of numpy arrays: run, compared with a recording of the policy, timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from callbacks.export.recording import Recording
from elmur.export.program import ACTION, IS_FIRST, LAST_ACTION, MEMORY, NEXT, PREDICTION, RETURN_TO_GO
from elmur.export.trace import ExportError

Arrays = Mapping[str, np.ndarray]
Program = Callable[[Arrays], dict[str, np.ndarray]]
TOLERANCE = 1e-4  # of a prediction, and of its own size where that is more than 1


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
