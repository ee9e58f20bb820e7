"""MIKASA-Robo on the CPU: what is shown and when, episodes, seeds, measures, errors."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

if importlib.util.find_spec("mikasa_robo_suite") is None:
    pytest.skip("needs MIKASA-Robo: make setup-mikasa", allow_module_level=True)

from omegaconf import OmegaConf

from elmur.spec import Image, TaskSpec, Vector
from envs.experts.mikasa import expert_for
from envs.hidden import Demand, demand_of, hidden_of, twins_of
from envs.isolated import EnvError
from envs.mikasa import TASKS, Mikasa, MikasaBatch, in_this_process, length_of, make_vector
from envs.mikasa import scene as mikasa_scene
from envs.mikasa import sim as mikasa_sim
from envs.mikasa.hidden import demand
from envs.mikasa.sim import MikasaError, Simulation, registered
from envs.observers import Observer, Recorder
from envs.rollout import Wave, rollout

# Warnings of ManiSkill and what it imports: nothing here can be mended in this repository.
pytestmark = [pytest.mark.mikasa, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).resolve().parents[2]
OBJECTS = {  # one task of every family that needs no download, its objects, and how many steps its cue lasts
    "RememberColor3-v0": (3, 5),
    "RememberShape5-v0": (5, 5),
    "RememberShapeAndColor3x2-v0": (6, 5),
    "BunchOfColors3-v0": (9, 5),
    "SeqOfColors3-v0": (9, 15),
    "ChainOfColors3-v0": (9, 15),
}
LENGTHS = {
    "ShellGame": 90, "Intercept": 90, "InterceptGrab": 90, "Rotate": 90, "TakeItBack": 180,
    "Remember": 60, "Bunch": 120, "Seq": 120, "Chain": 120,
}  # fmt: skip


@pytest.fixture(params=OBJECTS)
def shown_then_hidden(request: pytest.FixtureRequest) -> Iterator[tuple[Simulation, int, int]]:
    simulation = Simulation(request.param)
    yield (simulation, *OBJECTS[request.param])
    simulation.close()


def made(task: str, **options: Any) -> Iterator[Simulation]:
    simulation = Simulation(task, **options)
    yield simulation
    simulation.close()


def actions(steps: int) -> Iterator[torch.Tensor]:
    """Small random movements that touch nothing."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        yield torch.from_numpy(rng.uniform(-0.2, 0.2, (1, 8)).astype(np.float32))


def vectors(simulation: Simulation, seed: int, steps: int, change: Any = None) -> list[np.ndarray]:
    """All numbers of the vector observation at every step, the hidden state changed right after the reset."""
    first = simulation.reset([seed])
    if change is not None:
        change(simulation.env)
    seen = [first, *(simulation.step(action)[0] for action in actions(steps))]
    return [np.concatenate([part[0].numpy() for part in parts.values()]) for parts in seen]


def give_cue(cue: list[int]) -> Any:
    def change(env: Any) -> None:
        name = "true_color_indices" if hasattr(env, "true_color_indices") else "true_shape_indices"
        old = getattr(env, name)
        new = torch.tensor(cue[:1] if old.ndim == 1 else [cue], dtype=old.dtype)
        assert new.shape == old.shape
        setattr(env, name, new)

    return change


def test_the_cue_is_shown_while_it_lasts_and_leaves_no_trace(shown_then_hidden: tuple[Simulation, int, int]) -> None:
    simulation, count, lasts = shown_then_hidden
    one = vectors(simulation, 7, 30, give_cue([0, 1, 2]))
    other = vectors(simulation, 7, 30, give_cue([2, 1, 0] if count == 9 and lasts == 15 else [1, 2, 3 % count]))
    different = [step for step in range(1, 31) if (one[step] != other[step]).any()]
    # of two sequences that have their middle in common, the middle looks the same
    same = range(5, 10) if lasts == 15 else ()
    assert different == [step for step in range(1, lasts) if step not in same]


