"""What MIKASA-Robo's tasks show once and then hide, by family: read where the suite itself keeps it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.hidden import Demand
from envs.mikasa.scene import of_family


@dataclass(frozen=True)
class Hidden:
    """What one family hides: `fields` of the suite's environment, `[n]` or `[n, k]` by name; `what` has to be held.

    twin: changes an environment right after its reset into its twin, which shows another cue at first and asks for that
    (see envs/hidden.py); None where a family has none.
    """

    fields: Callable[[Any], dict[str, Tensor]]
    what: str
    twin: Callable[[Any], None] | None = None


def _next_object(name: str, objects: str) -> Callable[[Any], None]:
    """A twin that is shown, and asked for, the next object: `name` is the attribute with its number, of `objects`."""

    def twin(env: Any) -> None:
        env.oracle_info = (getattr(env, name) + 1) % len(getattr(env, objects))
        setattr(env, name, env.oracle_info)

    return twin


def _shown_cubes(env: Any) -> dict[str, Tensor]:
    """For each colour whether its cube was shown: their order does not matter."""
    shown = torch.zeros(len(env.true_color_indices), len(env.cubes), dtype=torch.int64, device=env.device)
    return {"shown": shown.scatter_(1, env.true_color_indices.long(), 1)}


FAMILIES: dict[str, Hidden] = {
    "ShellGame": Hidden(lambda env: {"cup": env.cup_with_ball_number}, "cup"),
    "Intercept": Hidden(lambda env: {"velocity": env.oracle_info[:, :2]}, "velocity of a ball"),
    "Rotate": Hidden(lambda env: {"angle": env.target_angle}, "angle"),
    "TakeItBack": Hidden(lambda env: {"start": env.oracle_info[:, :2]}, "place"),
    "RememberColor": Hidden(
        lambda env: {"colour": env.true_color_indices}, "colour", _next_object("true_color_indices", "cubes")
    ),
    "RememberShape": Hidden(
        lambda env: {"shape": env.true_shape_indices}, "shape", _next_object("true_shape_indices", "shapes")
    ),
    "RememberShapeAndColor": Hidden(
        lambda env: {"shape": env.true_shapes_info, "colour": env.true_colors_info}, "shape with its colour"
    ),
    "BunchOfColors": Hidden(_shown_cubes, "colours"),
    "SeqOfColors": Hidden(_shown_cubes, "colours"),
    "ChainOfColors": Hidden(lambda env: {"colours in order": env.true_color_indices}, "colours in order"),
}


def hidden(env: Any, task: str) -> dict[str, np.ndarray]:
    """The hidden state of the suite's environment now: classes int64 or numbers float32, `[n, k]` by name."""
    found = {name: field.cpu().numpy() for name, field in of_family(FAMILIES, task).fields(env).items()}
    return {
        name: field.reshape(len(field), -1).astype(np.float32 if field.dtype.kind == "f" else np.int64)
        for name, field in found.items()
    }


def demand(task: str, horizon: int) -> Demand:
    """What has to be held, which the name of a task says: from the first steps to the last."""
    several = re.search(r"OfColors(\d)", task)
    return Demand(int(several[1]) if several else 1, of_family(FAMILIES, task).what, horizon - 1)
