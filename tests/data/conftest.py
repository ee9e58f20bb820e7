"""Small data sets for the tests of data/."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from elmur.spec import Discrete, Field, Image, TaskSpec, Vector


@pytest.fixture
def spec() -> TaskSpec:
    """A task with every kind of observation and bounded continuous actions."""
    parts: dict[str, Field] = {"state": Vector(3), "token": Discrete((5, 2)), "front": Image(3, 4, 6)}
    return TaskSpec("toy", parts, Vector(2, low=(-1.0, -1.0), high=(1.0, 1.0)), horizon=100)


@pytest.fixture
def plain_spec() -> TaskSpec:
    """A task like the T-Maze: one vector, one choice."""
    return TaskSpec("plain", {"state": Vector(2)}, Discrete((4,)))


@pytest.fixture
def episode() -> Callable[..., Any]:
    """make(spec, length, seed): one random episode that fits."""

    def make(spec: TaskSpec, length: int, seed: int = 0) -> Any:
        rng = np.random.default_rng(seed)
        observation = {}
        for name, field in spec.observation.items():
            if isinstance(field, Discrete):
                observation[name] = rng.integers(field.sizes, size=(length, len(field.sizes)))
            elif isinstance(field, Image):
                observation[name] = rng.integers(256, size=(length, *field.shape), dtype=np.uint8)
            else:
                observation[name] = rng.normal(size=(length, field.size)).astype(np.float32)
        if isinstance(spec.action, Discrete):
            action = rng.integers(spec.action.sizes[0], size=length)
        else:
            action = rng.uniform(-1, 1, size=(length, spec.action.size)).astype(np.float32)
        return SimpleNamespace(
            observation=observation,
            action=action,
            reward=rng.normal(size=length).astype(np.float32),
            loss_mask=rng.random(length) < 0.8,
            terminated=bool(seed % 2),
            truncated=not seed % 2,
        )

    return make
