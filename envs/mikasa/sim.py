"""One ManiSkill simulator of a MIKASA-Robo task: a batch of episodes of equal length, on the CPU (one) or a GPU."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elmur.spec import Field, Image, TaskSpec, Vector
from envs.mikasa import scene as scenes
from envs.mikasa.hidden import FAMILIES, hidden

SUITE, SUITE_VERSION = "mikasa-robo-suite", "1.0.0"
SIMULATOR, SIMULATOR_VERSION = "mani-skill", "3.0.1"
CONTROL = "pd_joint_delta_pos"  # the suite's default, of the published data too
CAMERAS = ("base_camera", "hand_camera")
SIZE = 128
BACKENDS = RENDERERS = ("cpu", "gpu")
OBSERVATIONS = ("vector", "rgb")
ASSET = "ycb"
SETUP = "make setup-mikasa installs it"


class MikasaError(RuntimeError):
    """A MIKASA-Robo task that cannot be made here, and what to do about it."""


class Simulation:
    """`num_envs` episodes of one task side by side; on the CPU one, on a GPU hundreds whose tensors stay there.

    observation: "vector" is proprioception and what the cameras see as numbers (see envs/mikasa/scene.py), "rgb" the
    publication's two cameras. joints: add proprioception to rgb. privileged: add the vector observation to rgb beyond
    what `spec` names, for an expert; no data set and no network gets it. renderer: what makes the
    pictures, None: what simulates (`backend`); a GPU can do it for physics on the CPU.
    """

    def __init__(
        self,
        task: str,
        observation: str = "vector",
        num_envs: int = 1,
        backend: str = "cpu",
        joints: bool = False,
        privileged: bool = False,
        render: bool = False,
        renderer: str | None = None,
    ) -> None:
        require(task, observation, backend, renderer)
        self.num_envs, self.backend = num_envs, backend
        self._scene, self._rgb = scenes.of_family(scenes.SCENES, task), observation == "rgb"
        pictures = (renderer or backend) if self._rgb or render else "none"
        self.env = _make(task, self._rgb, num_envs, backend, pictures, render)
        vectors: dict[str, Field] = {n: Vector(k) for n, k in scenes.sizes(self.env, self._scene).items()}
        if self._rgb:
            images: dict[str, Field] = {camera: Image(3, SIZE, SIZE) for camera in CAMERAS}
            shown = {**images, **({"joints": vectors["joints"]} if joints else {})}
        else:
            shown = vectors
        space = self.env.single_action_space
        action = Vector(space.shape[0], tuple(space.low.tolist()), tuple(space.high.tolist()))
        self.horizon = registered(task).max_episode_steps
        self.spec = TaskSpec(task, shown, action, self.horizon)
        self.privileged = {name: part for name, part in vectors.items() if privileged and name not in shown}

    def reset(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """First observations `[n, ...]`. The seed of a row determines its cue; on the GPU places depend on them all."""
        shown, _ = self.env.reset(seed=[int(seed) for seed in seeds])
        return self._parts(shown)

    def step(self, action: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Observation, reward float32 `[n]` and whether the goal is met now `[n]`, for actions float32 `[n, A]`."""
        shown, reward, _, _, info = self.env.step(action)
        return self._parts(shown), reward.float(), info["success"].bool()

    def hidden(self) -> dict[str, np.ndarray]:
        """What is hidden now, `[n, k]` by name (see envs/mikasa/hidden.py)."""
        return hidden(self.env, self.spec.name)

    def twin(self) -> dict[str, Tensor] | None:
        """First observations of the twins of what was reset, `[n, ...]`, played from here on; None: a task without."""
        change = scenes.of_family(FAMILIES, self.spec.name).twin
        if change is None:
            return None
        if int(torch.as_tensor(self.env.elapsed_steps).max()):
            raise RuntimeError("twin: expected episodes at their first observation; call reset() first")
        change(self.env)
        return self._parts(self.env.get_obs(self.env.get_info()))

    def frames(self) -> np.ndarray:
        """What the camera for people sees, uint8 `[n, h, w, 3]`; the simulator must have been made to render."""
        return self.env.render_rgb_array().cpu().numpy()

    def close(self) -> None:
        """Free the simulator."""
        self.env.close()

    def _parts(self, shown: Any) -> dict[str, Tensor]:
        wanted = {**self.spec.observation, **self.privileged}
        vectors = scenes.vectors(self.env, self._scene)
        parts = {name: vector for name, vector in vectors.items() if name in wanted}
        if self._rgb:
            cameras = shown["sensor_data"]
            # A batch on a GPU hands out its cameras' buffers, into which the next step is rendered: copies are given.
            parts |= {name: cameras[name]["rgb"].permute(0, 3, 1, 2).contiguous() for name in CAMERAS}
        return parts