def test_nothing_is_seen_of_what_is_hidden(shown_then_hidden: tuple[Simulation, int, int]) -> None:
    simulation, count, lasts = shown_then_hidden
    first = simulation.reset([3])
    seen = [first, *(simulation.step(action)[0] for action in actions(lasts + 12))]
    rows = [parts["objects"].reshape(count, mikasa_scene.PER_OBJECT).numpy() for parts in seen]
    per_step = 3 if "Bunch" in simulation.spec.name else 1
    assert [int(row[:, 0].sum()) for row in rows] == [per_step] * lasts + [0] * 5 + [count] * 8
    for row in rows:
        assert (row[row[:, 0] == 0] == 0).all()


def test_hiding_moves_nothing_but_the_picture(shown_then_hidden: tuple[Simulation, int, int]) -> None:
    simulation, count, lasts = shown_then_hidden
    simulation.reset([11])
    placed = torch.cat([pose[..., :2] for pose in simulation.env.initial_poses.values()]).numpy()
    for action in actions(lasts + 5):
        shown = simulation.step(action)[0]["objects"].reshape(count, mikasa_scene.PER_OBJECT).numpy()
    assert (shown[:, 0] == 1).all()
    assert np.abs(shown[:, 1:3] - placed).max() < 0.01  # where the task put them
    assert (shown[:, 3] < 0.05).all()  # on the table


def test_the_angle_to_turn_by_is_told_at_first_and_leaves_no_trace() -> None:
    for simulation in made("RotateStrictPosNeg-v0"):

        def tell(angle: float) -> Any:
            return lambda env: setattr(env, "target_angle", torch.full_like(env.target_angle, angle))

        one, other = (vectors(simulation, 4, 12, tell(angle)) for angle in (0.25, -0.5))
        assert [step for step in range(1, 13) if (one[step] != other[step]).any()] == [1, 2, 3, 4]
        # the heading at first is to be remembered: what the task keeps of it is nowhere to be seen
        turned = vectors(simulation, 4, 12, lambda env: setattr(env, "initial_rotations", env.initial_rotations + 1))
        plain = vectors(simulation, 4, 12)
        assert all((a == b).all() for a, b in zip(turned, plain, strict=True))
        first = simulation.reset([4])["cue"][0]
        assert first[0] == 1
        assert float(first[1]) == pytest.approx(float(simulation.env.task_cue[0]))


def test_where_the_cube_came_from_is_nowhere_to_be_seen() -> None:
    for simulation in made("TakeItBack-v0"):

        def to_goal(home: float) -> Any:
            def change(env: Any) -> None:
                pose = env.initial_region.pose.raw_pose.clone()
                pose[:, 1] = home
                env.initial_region.pose = pose
                env.cube.pose = env.goal_region.pose.raw_pose + torch.tensor([0, 0, 0.02, 0, 0, 0, 0])

            return change

        one, other = (vectors(simulation, 4, 12, to_goal(home)) for home in (-0.1, 0.1))
        assert all((a == b).all() for a, b in zip(one[1:], other[1:], strict=True))
        goal, changed = one[5][[25 + 4, 25 + 8]]
        assert (goal, changed) == (0, 1)  # it has changed its colour


@pytest.mark.parametrize("task", ["InterceptFast-v0", "InterceptGrabSlow-v0"])
def test_how_fast_the_ball_is_shows_only_from_step_to_step(task: str) -> None:
    for simulation in made(task):
        simulation.reset([5])
        scene = mikasa_scene.of_family(mikasa_scene.SCENES, task)
        seen = []
        for speed in (0.1, 0.9):
            simulation.env.ball.set_linear_velocity(torch.tensor([[0.0, speed, 0.0]]))
            seen.append(torch.cat(list(mikasa_scene.vectors(simulation.env, scene).values()), dim=1))
        assert torch.equal(*seen)


