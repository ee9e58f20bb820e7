"""A video of a few episodes, side by side: only these are rendered, frame by frame, as they are acted."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.errors import UsageError
from callbacks.evaluation.device import threads
from callbacks.evaluation.plan import MakeEnv
from elmur.files import atomic_open
from elmur.progress import shown
from envs.family import EnvFamily
from envs.observers import Telling
from envs.rollout import Observer, Policy, Wave, rollout
from envs.vector import Rendered

log = logging.getLogger(__name__)
FRAMES_PER_SECOND = 20
GIF_STEPS = 4  # shades are few there: every fourth pixel is enough, and the file stays small


class VideoError(RuntimeError):
    """Episodes that cannot be filmed, and why."""


def check_filmable(family: EnvFamily, episodes: int) -> None:
    """Raises UsageError where a video is asked for of a world that does not say how it is rendered."""
    if episodes and family.render is None:
        raise UsageError(f"evaluation.video={episodes}: env={family.name} cannot be rendered; leave it at 0")


class Camera(Observer):
    """Hands a frame of every moment, uint8 [N, h, w, 3], to `keep`."""

    def __init__(self, keep: Callable[[np.ndarray], object]) -> None:
        self._keep = keep

    def on_reset(self, wave: Wave) -> None:
        if not isinstance(wave.env, Rendered):
            raise VideoError(f"{wave.env.spec.name}: its environments have no render(), so there is nothing to film")
        self._keep(wave.env.render())

    on_step = on_reset


def film(policy: Policy, make_env: MakeEnv, variant: Mapping[str, Any], seeds: range, folder: Path) -> Path:
    """The video that was written into `folder`: the episodes of these seeds, as `evaluate` plays them.

    make_env: called for as many as there are seeds; gives environments that are `Rendered`. An mp4 where
    imageio and its ffmpeg are installed, else a gif at a quarter of the size.
    """
    env = make_env(num_envs=len(seeds), **variant)
    try:
        path = folder / ("video.mp4" if _has_ffmpeg() else "video.gif")
        with threads(1), shown("filming", env.spec.horizon, "steps") as bar, _file_of_frames(path) as add:
            camera = Camera(lambda frames: add(tiled(frames)))
            tell = Telling(lambda step, running: bar.update(step))
            played = rollout(env, policy, seeds, observers=[camera, tell])
    finally:
        env.close()
    told = ", ".join(f"{episode.seed} {'succeeded' if episode.success else 'failed'}" for episode in played)
    log.info("video: %s (row by row, the episodes of seeds %s)", path, told)
    return path


def tiled(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 [N, h, w, 3] as one picture, row by row, about as wide as high; empty places are black."""
    count, height, width, channels = frames.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    whole = np.zeros((rows * columns, height, width, channels), np.uint8)
    whole[:count] = frames
    grid = whole.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


@contextmanager
def _file_of_frames(path: Path) -> Iterator[Callable[[np.ndarray], object]]:
    """Takes frames, uint8 [h, w, 3] each; the file is there whole or not at all."""
    if path.suffix == ".mp4":
        import imageio.v2

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
        try:
            stream: Any = imageio.v2.get_writer(partial, fps=FRAMES_PER_SECOND, macro_block_size=2)
            with stream:
                yield stream.append_data
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return
    from PIL import Image

    pictures: list[Any] = []
    yield lambda picture: pictures.append(Image.fromarray(picture).reduce(GIF_STEPS).quantize(128))
    with atomic_open(path) as file:
        duration = 1000 // FRAMES_PER_SECOND
        pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)


def _has_ffmpeg() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("imageio", "imageio_ffmpeg"))