def require(task: str, observation: str, backend: str, renderer: str | None = None) -> None:
    """Raises MikasaError, in one sentence, where something that the task needs is not there."""
    for name, found, known in (
        ("observation", observation, OBSERVATIONS),
        ("backend", backend, BACKENDS),
        ("renderer", renderer or backend, RENDERERS),
    ):
        if found not in known:
            raise MikasaError(f"{name}: expected one of {', '.join(known)}; found {found!r}")
    for package, version in ((SIMULATOR, SIMULATOR_VERSION), (SUITE, SUITE_VERSION)):
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise MikasaError(f"{task} needs the package {package} {version}, found none; {SETUP}") from None
        if found != version:
            raise MikasaError(
                f"{task}: {package} {version} is expected, {found} is installed; other versions have other tasks or "
                f"physics, and {SETUP}"
            )
    for name, chosen in (("backend", backend), ("renderer", renderer)):
        if chosen == "gpu" and not torch.cuda.is_available():
            raise MikasaError(f"{task}: env.make.{name}=gpu, but no CUDA device is found; leave it out for the CPU")
    if task.startswith("ShellGame"):
        _require_asset(task)


def registered(task: str) -> Any:
    """What ManiSkill knows of a task: its class and its length."""
    os.environ.setdefault("MS_SKIP_ASSET_DOWNLOAD_PROMPT", "1")  # it would wait for an answer on stdin
    import mikasa_robo_suite.rl.memory_envs  # noqa: F401  (registers the tasks)
    from mani_skill.utils.registration import REGISTERED_ENVS

    logging.getLogger("mani_skill").setLevel(logging.ERROR)
    return REGISTERED_ENVS[task]


def _require_asset(task: str) -> None:
    registered(task)
    from mani_skill.utils.assets import is_data_source_downloaded

    if not is_data_source_downloaded(ASSET):
        raise MikasaError(
            f"{task} needs the cups of the asset '{ASSET}', which is not on this machine; download it once with "
            f"'{os.path.relpath(sys.executable)} -m mani_skill.utils.download_asset {ASSET} -y'"
        )


def _make(task: str, rgb: bool, num_envs: int, backend: str, renderer: str, render: bool) -> Any:
    """The suite's environment, which hides things from the cameras and not from the physics."""
    suite = registered(task).cls
    displayed = type(f"Displayed{suite.__name__}", (scenes.Displayed, suite), {})
    try:
        env = displayed(
            num_envs=num_envs,
            obs_mode=_mode(task, rgb),
            control_mode=CONTROL,
            reward_mode="normalized_dense",
            render_mode="rgb_array" if render else None,
            sim_backend=backend,
            render_backend=renderer,
        )
    except RuntimeError as error:
        if not any(word in str(error) for word in ("rendering device", "ErrorIncompatibleDriver", "Vulkan")):
            raise
        raise MikasaError(
            f"{task}: no Vulkan driver is found ({error}), which ManiSkill needs even where nothing is rendered; "
            "make setup-mikasa installs one for the CPU (Mesa 25 or newer), as root"
        ) from None
    if (backend, renderer) == ("cpu", "gpu"):  # pictures go straight to the host: no CUDA context has to take a turn
        env.backend.render_backend = "sapien_cpu"
    return env


def _mode(task: str, rgb: bool) -> str:
    """What the suite is asked to observe: numbers are read from the scene, but its cup tasks reward by what it is."""
    return "rgb" if rgb else "state_dict" if task.startswith("ShellGame") else "none"