def seen_in(task: str, steps: int) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    """What an episode hides, and which objects are seen at its first steps."""
    env = in_this_process(1, task)
    shown, still = env.reset([7]), np.zeros((1, 8), np.float32)
    found, hidden = [], {}
    for _ in range(steps):
        found.append(np.flatnonzero(shown["objects"][0].reshape(-1, 4)[:, 0]).tolist())
        shown = env.step(still, np.ones(1, np.bool_)).observation
        hidden = {name: field[0] for name, field in hidden_of(env).items()}
    env.close()
    return hidden, found


@pytest.mark.parametrize("task", ["RememberColor3-v0", "RememberShape5-v0", "BunchOfColors3-v0", "SeqOfColors3-v0",
                                  "ChainOfColors3-v0"])  # fmt: skip
def test_what_is_hidden_is_what_was_shown(task: str) -> None:
    """The objects that the observation shows in the first steps, in the order in which they come."""
    hidden, seen = seen_in(task, 15 if task[:5] in ("SeqOf", "Chain") else 4)
    ((name, value),) = hidden.items()
    order = list(dict.fromkeys(index for step in seen for index in step))
    assert (np.flatnonzero(value).tolist() if name == "shown" else value.tolist()) == (
        sorted(order) if name == "shown" else order
    )


def test_a_shape_with_its_colour_are_two_fields() -> None:
    hidden, seen = seen_in("RememberShapeAndColor3x2-v0", 3)
    (index,) = seen[0]
    for simulation in made("RememberShapeAndColor3x2-v0"):
        about = simulation.env.shape_color_dict[index]
    assert (hidden["shape"].tolist(), hidden["colour"].tolist()) == ([about["shape_id"]], [about["color_id"]])


def test_places_angles_and_speeds_are_numbers() -> None:
    for simulation in made("RotateLenientPos-v0"):
        told = simulation.reset([4])["cue"][0, 1]
        assert simulation.hidden()["angle"][0, 0] == pytest.approx(float(told))
    for simulation in made("TakeItBack-v0"):
        cube = simulation.reset([4])["objects"][0, 1:3].numpy()
        np.testing.assert_allclose(simulation.hidden()["start"][0], cube, atol=0.01)
    for simulation in made("InterceptMedium-v0"):
        first = simulation.reset([4])["objects"][0, 1:3]
        later = simulation.step(torch.zeros(1, 8))[0]["objects"][0, 1:3]
        speed = ((later - first) / 0.05).numpy()
        np.testing.assert_allclose(simulation.hidden()["velocity"][0], speed, atol=0.1)


def test_processes_tell_what_is_hidden_in_them_and_what_has_to_be_held() -> None:
    env = make_vector(3, "RememberColor3-v0", processes=2)
    alone = in_this_process(3, "RememberColor3-v0")
    assert demand_of(make_vector, id="RememberColor3-v0") == Demand(1, "colour", 59)
    for each in (env, alone):
        each.reset([1, 2, 3])
    assert hidden_of(env)["colour"].tolist() == hidden_of(alone)["colour"].tolist()
    for each in (env, alone):
        each.close()


@pytest.mark.parametrize("task", ["RememberColor3-v0", "RememberShape5-v0"])
def test_a_twin_shows_another_object_at_first_and_looks_the_same_later(task: str) -> None:
    env, still = make_vector(2, task, processes=1), np.zeros((2, 8), np.float32)
    shown, cues = [], []
    for twin in (False, True):
        first = env.reset([3, 4])
        seen = [twins_of(env) if twin else first]
        cues.append(next(iter(hidden_of(env).values()))[:, 0])
        seen += [env.step(still, np.ones(2, np.bool_)).observation for _ in range(20)]
        shown.append([np.concatenate([part[name] for name in sorted(part)], axis=1) for part in seen if part])
    assert len(shown[1]) == 21 and (cues[0] != cues[1]).all()
    differ = [(one != other).any(axis=1).tolist() for one, other in zip(*shown, strict=True)]
    assert differ == [[True, True]] * 5 + [[False, False]] * 16, "while the cue is shown"
    with pytest.raises(EnvError, match="twin: expected episodes at their first observation"):
        twins_of(env)
    env.close()


