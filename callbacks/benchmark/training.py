"""Speed of training and of its data: updates beside their bare matrix products, batches beside updates."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import product as every
from typing import Any

import torch

from callbacks.benchmark.timing import CPU, GPU, SECONDS, Rows, Work, bare_products, precision_of, take_turns
from callbacks.evaluation.device import threads
from elmur.batch import SegmentBatch
from elmur.gpu import OnGpu
from elmur.memory import LRU
from elmur.model import ELMUR, MemoryDesign
from elmur.module import SequenceModule
from elmur.moe import MixtureOfExperts
from elmur.optim import adamw
from elmur.sequence_model import SequenceModel
from elmur.spec import Discrete, Image, TaskSpec, Vector

# Two published configurations: T-Maze (experiment=tmaze_published), and RememberColor (experiment=mikasa_published)
# with its window of three segments and its images.
MAZE = TaskSpec("tmaze", {"state": Vector(4)}, Discrete((4,)), 30)
MAZE_LANES, MAZE_CONTEXT = 128, 10
CAMERAS = {camera: Image(3, 128, 128) for camera in ("base_camera", "hand_camera")}
ROBOT = TaskSpec("RememberColor3-v0", CAMERAS, Vector(8, (-1.0,) * 8, (1.0,) * 8), 60)
ROBOT_LANES, ROBOT_CONTEXT, ROBOT_SEGMENTS = 64, 20, 3
CLIP, GPU_REPEATS = 5.0, 5
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def maze_model() -> ELMUR:
    """The published model of T-Maze."""
    memory = MemoryDesign(memory_size=2, memory_dropout=0.01, write=LRU(0.79))
    sizes = {"num_experts": 2, "top_k": 3, "n_shared_experts": 2, "routed_d_ff": 32, "shared_d_ff": 512}
    experts = partial(MixtureOfExperts, **sizes, load_balancing_loss_coef=0.1)
    return ELMUR(MAZE, 128, 2, 2, dropout=0.1, dropatt=0.17, feedforward=experts, memory=memory)


def robot_model() -> ELMUR:
    """The published model of RememberColor, 9.0 million parameters."""
    memory = MemoryDesign(memory_size=256, memory_init_std=0.1, memory_dropout=0.055, write=LRU(0.407))
    experts = partial(MixtureOfExperts, num_experts=16, routed_d_ff=128, shared_d_ff=128, load_balancing_loss_coef=0.1)
    return ELMUR(ROBOT, 128, 4, 16, dropout=0.127, dropatt=0.296, feedforward=experts, memory=memory)


@dataclass
class Case:
    """A model that is trained on a window."""

    name: str
    module: SequenceModule
    batch: SegmentBatch


def cases(module: SequenceModule, data: Any, device: torch.device) -> list[Case]:
    """The published sizes, those with images on a GPU alone, and the recipe of the configuration."""
    found = [Case("published T-Maze", wrapped(maze_model()), made_up(MAZE_LANES, MAZE_CONTEXT))]
    if device == GPU:
        window = SegmentBatch.zeros(ROBOT, ROBOT_LANES, ROBOT_CONTEXT * ROBOT_SEGMENTS)
        images = {name: torch.randint_like(part, 256) for name, part in window.observation.items()}
        window = replace(window, observation=images)
        found.append(Case("published RememberColor", wrapped(robot_model(), ROBOT_CONTEXT), window))
    return [*found, Case("recipe", module, next(iter(data.train_dataloader())))]


def wrapped(model: SequenceModel, context_length: int = MAZE_CONTEXT) -> SequenceModule:
    """A learner of this model."""
    module = SequenceModule(lambda spec: model, context_length, label_smoothing=0.16)
    module.build_model(model.spec)
    return module


def made_up(lanes: int, steps: int) -> SegmentBatch:
    """A window of random observations in the midst of an episode: its memory is written, since more will follow."""
    observation, action = {"state": torch.randn(lanes, steps, 4)}, torch.randint(4, (lanes, steps))
    return SegmentBatch.of(observation, action, begins=False, ends=False)


def training_step(module: SequenceModule, batch: SegmentBatch) -> Work:
    """Forward, backward, clipping and fused AdamW on one window, again and again."""
    module.train()
    optimizer, noise = adamw(module.model, lr=1e-4), torch.Generator().manual_seed(0)

    def step() -> None:
        window = module.run_window(batch, "train", noise)
        loss = window.loss / window.counted
        optimizer.zero_grad()
        (loss if window.balance is None else loss + window.balance).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()

    return step


def measure_training(cases: list[Case], device: torch.device, seconds: float = SECONDS) -> Rows:
    """An update of each case beside its products alone: `share` is the part of the update that they would take.

    In float32 (on a GPU TF32) and bfloat16: on the CPU with one and two threads, on a GPU eager and as a CUDA graph.
    """
    rows: Rows = []
    numbers, captures, times = ((1, 2), (False,), 1) if device == CPU else ((1,), (False, True), GPU_REPEATS)
    for case in cases:
        home, carry, chosen = next(case.module.parameters()).device, case.module._carry, case.module.gpu
        batch = case.batch.to(device)
        case.module.to(device)
        for number, name, captured in every(numbers, TYPES, captures):
            case.module.gpu, case.module._carry = OnGpu(capture="always" if captured else "never"), {}
            step = partial(under, training_step(case.module, batch), device, TYPES[name])
            with threads(number):
                if not captured:
                    bare, flop = bare_products(case.module, step, TYPES[name], device)
                spent = take_turns({"bare": bare, "step": partial(step, times)}, seconds)
            update = spent["step"] / times
            rows.append({
                "training": case.name, "type": name, "threads": number, "captured": captured,
                "ms an update": update * 1e3, "GFLOP/s": flop / update / 1e9,
                "products alone, ms": spent["bare"] * 1e3, "share": spent["bare"] / update,
            })  # fmt: skip
        case.module.to(home)
        case.module.gpu, case.module._carry = chosen, carry
    return rows


def under(step: Work, device: torch.device, kind: torch.dtype, times: int = 1) -> None:
    """So many steps as `trainer.precision` has them: 32-true with TF32, or bf16-mixed."""
    for _ in range(times):
        mixed = torch.autocast(device.type, kind) if kind is torch.bfloat16 else nullcontext()
        with precision_of("high" if device == GPU else "highest"), mixed:
            step()


def measure_data(module: SequenceModule, data: Any, seconds: float = SECONDS) -> Rows:
    """Batches of the datamodule alone, over whole epochs, against training on them; on one thread."""
    loader = data.train_dataloader()
    with threads(1):
        step = training_step(module, next(iter(loader)))
        spent = take_turns({"epoch": lambda: sum(1 for _ in loader), "step": step}, seconds)
    fetched, trained = len(loader) / spent["epoch"], 1 / spent["step"]
    return [{"batches/s": fetched, "windows/s in training": trained, "times faster": fetched / trained}]
