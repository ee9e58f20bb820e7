"""What a MIKASA-Robo scene shows, as numbers: proprioception, and objects exactly while a camera could see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
HIDDEN = 100.0  # metres; the suite hides an object by lifting it to 1000
JOINTS = 25  # 9 positions and 9 velocities of the joints, then the pose of the tool centre: position, quaternion
PER_OBJECT = 4  # whether it is seen, and its position, which is zero while it is not
CUE_STEPS = 5  # for which every task of the suite shows its cue, or a part of it


@dataclass(frozen=True)
class Scene:
    """Which objects one family of tasks has, in the order of the observation, and what else its cameras show.

    objects: their actors, from the simulator. heading: the cosine and sine of the last object's rotation follow.
    ball: the object that is seen only while the cups are lifted. told: the task tells an angle, which no camera shows.
    """

    objects: Callable[[Any], list[Any]]
    heading: bool = False
    ball: bool = False
    told: bool = False


def _cups(env: Any) -> list[Any]:
    """The cups and the ball, of which no orientation is shown: in ShellGamePick the cups' tells where the ball is."""
    return [env.mug_left, env.mug_center, env.mug_right, env.red_ball]


CUBES = Scene(lambda env: list(env.cubes.values()))
SHAPES = Scene(lambda env: list(env.shapes.values()))
ROTATE = Scene(lambda env: [env.peg], heading=True, told=True)
SCENES: dict[str, Scene] = {
    "ShellGame": Scene(_cups, ball=True),
    "InterceptGrab": Scene(lambda env: [env.ball]),
    "Intercept": Scene(lambda env: [env.ball, env.goal_region]),
    "Rotate": ROTATE,
    "TakeItBack": Scene(lambda env: [env.cube, env.goal_region, env.changed_goal_region]),
    "RememberColor": CUBES,
    "RememberShapeAndColor": SHAPES,
    "RememberShape": SHAPES,
    "BunchOfColors": CUBES,
    "SeqOfColors": CUBES,
    "ChainOfColors": CUBES,
}


def of_family(families: Mapping[str, T], task: str) -> T:
    """What a table by families says of a task: the longest name that the task's begins with."""
    return families[max((name for name in families if task.startswith(name)), key=len)]


def joints(env: Any) -> Tensor:
    """Proprioception `[n, JOINTS]`, in the order of the published data."""
    robot = env.agent.robot
    return torch.cat([robot.get_qpos(), robot.get_qvel(), env.agent.tcp.pose.raw_pose], dim=1).float()


def objects(env: Any, scene: Scene) -> Tensor:
    """For each object whether it is seen and where, `[n, PER_OBJECT * objects (+ 2)]`."""
    places = [actor.pose.p for actor in scene.objects(env)]
    seen = [place[:, 2:] < HIDDEN for place in places]
    if scene.ball:
        seen[-1] = ~seen[0]  # under its cup it cannot be seen; a cup that is pushed away later does not tell either
    parts = [torch.cat([s.float(), torch.where(s, p, 0.0)], dim=1) for s, p in zip(seen, places, strict=True)]
    if scene.heading:
        angle = heading(scene.objects(env)[-1])
        parts.append(torch.stack([angle.cos(), angle.sin()], dim=1))
    return torch.cat(parts, dim=1).float()


def heading(actor: Any) -> Tensor:
    """The angle `[n]` by which an object that lies on the table is turned about the vertical."""
    w, x, y, z = actor.pose.q.unbind(1)
    return torch.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def told(env: Any) -> Tensor:
    """`[n, 2]`: 1 and the angle by which to turn during the first steps, zeros later.

    The cameras never show it; the suite hands it out beside the images under the name of task_cue.
    """
    now = (env.elapsed_steps < CUE_STEPS).float()
    return torch.stack([now, now * env.target_angle.float()], dim=1)


def sizes(env: Any, scene: Scene) -> dict[str, int]:
    """The parts of the vector observation and how many numbers each of them has."""
    count = PER_OBJECT * len(scene.objects(env)) + 2 * scene.heading
    return {"joints": JOINTS, "objects": count, **({"cue": 2} if scene.told else {})}


def vectors(env: Any, scene: Scene) -> dict[str, Tensor]:
    """The vector observation: part -> `[n, size]`."""
    parts = {"joints": joints(env), "objects": objects(env, scene)}
    return {**parts, "cue": told(env)} if scene.told else parts


class Displayed:
    """Mixed into an environment of the suite: what it hides or moves for the cameras is moved for the cameras alone.

    The suite moves actors in `evaluate`. On the GPU that changes what is rendered and what `pose` answers, while the
    physics goes on from its own state, which is how the suite is meant and was published. On the CPU the same lines
    move the bodies themselves: cubes that were hidden never come back. Here they are put back before the next step.
    """

    _really: list[tuple[Any, Any]] | None = None

    def evaluate(self) -> dict[str, Any]:
        """The suite's own, from where things really are."""
        simulator: Any = self
        if simulator.gpu_sim_enabled:
            return super().evaluate()  # type: ignore[misc]
        self._put_back()
        entities = [entity for actor in simulator.scene.actors.values() for entity in actor._objs]
        before = [entity.pose for entity in entities]
        info: dict[str, Any] = super().evaluate()  # type: ignore[misc]
        pairs = zip(entities, before, strict=True)
        self._really = [(entity, pose) for entity, pose in pairs if _differs(entity.pose, pose)]
        return info

    def reset(self, *arguments: Any, **named: Any) -> Any:
        """The suite's own; nothing is put back of an episode that is over."""
        self._really = None
        return super().reset(*arguments, **named)  # type: ignore[misc]

    def _before_control_step(self) -> None:
        self._put_back()
        super()._before_control_step()  # type: ignore[misc]

    def _put_back(self) -> None:
        for entity, pose in self._really or ():
            entity.set_pose(pose)
        self._really = None


def _differs(pose: Any, other: Any) -> bool:
    return bool((pose.p != other.p).any() or (pose.q != other.q).any())