class Turned(Observer):
    """Makes every episode its twin as soon as it has begun."""

    def on_reset(self, wave: Wave) -> None:
        wave.observation = twins_of(wave.env) or wave.observation


def test_who_saw_the_cue_of_the_twin_touches_what_the_twin_asks_for() -> None:
    env = in_this_process(2, "RememberColor3-v0")
    own, twins = (rollout(env, expert_for("RememberColor3-v0"), [3, 4], observers=[Recorder(), *more])
                  for more in ([], [Turned()]))  # fmt: skip
    for episode, twin in zip(own, twins, strict=True):
        assert episode.success and twin.success and episode.steps and twin.steps
        last = [each.steps.observation["joints"][-1, 18:20] for each in (episode, twin) if each.steps]
        assert np.linalg.norm(last[0] - last[1]) > 0.05, "another cube, at another place"
    env.close()


def test_a_task_without_twins_is_left_as_it_is() -> None:
    env = in_this_process(1, "TakeItBack-v0")
    before = env.reset([5])
    assert twins_of(env) is None
    assert all((env.seen()[name] == part).all() for name, part in before.items())
    env.close()


def test_what_has_to_be_held_is_said_of_every_task() -> None:
    for task in TASKS:
        held = demand(task, length_of(task))
        assert held.items == (getattr(registered(task).cls, "SEQUENCE_LENGTH", 1))


def test_the_ball_is_seen_only_while_the_cups_are_up() -> None:
    """The asset of the real task cannot be had everywhere, so its actors are stood in for."""

    def at(x: float, z: float) -> Any:
        return SimpleNamespace(pose=SimpleNamespace(p=torch.tensor([[x, 0.0, z]])))

    def shown(z: float, x_of_cup: float) -> list[float]:
        cups = {name: at(x_of_cup, z) for name in ("mug_left", "mug_center", "mug_right")}
        scene = mikasa_scene.of_family(mikasa_scene.SCENES, "ShellGamePush-v0")
        return mikasa_scene.objects(SimpleNamespace(**cups, red_ball=at(0.3, 0.02)), scene)[0].tolist()

    assert shown(1000.0, 0.1) == pytest.approx([0.0] * 12 + [1.0, 0.3, 0.0, 0.02])
    assert shown(0.05, 0.1) == pytest.approx([1.0, 0.1, 0.0, 0.05] * 3 + [0.0] * 4)
    assert shown(0.05, 0.9) == pytest.approx([1.0, 0.9, 0.0, 0.05] * 3 + [0.0] * 4)  # pushed away


def test_there_are_32_tasks_with_a_file_each() -> None:
    ids = [OmegaConf.load(path).env.id for path in sorted((ROOT / "conf" / "task").glob("mikasa_*.yaml"))]
    assert sorted(ids) == sorted(TASKS)
    assert len(set(TASKS)) == 32
    for path in (ROOT / "conf" / "task").glob("mikasa_*.yaml"):
        told = re.sub(r"[^a-z0-9]", "", OmegaConf.load(path).env.id.lower().removesuffix("-v0"))
        assert path.stem.removeprefix("mikasa_").replace("_", "") == told


@pytest.mark.parametrize("task", TASKS)
def test_is_as_long_as_published(task: str) -> None:
    family = next(name for name in sorted(LENGTHS, key=len, reverse=True) if task.startswith(name))
    assert registered(task).max_episode_steps == LENGTHS[family]


