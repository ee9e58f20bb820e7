"""The unit costs in scale.md, measured on this machine by one core: `python -m docs.measure_scale [PART ...]`.

The parts are vectors, cameras, order, small and large; without one all of them are measured, in some minutes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from data.dataset import WindowDataset
from data.index import build_index
from data.sampler import LaneSampler
from data.shard import write_shard
from elmur.batch import SegmentBatch
from elmur.model import ELMUR
from elmur.optim import adamw
from elmur.spec import Discrete, Image, TaskSpec, Vector
from envs.rollout import Trajectory

WINDOW = 30  # steps: context_length 10, backprop_segments 3
SECONDS = 4.0
VECTORS = TaskSpec("vectors", {"state": Vector(16)}, Vector(4), 100)
CAMERAS = TaskSpec("cameras", {"base": Image(3, 128, 128), "hand": Image(3, 128, 128)}, Vector(8), 90)


def main(asked: list[str]) -> None:
    """The rows of the parts asked for, one after another."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[], object]] = {
            "vectors": lambda: vectors(Path(folder, "vectors"), np.random.default_rng(0)),
            "cameras": lambda: cameras(Path(folder, "cameras"), np.random.default_rng(0)),
            "order": lambda: order(np.random.default_rng(0)),
            "small": lambda: updates(Path(folder), "small", 64, 2, 2, 64),
            "large": lambda: updates(Path(folder), "large", 512, 8, 8, 16),
        }
        if unknown := set(asked) - set(parts):
            sys.exit(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
        for name, measure in parts.items():
            if not asked or name in asked:
                measure()


def say(what: str, value: float, unit: str) -> None:
    """One row."""
    sys.stdout.write(f"{what:58s} {value:12,.3g} {unit}\n")


def per_call(function: Callable[[], object]) -> float:
    """Seconds per call, over SECONDS after a first call that is not counted."""
    function()
    begin, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < SECONDS:
        function()
        calls += 1
    return spent / calls


def episodes(spec: TaskSpec, count: int, length: int, observe: Callable[[], dict[str, np.ndarray]]) -> list[Trajectory]:
    """Episodes of what `observe` gives, with empty actions."""
    size = spec.action.size if isinstance(spec.action, Vector) else 1
    return [
        Trajectory(
            observe(), np.zeros((length, size), np.float32), np.zeros(length, np.float32), True, False,
            np.ones(length, np.bool_),
        )
        for _ in range(count)
    ]  # fmt: skip


def reads(root: Path, spec: TaskSpec, length: int, cache_bytes: int) -> float:
    """Seconds for a random window of WINDOW steps, by one process."""
    index = build_index(root, verify=False)
    dataset, rng = WindowDataset(index, WINDOW, cache_bytes), np.random.default_rng(1)

    def batch() -> SegmentBatch:
        return dataset[np.stack([rng.integers(len(index), size=16), rng.integers(0, length - WINDOW, size=16)], 1)]

    return per_call(batch) / 16


def vectors(root: Path, rng: np.random.Generator) -> None:
    """Episodes of numbers."""
    count, length = 5000, 100
    steps = episodes(VECTORS, count, length, lambda: {"state": rng.normal(size=(length, 16)).astype(np.float32)})
    begin = time.perf_counter()
    write_shard(root / "shard-00000.h5", VECTORS, steps, {})
    spent, size = time.perf_counter() - begin, (root / "shard-00000.h5").stat().st_size
    say("vectors (16 + 4 numbers): on disk, a step", size / count / length, "bytes")
    say("vectors: written", size / spent / 1e6, "MB/s")
    begin = time.perf_counter()
    build_index(root, verify=False)
    say(f"vectors: index of {count} episodes", 1e3 * (time.perf_counter() - begin), "ms")
    begin = time.perf_counter()
    build_index(root, verify=True)
    say("vectors: every byte checked", size / (time.perf_counter() - begin) / 1e6, "MB/s")
    say(f"vectors: random windows of {WINDOW} steps, from the file", 1 / reads(root, VECTORS, length, 0), "a second")
    say("vectors: the same, kept in memory", 1 / reads(root, VECTORS, length, 1 << 30), "a second")


def cameras(root: Path, rng: np.random.Generator) -> None:
    """Half of a frame stands still and half is noise: it shrinks to half, less than rendered frames do."""
    count, length = 40, 90

    def observe() -> dict[str, np.ndarray]:
        frames = np.zeros((length, 3, 128, 128), np.uint8)
        frames[:, :, 64:] = rng.integers(0, 256, (length, 3, 64, 128), np.uint8)
        return {"base": frames, "hand": frames}

    steps = episodes(CAMERAS, count, length, observe)
    begin = time.perf_counter()
    write_shard(root / "shard-00000.h5", CAMERAS, steps, {})
    spent, size = time.perf_counter() - begin, (root / "shard-00000.h5").stat().st_size
    raw = count * length * 2 * 3 * 128 * 128
    say("two cameras 128 x 128: a step, as pixels", raw / count / length, "bytes")
    say("two cameras: on disk, a step", size / count / length, "bytes")
    say("two cameras: pixels written", raw / spent / 1e6, "MB/s")
    seconds = reads(root, CAMERAS, length, 0)
    say(f"two cameras: random windows of {WINDOW} steps", 1 / seconds, "a second")
    say("two cameras: pixels read", WINDOW * 2 * 3 * 128 * 128 / seconds / 1e6, "MB/s")


def order(rng: np.random.Generator) -> None:
    """The order of an epoch of ten million episodes, planned from their lengths."""
    lengths = rng.integers(60, 181, 10_000_000)
    begin = time.perf_counter()
    sampler = LaneSampler(lengths, 4096, WINDOW, seed=0)
    say("order of 10 million episodes: lanes dealt, once", time.perf_counter() - begin, "s")
    begin = time.perf_counter()
    found = sampler.plan(0)
    say("order of 10 million episodes: an epoch planned", time.perf_counter() - begin, "s")
    say("order of 10 million episodes: a plan", found.nbytes / 1e6, "MB")


def updates(folder: Path, name: str, width: int, layers: int, heads: int, lanes: int) -> None:
    """An update of a window and a checkpoint."""
    spec = TaskSpec("sample", {"state": Vector(16)}, Discrete((8,)), 100)
    model = ELMUR(spec, d_model=width, n_layer=layers, n_head=heads)
    optimizer = adamw(model, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    batch = SegmentBatch.of({"state": torch.randn(lanes, WINDOW, 16)}, torch.zeros(lanes, WINDOW, dtype=torch.int64))
    segments = list(batch.split(10))

    def update() -> None:
        memory, loss = model.initial_memory(lanes, torch.Generator()), torch.zeros(())
        for number, segment in enumerate(segments, start=1):
            out, memory = model(segment, memory, write=number < len(segments))
            loss = loss + model.head.loss(out.prediction, segment.action, segment.loss_mask, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    spent = per_call(update)
    label = f"{name} model ({model.num_parameters() / 1e6:.2f} M)"
    say(f"{label}: update of {lanes} windows of {WINDOW} steps", 1e3 * spent, "ms")
    say(f"{label}: steps trained on", lanes * WINDOW / spent, "a second")
    path, begin = folder / f"{name}.ckpt", time.perf_counter()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    say(f"{label}: checkpoint", path.stat().st_size / 1e6, "MB")
    say(f"{label}: checkpoint, time to write", 1e3 * (time.perf_counter() - begin), "ms")


if __name__ == "__main__":
    main(sys.argv[1:])
