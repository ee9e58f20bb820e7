"""Speed on a GPU: training with and without CUDA graphs, beside its bare matrix products; acting beside the CPU's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import product as every
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.benchmark.recomputing import filled
from callbacks.benchmark.run import (
    CLIP,
    CONTEXT,
    LANES,
    Rows,
    made_up,
    paper_model,
    segment_of_acting,
    training_step,
    wrapped,
)
from callbacks.benchmark.timing import Work, take_turns, threads
from callbacks.evaluation.device import operations
from elmur.batch import SegmentBatch
from elmur.gpu import OnGpu
from elmur.memory import LRU
from elmur.model import ELMUR, MemoryDesign
from elmur.module import SequenceModule
from elmur.moe import MixtureOfExperts
from elmur.policy import StreamingPolicy
from elmur.sequence_model import SequenceModel
from elmur.spec import Image, TaskSpec, Vector

GPU, CPU = torch.device("cuda"), torch.device("cpu")
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TARGETS = {"share": 0.4, "policy steps/s": 1e6}  # of bfloat16 training; of 4096 environments
SECONDS, REPEATS = 1.0, 5
# The published model of RememberColor (experiment=mikasa_published), its window of three segments, and its images.
ROBOT = TaskSpec(
    "RememberColor3-v0",
    {camera: Image(3, 128, 128) for camera in ("base_camera", "hand_camera")},
    Vector(8, (-1.0,) * 8, (1.0,) * 8),
    60,
)
ROBOT_LANES, ROBOT_CONTEXT, ROBOT_SEGMENTS = 64, 20, 3


def tables(module: SequenceModule, data: Any) -> dict[str, Callable[[], Rows]]:
    """What there is to measure, by the name of its table; nothing without a GPU. The model must be built by then."""
    if not torch.cuda.is_available():
        return {}
    return {
        f"matrix products on {torch.cuda.get_device_name()}": measure_products,
        "training on it": lambda: measure_training(cases(module, data)),
        "acting on it": lambda: measure_acting(players(module)),
    }


def measure_products(size: int = 8192, device: torch.device = GPU) -> Rows:
    """The rate of a large product, of float32 numbers as they are and as TF32, and of bfloat16."""
    rows = []
    for name, precision in (("float32", "highest"), ("float32", "high"), ("bfloat16", "high")):
        with precision_of(precision):
            left, right = (torch.randn(size, size, dtype=TYPES[name], device=device) for _ in range(2))
            seconds = timed({"product": partial(torch.mm, left, right)}, device)["product"]
        kind = "TF32" if (name, precision) == ("float32", "high") else name
        rows.append({"product": f"{size}^3", "type": kind, "TFLOP/s": 2 * size**3 / seconds / 1e12})
    return rows


@dataclass
class Case:
    """A model that is trained on a window."""

    name: str
    module: SequenceModule
    batch: SegmentBatch


def robot_model() -> ELMUR:
    """The published model of RememberColor, 9.0 million parameters."""
    memory = MemoryDesign(memory_size=256, memory_init_std=0.1, memory_dropout=0.055, write=LRU(0.407))
    experts = partial(MixtureOfExperts, num_experts=16, routed_d_ff=128, shared_d_ff=128, load_balancing_loss_coef=0.1)
    return ELMUR(ROBOT, 128, 4, 16, dropout=0.127, dropatt=0.296, feedforward=experts, memory=memory)


def cases(module: SequenceModule, data: Any) -> list[Case]:
    """Published T-Maze and MIKASA sizes, and the recipe of the configuration."""
    window = filled(ROBOT, ROBOT_LANES, ROBOT_CONTEXT * ROBOT_SEGMENTS)
    images = {name: torch.randint_like(part, 256) for name, part in window.observation.items()}
    seen = replace(window, observation=images, is_last=torch.zeros_like(window.is_last))
    robot = SequenceModule(lambda spec: robot_model(), ROBOT_CONTEXT)
    robot.build_model(ROBOT)
    return [
        Case("published T-Maze", wrapped(paper_model()), made_up(LANES, CONTEXT)),
        Case("published RememberColor", robot, seen),
        Case("recipe", module, next(iter(data.train_dataloader()))),
    ]


def measure_training(cases: list[Case], device: torch.device = GPU, seconds: float = SECONDS) -> Rows:
    """An update of each case in float32 (TF32) and bfloat16, eager and captured, and its products alone."""
    rows: Rows = []
    for case in cases:
        home, carry, chosen = next(case.module.parameters()).device, case.module._carry, case.module.gpu
        batch, case.module._carry = case.batch.to(device), {}
        case.module.to(device)
        for (name, kind), captured in every(TYPES.items(), (False, True) if device == GPU else (False,)):
            case.module.gpu, case.module._carry = OnGpu(capture="always" if captured else "never"), {}
            step = under(training_step(case.module, batch, CLIP), device, kind)
            if not captured:
                bare, flop = bare_products(case.module, step, kind, device)
                alone = timed({"bare": bare}, device, seconds)["bare"]
            spent = timed({"step": step}, device, seconds, REPEATS)["step"]
            rows.append({
                "training": case.name, "type": name, "captured": captured, "ms an update": spent * 1e3,
                "TFLOP/s": flop / spent / 1e12, "products alone, ms": alone * 1e3, "share of their rate": alone / spent,
                "required": TARGETS["share"] if kind is torch.bfloat16 and case.name != "recipe" else "",
            })  # fmt: skip
        case.module.to(home)
        case.module.gpu, case.module._carry = chosen, carry
    return rows


def under(step: Work, device: torch.device, kind: torch.dtype) -> Work:
    """The step as `trainer.precision` has it: 32-true with TF32, or bf16-mixed."""

    def run() -> None:
        mixed = torch.autocast(device.type, kind) if kind is torch.bfloat16 else nullcontext()
        with precision_of("high" if device == GPU else "highest"), mixed:
            step()

    return run


def bare_products(module: nn.Module, step: Work, kind: torch.dtype, device: torch.device) -> tuple[Work, float]:
    """Forward and backward of the linear maps and convolutions that a step goes through, and nothing else.

    On a GPU as one CUDA graph; and their floating point operations.
    """
    met: list[tuple[Callable[..., Tensor], Tensor, Tensor]] = []
    operations = 0.0

    def note(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal operations
        assert isinstance(part, nn.Linear | nn.Conv2d)
        x = torch.randn_like(inputs[0], dtype=kind).requires_grad_(inputs[0].requires_grad)
        weight = torch.randn_like(part.weight, dtype=kind).requires_grad_(output.requires_grad)
        passes = 1 + (2 if x.requires_grad else 1) * output.requires_grad
        operations += 2.0 * output.numel() * part.weight[0].numel() * passes
        met.append((F.linear if isinstance(part, nn.Linear) else partial(F.conv2d, stride=part.stride), x, weight))

    hooks = [m.register_forward_hook(note) for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    step()
    for hook in hooks:
        hook.remove()

    def replay() -> None:
        for function, x, weight in met:
            y = function(x, weight)
            if wanted := [part for part in (x, weight) if part.requires_grad]:
                torch.autograd.grad(y, wanted, y)

    if device != GPU:
        return replay, operations
    with precision_of("high"):
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            replay()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replay()

    def replayed() -> int:
        graph.replay()
        return len(met)  # they must live as long as the graph, which reads them

    return replayed, operations


Players = Mapping[str, tuple[SequenceModel, int, tuple[int, ...]]]


def players(module: SequenceModule) -> Players:
    """Models that act: each with its context length and numbers of environments."""
    many = (20, 100, 4096)
    return {
        "published T-Maze": (paper_model(), CONTEXT, many),
        "recipe": (module.model, module.context_length, many),
        "published RememberColor": (robot_model(), ROBOT_CONTEXT, many[:1]),
    }


def measure_acting(players: Players, device: torch.device = GPU, seconds: float = SECONDS) -> Rows:
    """Steps of a policy, numpy in and out, on a GPU and on one core; the latter only where it may be faster."""
    rows: Rows = []
    for name, (model, length, numbers) in players.items():
        for num_envs, place in every(numbers, (device, CPU) if device != CPU else (CPU,)):
            if place == CPU and num_envs > 100:
                continue
            policy = StreamingPolicy(model.to(place), length)
            with threads(1):
                work = segment_of_acting(policy, model.spec, num_envs, length)
                step = timed({"act": work}, place, seconds, least=3)["act"] / length
            rows.append({
                "acting": name, "envs": num_envs, "on": place.type,
                "MFLOP a step": operations(model, length) * num_envs / 1e6,
                "ms a step": step * 1e3, "policy steps/s": num_envs / step,
                "required": TARGETS["policy steps/s"] if num_envs == 4096 else "",
            })  # fmt: skip
        model.to(CPU)
    return rows


def timed(
    works: Mapping[str, Work], device: torch.device, seconds: float = SECONDS, repeats: int = 1, least: int = 5
) -> dict[str, float]:
    """Median seconds of one call of each, by the clock, the device having done all of it."""

    def done(work: Work) -> None:
        for _ in range(repeats):
            work()
        if device == GPU:
            torch.cuda.synchronize()

    taken = take_turns({name: partial(done, work) for name, work in works.items()}, seconds, least)
    return {name: value / repeats for name, value in taken.items()}


@contextmanager
def precision_of(name: str) -> Iterator[None]:
    """Products of float32 numbers in this precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
