"""The experts' arm against its own kinematics taken another way, and whole episodes of what leaves least time."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("mikasa_robo_suite") is None:
    pytest.skip("needs MIKASA-Robo: make setup-mikasa", allow_module_level=True)

from scipy.spatial.transform import Rotation

from envs.experts.mikasa import expert_for
from envs.experts.mikasa.arm import ARM, BASE, Arm, rotation, tool
from envs.mikasa import Mikasa, in_this_process
from envs.observers import Recorder
from envs.rollout import rollout

ROOT = Path(__file__).resolve().parents[2]
trimesh = importlib.import_module("trimesh")  # comes with ManiSkill
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
    episodes = rollout(env, expert_for(task), [0, 1], observers=[Recorder()])
    assert [episode.metrics for episode in episodes] == [{"success": True, "success_at_end": True}] * 2
    for episode in episodes:
        assert episode.steps is not None
        assert not episode.steps.action[-3:, :ARM].any()
    env.close()


def cup(folder: Path) -> None:
    """A cup of the real one's size, made of convex pieces, where ManiSkill looks for what it downloads.

    YCB's mug: 81 mm high and 93 mm wide, with a handle 24 mm out and 15 mm thick.
    """
    radius, height, wall, sides = 0.0465, 0.0813, 0.006, 16
    pieces = [trimesh.creation.cylinder(radius, wall, sections=32)]
    pieces[0].apply_translation([0, 0, (wall - height) / 2])
    for angle in np.arange(sides) * 2 * np.pi / sides:
        piece = trimesh.creation.box([wall, 2 * radius * np.tan(np.pi / sides), height])
        piece.apply_translation([radius - wall / 2, 0, 0])
        piece.apply_transform(trimesh.transformations.rotation_matrix(angle, [0, 0, 1]))
        pieces.append(piece)
    for thick, high, out, up in (
        (0.006, 0.05, 0.021, 0.0),
        (0.024, 0.006, 0.012, 0.022),
        (0.024, 0.006, 0.012, -0.022),
    ):
        piece = trimesh.creation.box([thick, 0.015, high])
        piece.apply_translation([radius + out, -0.0026, up])
        pieces.append(piece)
    whole = trimesh.util.concatenate(pieces)
    whole.apply_translation(-whole.bounds.mean(axis=0))
    model = folder / "data/assets/mani_skill2_ycb/models/025_mug"
    model.mkdir(parents=True)
    whole.export(model / "collision.ply")
    whole.export(model / "textured.obj")
    box = dict(zip(("min", "max"), whole.bounds.tolist(), strict=True))
    about = {"025_mug": {"bbox": box, "scales": [1.0], "density": 1000}}
    (model.parents[1] / "info_pick_v0.json").write_text(json.dumps(about))


def test_plays_the_shell_game_with_a_cup_that_stands_in(tmp_path: Path) -> None:
    """The asset of the suite cannot be had everywhere."""
    cup(tmp_path)
    tasks = [f"ShellGame{motion}-v0" for motion in ("Touch", "Push", "Pick")]
    command = [sys.executable, "-m", "docs.measure_experts", *tasks, "--seeds", "0", "6"]
    place = {**os.environ, "MS_ASSET_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert [(row[0], row[1], row[4]) for row in rows] == [(task.removesuffix("-v0"), "90", "6") for task in tasks]
    assert [float(row[3]) for row in rows[:2]] == [1.0, 1.0]
    assert float(rows[2][3]) >= 0.8, "of a cup's handle that is not quite the real one's"
