"""What a program is compared with, and that a program that is not the policy is found."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.export.export import ExportPlan, export
from callbacks.export.programs import Acting, Recording, compare, record
from elmur.export.program import StepProgram
from elmur.export.trace import ExportError, signature_of
from elmur.model import ELMUR
from elmur.policy import StreamingPolicy, episode_seeds, first_state
from elmur.testing import made
from envs.experts.tmaze import TMazeExpert
from envs.family import EnvFamily
from envs.tmaze import make_vector

VARIANTS = {"T=9": {"time_limit": 9}, "T=30": {"time_limit": 30}}
CONTEXT = 4


@pytest.fixture(scope="module")
def parts() -> tuple[StepProgram, Recording]:
    """The step of a small ELMUR, and 80 steps of it in corridors of two lengths."""
    env = make_vector(1, time_limit=9)
    model = made(partial(ELMUR, d_model=16, token_format="sra"), env.spec).eval()
    env.close()
    policy = StreamingPolicy(model, CONTEXT)
    program = StepProgram(model, CONTEXT, first_state(model, episode_seeds(0, [0])[0])).eval()
    return program, record(policy, make_vector, VARIANTS, 80, range(100, 120))


def run(program: StepProgram, given: Any) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        return {name: part.numpy() for name, part in program({n: torch.as_tensor(p) for n, p in given.items()}).items()}


def test_a_recording_is_of_every_variant_and_of_whole_episodes_one_after_another(
    parts: tuple[StepProgram, Recording],
) -> None:
    recording = parts[1]
    assert recording.is_first.shape == (80,) and recording.is_first[0]
    begins = np.flatnonzero(recording.is_first)
    # 40 steps of each; an untrained policy walks a corridor to its end, and the last episode of each is cut.
    assert list(begins) == [0, 9, 18, 27, 36, 40, 70]
    # Of an episode of 9 steps the segments of 4 end twice within it, of 30 seven times.
    assert recording.borders(CONTEXT) == 4 * 2 + 0 + 7 + 2
    lanes = recording.lanes(3)
    assert lanes.is_first.shape == (80, 3) and lanes.is_first[0].all()
    assert np.array_equal(lanes.prediction[:10, 1], recording.prediction[9:19])
    assert not np.array_equal(np.flatnonzero(lanes.is_first[:, 1]), begins)


@pytest.mark.parametrize("lanes", [1, 3])
def test_the_step_acts_as_the_recorded_policy(parts: tuple[StepProgram, Recording], lanes: int) -> None:
    program, recording = parts
    signature = signature_of(program)
    assert compare("step", Acting(partial(run, program), signature, lanes), recording.lanes(lanes)) < 1e-5


@pytest.mark.parametrize(("bias", "said"), [(1e-3, "predictions differ by 0.001"), (9.0, "it acts otherwise")])
def test_a_program_that_is_not_the_policy_is_refused(
    parts: tuple[StepProgram, Recording], bias: float, said: str
) -> None:
    program, recording = parts

    def off(given: Any) -> dict[str, np.ndarray]:
        found = run(program, given)
        found["prediction"] = found["prediction"] + bias * (np.arange(found["prediction"].shape[1]) == 0)
        return {**found, "action": found["prediction"].argmax(1)}

    with pytest.raises(
        ExportError,
        match=f"step.onnx is not the policy: {said}.* nothing was exported.* leave this format out of export.formats",
    ):
        compare("step.onnx", Acting(off, signature_of(program), 1), recording.lanes(1))


def test_a_folder_that_is_no_export_is_not_replaced(parts: tuple[StepProgram, Recording], tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "thesis.tex").write_text("mine")
    family = EnvFamily(name="tmaze", id="tmaze", dataset="tmaze", make=make_vector, expert=TMazeExpert())
    given: Any = (
        StreamingPolicy(parts[0].model, CONTEXT),
        {},
        family,
        ExportPlan(["onnx"]),
        range(3),
        tmp_path / "policy",
    )
    with pytest.raises(ExportError, match="policy: expected nothing, or an earlier export; found other files"):
        export(*given)
    assert (tmp_path / "policy" / "thesis.tex").read_text() == "mine"