def test_an_episode_ends_at_its_length_and_says_what_was_reached() -> None:
    env = in_this_process(2, "RememberColor3-v0")
    assert env.spec == TaskSpec(
        "RememberColor3-v0", {"joints": Vector(25), "objects": Vector(12)}, Vector(8, (-1.0,) * 8, (1.0,) * 8), 60
    )

    class UpAgain:
        """The expert, that goes away at the end."""

        def start(self, num_envs: int, seed: int = 0) -> None:
            self._expert, self._step = expert_for("RememberColor3-v0"), 0
            self._expert.start(num_envs)

        def act(self, observation: Any, is_first: np.ndarray) -> np.ndarray:
            self._step += 1
            action = self._expert.act(observation, is_first)
            if self._step > 45:
                action[0, :7] = [0, -1, 0, 0, 0, 0, 0]
            return action

        def observe(self, action: np.ndarray, reward: np.ndarray) -> None: ...

    gone, stayed = rollout(env, UpAgain(), [1, 2], observers=[Recorder()])
    assert gone.metrics == {"success": True, "success_at_end": False}
    assert stayed.metrics == {"success": True, "success_at_end": True}
    assert gone.length == 60
    assert gone.steps is not None
    assert (gone.steps.terminated, gone.steps.truncated) == (False, True)
    env.close()


def test_a_seed_is_an_episode_wherever_and_whenever_it_is_played() -> None:
    task, expert = "SeqOfColors3-v0", expert_for("SeqOfColors3-v0")
    alone, several = in_this_process(1, task), make_vector(3, task, processes=2)
    one = rollout(alone, expert, [5, 6, 5], observers=[Recorder()], max_steps=26)  # until something is touched
    other = rollout(several, expert, [6, 7, 5], observers=[Recorder()], max_steps=26)  # until something is touched
    for a, b in ((one[0], one[2]), (one[0], other[2]), (one[1], other[0])):
        assert a.steps is not None
        assert b.steps is not None
        for part in a.steps.observation:
            # not to the last digit: how things rest on the table depends on what the simulator did before
            np.testing.assert_allclose(a.steps.observation[part], b.steps.observation[part], atol=1e-4)
    alone.close()
    several.close()


def test_one_simulator_for_a_batch_shows_the_same() -> None:
    task = "RememberColor3-v0"
    batch, single = MikasaBatch(task, 1), Mikasa(task)
    shown, (expected, _) = batch.reset([9]), single.reset(seed=9)
    for action in actions(12):
        step = batch.step(action.numpy(), np.array([True]))
        expected, reward, *_ = single.step(action[0].numpy())
        for part, value in expected.items():
            np.testing.assert_array_equal(np.asarray(step.observation[part])[0], value)
        assert step.reward[0] == pytest.approx(reward)
    with pytest.raises(ValueError, match="a batch begins together"):
        batch.reset([None])
    assert set(shown) == set(expected)
    batch.close()
    single.close()


def test_an_action_out_of_bounds_is_clipped_and_counted() -> None:
    env = Mikasa("RememberColor3-v0")
    found = []
    for size in (1.0, 7.0):
        env.reset(seed=1)
        found.append(env.step(np.full(8, size))[0]["joints"])
    np.testing.assert_array_equal(found[0], found[1])
    assert env.clipped == 1
    env.close()


def test_the_cameras_show_the_cue_and_nothing_privileged() -> None:
    for simulation in made("RememberColor3-v0", observation="rgb", privileged=True):
        cameras = {"base_camera": Image(3, 128, 128), "hand_camera": Image(3, 128, 128)}
        assert simulation.spec.observation == cameras
        seen = []
        for cue in (0, 1):
            simulation.reset([2])
            give_cue([cue])(simulation.env)
            seen.append([simulation.step(action)[0] for action in actions(11)])
        for step, (one, other) in enumerate(zip(*seen, strict=True), start=1):
            assert one["base_camera"].shape == (1, 3, 128, 128)
            assert one["base_camera"].dtype == torch.uint8
            same = all(torch.equal(one[camera], other[camera]) for camera in cameras)
            assert same == (step >= 5)
        assert {"joints", "objects"} <= set(seen[0][0])  # for an expert
    for simulation in made("RememberColor3-v0", observation="rgb", joints=True):
        assert list(simulation.spec.observation) == ["base_camera", "hand_camera", "joints"]


