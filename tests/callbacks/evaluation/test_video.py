"""Filming: which frames are in the file, how episodes are laid out, and what cannot be filmed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from callbacks.errors import UsageError
from callbacks.evaluation import video
from callbacks.evaluation.video import VideoError, check_filmable, film, tiled
from elmur.spec import TaskSpec, Vector
from envs.family import EnvFamily
from envs.rollout import RandomPolicy
from envs.vector import SUCCESS, TimeStep

SPEC = TaskSpec("lamps", {"state": Vector(1)}, Vector(1, (-1.0,), (1.0,)), 5)


class Lamps:
    """Episodes of 5 steps; row i is grey of 40 * (i + 1), brighter by 10 at every step."""

    metrics = (SUCCESS,)
    made: list[int]

    def __init__(self, num_envs: int, breaks: bool = False) -> None:
        self.num_envs, self.spec, self.breaks = num_envs, SPEC, breaks
        self.rendered, self.closed = 0, False
        self.count = 0

    def reset(self, seeds: Sequence[int | None]) -> dict[str, np.ndarray]:
        self.seeds = list(seeds)
        return {"state": np.zeros((self.num_envs, 1), np.float32)}

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        self.count += 1
        none, every = np.zeros(self.num_envs, np.bool_), np.ones(self.num_envs, np.bool_)
        over = active & (self.count == 5)
        state = np.full((self.num_envs, 1), self.count, np.float32)
        return TimeStep({"state": state}, np.zeros(self.num_envs, np.float32), none, over, every, {SUCCESS: over})

    def render(self) -> np.ndarray:
        self.rendered += 1
        if self.breaks and self.rendered == 3:
            raise RuntimeError("the lamp is broken")
        shades = 40 * (np.arange(self.num_envs) + 1) + 10 * self.count
        return np.broadcast_to(shades[:, None, None, None], (self.num_envs, 8, 16, 3)).astype(np.uint8)

    def close(self) -> None:
        self.closed = True


def test_a_gif_has_a_frame_for_every_step_and_a_place_for_every_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "_has_ffmpeg", lambda: False)
    made: list[Lamps] = []

    def make(num_envs: int) -> Lamps:
        made.append(Lamps(num_envs))
        return made[-1]

    path = film(RandomPolicy(SPEC), make, {}, range(500_000, 500_003), tmp_path / "run")
    (env,) = made
    assert (env.seeds, env.rendered, env.closed) == ([500_000, 500_001, 500_002], 6, True)
    assert path == tmp_path / "run" / "video.gif" and [p.name for p in path.parent.iterdir()] == ["video.gif"]
    with Picture.open(path) as picture:
        assert (picture.n_frames, picture.size) == (6, (32 // 4, 16 // 4))  # type: ignore[attr-defined]
        for step in range(6):
            picture.seek(step)
            pixels = np.asarray(picture.convert("L")).astype(int)
            corners = [pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]]
            expected = [40 + 10 * step, 80 + 10 * step, 120 + 10 * step, 0]
            np.testing.assert_allclose(corners, expected, atol=3)


def test_frames_are_laid_out_row_by_row() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    picture = tiled(frames)
    assert picture.shape == (8, 18, 3)
    for number, frame in enumerate(frames):
        row, column = number // 3, number % 3
        assert (picture[4 * row : 4 * row + 4, 6 * column : 6 * column + 6] == frame).all()
    assert not picture[4:, 12:].any()
    assert (tiled(frames[:1]) == frames[0]).all()


def test_nothing_is_left_of_a_film_that_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_has_ffmpeg", lambda: False)
    with pytest.raises(RuntimeError, match="the lamp is broken"):
        film(RandomPolicy(SPEC), lambda num_envs: Lamps(num_envs, breaks=True), {}, range(2), tmp_path)
    assert not list(tmp_path.iterdir())


def family(name: str, render: Any) -> EnvFamily:
    return EnvFamily(name=name, id=name, dataset=name, make=Lamps, expert=RandomPolicy(SPEC), render=render)


def test_what_cannot_be_filmed_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"evaluation.video=4: env=tmaze cannot be rendered; leave it at 0"):
        check_filmable(family("tmaze", None), 4)
    check_filmable(family("tmaze", None), 0)
    check_filmable(family("lamps", Lamps), 4)

    class Dark(Lamps):
        render = None  # type: ignore[assignment]

    with pytest.raises(VideoError, match=r"lamps: its environments have no render\(\)"):
        film(RandomPolicy(SPEC), Dark, {}, range(1), tmp_path)
