"""What bfloat16 and int8 do to an exported step: `python -m docs.measure_export RUN [RUN ...]`, on one thread.

Of the best checkpoint of each run folder: bytes of the file, milliseconds of a step, and how its answers differ from
the policy's in 1,000 steps of its task, each program with the memory that it has written itself. int8:
`onnxruntime.quantization.quantize_dynamic`. bfloat16: the program of `torch.export`, traced under autocast and run as
it was traced: torch 2.13 does not read such a file back ("Node.meta wrap_with_autocast_1 is missing val field").
"""

from __future__ import annotations

import json
import logging
import sys
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from callbacks.benchmark.timing import median_seconds
from callbacks.command.registry import PLATFORM
from callbacks.evaluation.device import threads
from callbacks.export.programs import Acting, Arrays, Program, Recording, inputs_at, onnx_program, record, torch_program
from callbacks.report.sheets import Sheet
from elmur.build import build
from elmur.checkpoint import checkpoint_in, load_policy
from elmur.export.program import PREDICTION, StepProgram
from elmur.export.trace import example_of, program_of, signature_of, traced, write_onnx, write_torch
from elmur.policy import episode_seeds, first_state

STEPS, FIRST_SEED = 1000, 500_000


class Autocast(nn.Module):
    """A step whose products of matrices are made in bfloat16; what goes in and comes out is as it was."""

    def __init__(self, program: StepProgram) -> None:
        super().__init__()
        self.program = program

    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            made: dict[str, Tensor] = self.program(given)
        return {name: part.float() if part.dtype is torch.bfloat16 else part for name, part in made.items()}


def measure(run: Path) -> list[dict[str, str]]:
    """A line of the table for each kind of program."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    env: Any = build(json.loads((run / "settings.json").read_text())["env"], "env", "env", PLATFORM)
    policy = load_policy(checkpoint_in(run))
    recording = record(policy, env["make"], env["variants"], STEPS, range(FIRST_SEED, FIRST_SEED + STEPS)).lanes(1)
    program = program_of(policy.model, policy.context_length, first_state(policy.model, episode_seeds(0, [0])[0]))
    signature, lines = signature_of(program), []
    with TemporaryDirectory() as folder:
        exact, small, torch_exact = (Path(folder, name) for name in ("step.onnx", "int8.onnx", "step.pt2"))
        write_onnx(traced(program, 1), program, exact)
        quantize_dynamic(exact, small, weight_type=QuantType.QInt8)
        write_torch(traced(program, 1), torch_exact)
        found: dict[str, tuple[Program, str]] = {
            path.name: (run_by(path), f"{path.stat().st_size / 1e6:.2f}")
            for path, run_by in ((exact, onnx_program), (small, onnx_program), (torch_exact, torch_program))
        }
        found["bfloat16"] = in_bfloat16(program), ""
        for name, (made, size) in found.items():
            lines.append(
                {"program": name, "MB": size, "ms a step": f"{latency(Acting(made, signature, 1), recording):.3f}"}
            )
            lines[-1] |= differences(Acting(made, signature, 1), recording)
    return lines


def in_bfloat16(program: StepProgram) -> Program:
    """The step traced under autocast."""
    with torch.no_grad():
        module = torch.export.export(Autocast(program), (example_of(program, 1),), strict=False).module()

    def run(given: Arrays) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            made = module({name: torch.from_numpy(np.ascontiguousarray(given[name])) for name in program.names})
        return {name: part.numpy() for name, part in made.items()}

    return run


def latency(acting: Acting, recording: Recording) -> float:
    """Milliseconds of a step, the median."""
    steps = len(recording.is_first)
    turns = cycle([inputs_at(recording, step) for step in range(steps)])
    return 1000 * median_seconds(lambda: acting.step(next(turns)), steps, steps // 10)


def differences(acting: Acting, recording: Recording) -> dict[str, str]:
    """How many actions are others, and how far predictions are from the policy's: the mean, and the farthest."""
    apart, others = [], 0
    for step in range(len(recording.is_first)):
        made = acting.step(inputs_at(recording, step))
        apart.append(np.abs(made[PREDICTION] - recording.prediction[step]).max())
        others += int((made["action"] != recording.action[step]).any())
    counted = f"{others} of {len(recording.is_first)}"
    return {"other actions": counted, "logits differ by": f"{np.mean(apart):.1e}, at most {np.max(apart):.1e}"}


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.ERROR)
    with threads(1):
        table = [line for run in sys.argv[1:] for line in measure(Path(run))]
    Sheet("programs in bfloat16 and int8, one environment, one thread", table).show(Console(width=140))