def test_a_task_that_does_not_exist_is_named_with_its_neighbours() -> None:
    with pytest.raises(MikasaError, match=r"no task 'RememberColour3-v0'; nearest: RememberColor3-v0"):
        make_vector(1, "RememberColour3-v0")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"observation": "depth"}, "observation: expected one of vector, rgb; found 'depth'"),
        ({"backend": "tpu"}, "backend: expected one of cpu, gpu; found 'tpu'"),
        ({"renderer": "none"}, "renderer: expected one of cpu, gpu; found 'none'"),
    ],
)
def test_an_option_that_does_not_exist_is_named(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(MikasaError, match=sentence):
        make_vector(1, "TakeItBack-v0", processes=0, **options)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed() -> None:
    options: dict[str, dict[str, Any]] = {name: {name: "gpu"} for name in ("backend", "renderer")}
    for name, chosen in options.items():
        with pytest.raises(MikasaError, match=f"{name}=gpu, but no CUDA device is found; leave it out for the CPU"):
            make_vector(4, "TakeItBack-v0", **chosen)


@pytest.mark.parametrize(
    ("backend", "renderer", "way"),
    [("cpu", "gpu", "sapien_cpu"), ("gpu", "gpu", "sapien_gpu"), ("cpu", "cpu", "sapien_cpu")],
)
def test_pictures_of_physics_on_the_cpu_go_straight_to_the_host(
    monkeypatch: pytest.MonkeyPatch, backend: str, renderer: str, way: str
) -> None:
    """ManiSkill hands pictures over as CUDA tensors where `render_backend` is a GPU's; who renders is chosen before."""

    class Suite:
        def __init__(self, **options: Any) -> None:
            self.backend = SimpleNamespace(render_backend=f"sapien_{options['render_backend']}")

    monkeypatch.setattr(mikasa_sim, "registered", lambda task: SimpleNamespace(cls=Suite))
    env = mikasa_sim._make("RememberColor3-v0", True, 1, backend, renderer, False)
    assert env.backend.render_backend == way


def test_pictures_stay_as_they_were_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU renders each step into the same buffers, of four channels, whose first three ManiSkill hands out."""
    buffers = {camera: torch.zeros(2, 4, 5, 4, dtype=torch.uint8) for camera in mikasa_sim.CAMERAS}
    monkeypatch.setattr(mikasa_scene, "vectors", lambda env, scene: {})
    simulation = Simulation.__new__(Simulation)
    vars(simulation).update(env=None, _scene=None, _rgb=True, privileged={}, spec=SimpleNamespace(observation={}))
    shown = simulation._parts({"sensor_data": {camera: {"rgb": of[..., :3]} for camera, of in buffers.items()}})
    for buffer in buffers.values():
        buffer.fill_(255)
    assert list(shown) == list(buffers)
    assert all(part.shape == (2, 3, 4, 5) and not part.any() for part in shown.values())


def test_another_version_of_the_suite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mikasa_sim, "SUITE_VERSION", "2.0.0")
    with pytest.raises(MikasaError, match=r"mikasa-robo-suite 2.0.0 is expected, 1.0.0 is installed"):
        Simulation("TakeItBack-v0")


def test_the_asset_of_the_shell_game_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    registered("ShellGameTouch-v0")
    assets = importlib.import_module("mani_skill.utils.assets")
    monkeypatch.setattr(assets, "is_data_source_downloaded", lambda name: False)  # it may be on this machine
    with pytest.raises(MikasaError, match=r"the cups of the asset 'ycb'.* -m mani_skill.utils.download_asset ycb"):
        Simulation("ShellGameTouch-v0")


def test_a_missing_driver_is_named() -> None:
    code = "from envs.mikasa import Mikasa; Mikasa('RememberColor3-v0')"
    nowhere = {**os.environ, "VK_DRIVER_FILES": "/nonexistent", "VK_ICD_FILENAMES": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=nowhere, capture_output=True, text=True)
    assert "MikasaError: RememberColor3-v0: no Vulkan driver is found" in done.stderr
    assert "make setup-mikasa" in done.stderr
