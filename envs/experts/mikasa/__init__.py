"""An expert for every motion of MIKASA-Robo; what it does follows from what was shown, so it can be imitated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from envs.experts.mikasa.arm import Arm
from envs.experts.mikasa.carry import Rotate, TakeItBack
from envs.experts.mikasa.catch import Catch
from envs.experts.mikasa.motion import MotionPolicy, Player
from envs.experts.mikasa.touch import Touch, TouchAll
from envs.mikasa import MikasaError, check_task

PLAYERS: dict[str, Callable[[Arm], Player]] = {
    "Intercept": Catch,
    "Rotate": Rotate,
    "TakeItBack": TakeItBack,
    "Remember": Touch,
    "BunchOfColors": partial(TouchAll, in_order=False),
    "SeqOfColors": partial(TouchAll, in_order=False),
    "ChainOfColors": partial(TouchAll, in_order=True),
}


def expert_for(task: str) -> MotionPolicy:
    """The expert for a task such as "RememberColor3-v0". Raises MikasaError for a task without one."""
    check_task(task)
    names = [name for name in PLAYERS if task.startswith(name)]
    if not names:
        raise MikasaError(f"{task} has no expert here; import its published data, or choose one of the other 29 tasks")
    return MotionPolicy(PLAYERS[max(names, key=len)])
