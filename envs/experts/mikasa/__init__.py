"""An expert for every motion of MIKASA-Robo; what it does follows from what was shown, so it can be imitated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from envs.experts.mikasa.arm import Arm
from envs.experts.mikasa.carry import Rotate, TakeItBack
from envs.experts.mikasa.catch import Catch
from envs.experts.mikasa.cups import PickCup, PushCup, TouchCup
from envs.experts.mikasa.motion import MotionPolicy, Player
from envs.experts.mikasa.touch import Touch, TouchAll
from envs.mikasa import check_task
from envs.mikasa.scene import of_family

PLAYERS: dict[str, Callable[[Arm], Player]] = {
    "ShellGameTouch": TouchCup,
    "ShellGamePush": PushCup,
    "ShellGamePick": PickCup,
    "Intercept": Catch,
    "Rotate": Rotate,
    "TakeItBack": TakeItBack,
    "Remember": Touch,
    "BunchOfColors": partial(TouchAll, in_order=False),
    "SeqOfColors": partial(TouchAll, in_order=False),
    "ChainOfColors": partial(TouchAll, in_order=True),
}


def expert_for(task: str) -> MotionPolicy:
    """The expert for a task such as "RememberColor3-v0"."""
    check_task(task)
    return MotionPolicy(of_family(PLAYERS, task))
