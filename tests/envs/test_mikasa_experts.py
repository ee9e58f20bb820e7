"""The experts' arm against its own kinematics taken another way, and whole episodes of what leaves least time."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest

if importlib.util.find_spec("mikasa_robo_suite") is None:
    pytest.skip("needs MIKASA-Robo: make setup-mikasa", allow_module_level=True)

from scipy.spatial.transform import Rotation

from envs.experts.mikasa import expert_for
from envs.experts.mikasa.arm import ARM, BASE, Arm, rotation, tool
from envs.mikasa import Mikasa, in_this_process
from envs.rollout import rollout

# Warnings of ManiSkill and what it imports: nothing here can be mended in this repository.
pytestmark = [pytest.mark.mikasa, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def env() -> Iterator[Mikasa]:
    env = Mikasa("ChainOfColors7-v0")
    yield env
    env.close()


def placed(arm: Arm, q: np.ndarray) -> tuple[np.ndarray, Rotation]:
    """Where the tool is and how it is turned, by the model's forward kinematics."""
    arm._model.compute_forward_kinematics(q)
    pose = arm._model.get_link_pose(arm._tool)
    return pose.p + BASE, Rotation.from_quat(pose.q, scalar_first=True)


def test_what_a_joint_moves_is_what_a_small_turn_of_it_does(env: Mikasa) -> None:
    arm, joints = Arm(), env.reset(seed=3)[0]["joints"].astype(np.float64)
    place, turn = placed(arm, joints[:9])
    np.testing.assert_allclose(tool(joints), place, atol=1e-4)  # the simulator's and the model's
    np.testing.assert_allclose(rotation(joints), turn.as_matrix(), atol=1e-3)
    moves, turns = arm._jacobian(joints)
    for number in range(ARM):
        q = joints[:9].copy()
        q[number] += 1e-3
        moved, turned = placed(arm, q)
        np.testing.assert_allclose(moves[:, number], (moved - place) / 1e-3, atol=5e-3)
        np.testing.assert_allclose(turns[:, number], (turned * turn.inv()).as_rotvec() / 1e-3, atol=5e-3)


def test_gliding_is_fast_level_and_within_the_bounds(env: Mikasa) -> None:
    """A distance that the tool, held straight at 0.03 radians a step, takes more than twenty steps for."""
    arm, joints = Arm(), env.reset(seed=3)[0]["joints"]
    for place in (np.array([-0.05, -0.2, 0.1]), np.array([-0.05, 0.2, 0.1])):
        steps, heights = 0, list[float]()
        while np.linalg.norm(place - arm.stops_at(joints)) > 0.018:
            action = arm.glide(joints, place)
            assert np.abs(action).max() <= 1.0
            joints = env.step(action)[0]["joints"]
            steps, heights = steps + 1, [*heights, tool(joints)[2]]
            assert steps < 30
    assert steps <= 12
    assert np.abs(np.array(heights) - 0.1).max() < 0.025
    joints = env.step(np.zeros(8))[0]["joints"]
    assert np.linalg.norm(place - tool(joints)) < 0.025  # where it was said to stop


@pytest.mark.parametrize("task", ["ChainOfColors7-v0", "SeqOfColors3-v0"])
def test_touches_all_cubes_and_stays(task: str) -> None:
    env = in_this_process(2, task)
    episodes = rollout(env, expert_for(task), [0, 1], record=True)
    assert [(episode.success, episode.success_at_end) for episode in episodes] == [(True, True)] * 2
    for episode in episodes:
        assert episode.steps is not None
        assert not episode.steps.action[-3:, :ARM].any()
    env.close()
