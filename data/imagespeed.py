"""How fast segments of pictures are read: the chunks and the compression of a shard against others, on one core."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import torch

from data.dataset import WindowDataset
from data.index import build_index
from data.shard import IMAGE_ROWS, Array, write_shard
from elmur.spec import Image, TaskSpec, Vector

SEGMENT, EPISODE, EPISODES = 20, 60, 12  # steps, steps and how many, as in RememberColor's published configuration
LANES = 8  # windows in a batch of the data set
CAMERAS = 2
SPEC = TaskSpec("pictures", {f"camera{n}": Image(3, 128, 128) for n in range(CAMERAS)}, Vector(8), EPISODE)
REQUIRED = 2000  # steps a second
COMPRESSIONS: dict[str, Mapping[str, Any]] = {
    "none": {},
    "Zstd 1": hdf5plugin.Zstd(clevel=1),
    "Zstd 3": hdf5plugin.Zstd(clevel=3),
    "Zstd 9": hdf5plugin.Zstd(clevel=9),
    "LZ4": hdf5plugin.LZ4(),
    "gzip 4": {"compression": "gzip", "compression_opts": 4},
}
COMPARED = [
    *[(rows, "Zstd 3") for rows in (1, 4, 16, 64)],
    *[(IMAGE_ROWS, name) for name in COMPRESSIONS if name != "Zstd 3"],
]


@dataclass
class _Episode:
    """An episode with pictures and nothing else to tell."""

    observation: dict[str, Array]
    action: Array = field(default_factory=lambda: np.zeros((EPISODE, 8), np.float32))
    reward: Array = field(default_factory=lambda: np.zeros(EPISODE, np.float32))
    loss_mask: Array = field(default_factory=lambda: np.ones(EPISODE, np.bool_))
    terminated: bool = False
    truncated: bool = True


def measure_images(seconds: float = 1.5) -> list[dict[str, Any]]:
    """A row for each way to store 128 x 128 x 6 bytes a step, and one for the batches of a data set of our shards.

    Segments of SEGMENT steps are read one after another, episodes in random order, from files that the system has in
    its memory; a disk can be slower. Rates are per second of one core's time, so that others' work does not count.
    `seconds`: of each reading.
    """
    pictures = [generated(np.random.default_rng(number), number) for number in range(CAMERAS)]
    rows = []
    folder = Path(tempfile.mkdtemp(prefix="elmur-"))
    try:
        for chunk, compression in COMPARED:
            begin = time.process_time()
            with h5py.File(folder / "compared", "w", libver="latest") as file:
                for number, camera in enumerate(pictures):
                    file.create_dataset(
                        f"camera{number}", data=camera, chunks=(chunk, 3, 128, 128), fletcher32=True,
                        **COMPRESSIONS[compression],
                    )  # fmt: skip
            spent = time.process_time() - begin
            stored = (folder / "compared").stat().st_size
            with h5py.File(folder / "compared", "r") as file:
                rate = _segments(file, seconds)
            name = f"{chunk} x {compression}" + " (a shard's)" * (chunk == IMAGE_ROWS and compression == "Zstd 3")
            rows.append(_row(name, rate, stored, pictures, len(pictures[0]) / spent))
        rows.append(_batches(folder, pictures, seconds))
    finally:
        shutil.rmtree(folder)
    return rows


def generated(rng: np.random.Generator, number: int) -> Array:
    """Pictures of one camera for all episodes, uint8 [steps, 3, 128, 128], that shrink about as rendered ones do.

    A smooth background, rectangles of one colour that move, and in every other camera the grain of a surface that is
    near: it moves with the camera, so that no step repeats another.
    """
    y, x = np.mgrid[:128, :128]
    frames = np.empty((EPISODES * EPISODE, 3, 128, 128), np.uint8)
    grain = rng.integers(0, 16, (3, 256, 256), np.uint8) if number % 2 else np.zeros((3, 256, 256), np.uint8)
    base = np.stack([60 + y // 2, 90 + x // 4, 120 - y // 4]).astype(np.uint8)
    for step in range(len(frames)):
        if step % EPISODE == 0:
            places, ways = rng.integers(0, 96, (6, 2)), rng.integers(-2, 3, (6, 2))
            colours = rng.integers(0, 256, (6, 3), np.uint8)
        shift = int(rng.integers(128))
        frames[step] = base + grain[:, shift : shift + 128, step % EPISODE : step % EPISODE + 128]
        for (row, column), colour in zip((places + ways * (step % EPISODE)) % 104, colours, strict=True):
            frames[step, :, row : row + 24, column : column + 24] = colour[:, None, None]
    return frames


def _segments(file: Any, seconds: float) -> float:
    """Steps a second of both cameras."""
    rng, steps, buffer = np.random.default_rng(0), 0, np.empty((CAMERAS, SEGMENT, 3, 128, 128), np.uint8)
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        for episode in rng.permutation(EPISODES).tolist():
            for first in range(episode * EPISODE, (episode + 1) * EPISODE, SEGMENT):
                for number in range(CAMERAS):
                    file[f"camera{number}"].read_direct(buffer[number], np.s_[first : first + SEGMENT])
                steps += SEGMENT
    return steps / (time.process_time() - begin)


def _batches(folder: Path, pictures: list[Array], seconds: float) -> dict[str, Any]:
    """Batches of segments from shards as they are written and read everywhere here."""

    def episode(number: int) -> _Episode:
        rows = np.s_[number * EPISODE : (number + 1) * EPISODE]
        return _Episode({f"camera{n}": camera[rows] for n, camera in enumerate(pictures)})

    root = folder / "shards"
    begin = time.process_time()
    write_shard(root / "shard-00000.h5", SPEC, [episode(number) for number in range(EPISODES)], {})
    spent = time.process_time() - begin
    dataset, rng, steps = WindowDataset(build_index(root), SEGMENT), np.random.default_rng(0), 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        lanes = rng.permutation(EPISODES)[:LANES]
        for first in range(0, EPISODE, SEGMENT):
            steps += int(dataset[np.stack([lanes, np.full(LANES, first)], axis=1)].mask.sum())
    rate = steps / (time.process_time() - begin)
    torch.set_num_threads(threads)
    stored = sum(path.stat().st_size for path in root.iterdir())
    return _row("batches of a shard", rate, stored, pictures, EPISODES * EPISODE / spent, REQUIRED)


def _row(
    name: str, rate: float, stored: int, pictures: list[Array], written: float, required: int | str = ""
) -> dict[str, Any]:
    share = stored / sum(camera.nbytes for camera in pictures)
    return {
        "steps in a chunk x compression": name, "read, steps/s of a core": rate, "written": written,
        "of the pixels": f"{share:.2f}", "required": required,
    }  # fmt: skip
