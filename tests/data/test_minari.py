"""Data sets that Minari makes of Gymnasium environments become shards, and shards become data sets of Minari."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("minari", reason="needs Minari: pip install -e '.[readers]'")
pytest.importorskip("pyarrow", reason="needs pyarrow: pip install -e '.[readers]'")

import minari
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from data.index import build_index, task_of
from data.readers import ReadError
from data.readers.minari import Minari, write
from data.shard import write_shard
from elmur.spaces import action_leaf, leaves
from elmur.spec import Discrete, Image, TaskSpec, Vector
from tests.data.test_readers import converted, stored

pytestmark = pytest.mark.filterwarnings(  # metadata that Minari recommends
    "ignore:`.*` is set to None:UserWarning", "ignore:env_spec is None:UserWarning"
)
FORMATS = ("hdf5", "arrow", "parquet")
NESTED = spaces.Dict(
    {
        "goal": spaces.Discrete(5, start=2),
        "arm": spaces.Tuple((spaces.Box(-1, 1, (2, 2), np.float64), spaces.MultiBinary(3))),
        "camera": spaces.Box(0, 255, (8, 10, 3), np.uint8),
        "big": spaces.Box(0, 255, (40, 33), np.uint8),
        "grid": spaces.MultiDiscrete(np.array([[3, 4], [5, 6]])),
        "free": spaces.Box(-np.inf, np.inf, (1,), np.float32),
    }
)


class Toy(gymnasium.Env[Any, Any]):
    """Shows what its space samples, five steps long."""

    observation_space, action_space = NESTED, spaces.MultiDiscrete([2, 3], start=[1, 0])

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.spec = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.count = 0
        return self.show(), {}

    def show(self) -> Any:
        self.seen.append(self.observation_space.sample())
        return self.seen[-1]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self.show(), self.count / 3, self.count == 5, False, {}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def stacked(values: list[Any]) -> Any:
    """What was shown step by step as a nest of arrays [T, ...]."""
    if isinstance(values[0], dict):
        return {key: stacked([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], tuple):
        return tuple(stacked([value[i] for value in values]) for i in range(len(values[0])))
    return np.stack(values)


def recorded(env: Any, name: str, data_format: str, count: int = 3) -> Any:
    """A data set that Minari writes of random play."""
    buffers = []
    for seed in range(count):
        seen, actions, over, cut = [env.reset(seed=seed)[0]], list[Any](), [False], [False]
        rewards: list[float] = []
        env.action_space.seed(seed)
        while not (over[-1] or cut[-1]):
            actions.append(env.action_space.sample())
            shown, reward, terminated, truncated, _ = env.step(actions[-1])
            for of, value in ((seen, shown), (rewards, reward), (over, terminated), (cut, truncated)):
                of.append(value)
        buffers.append(
            EpisodeBuffer(
                seed=seed, observations=stacked(seen), actions=stacked(actions), rewards=rewards,
                terminations=over[1:], truncations=cut[1:],
            )
        )  # fmt: skip
    own = {"observation_space": env.observation_space, "action_space": env.action_space}
    return minari.create_dataset_from_buffers(
        name, buffers, env=env if env.spec else None, data_format=data_format, **({} if env.spec else own)
    )


COLLECT = """
import gymnasium, minari
env = minari.DataCollector(gymnasium.make("CartPole-v1"))
env.reset(seed=3)
while not any(env.step(1)[2:4]):
    pass
env.create_dataset("cartpole/right-v0")
env.close()
"""


def test_what_minari_collects_itself(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("jax", reason="Minari's DataCollector needs jax: pip install 'minari[create]'")
    # In a process of its own: it leaves temporary folders to the interpreter's end.
    subprocess.run([sys.executable, "-c", COLLECT], check=True, capture_output=True)
    (given,) = minari.load_dataset("cartpole/right-v0")
    (found,) = converted(partial(Minari, "cartpole/right-v0"), tmp_path / "out")
    np.testing.assert_array_equal(found["observation/observation"], given.observations[:-1])
    assert found["action"].all() and found["seed"] == [3] and found["reward"].sum() == given.rewards.sum() > 1


@pytest.mark.parametrize("data_format", FORMATS)
def test_what_minari_records_of_cartpole_is_what_the_shards_hold(home: Path, tmp_path: Path, data_format: str) -> None:
    given = list(recorded(gymnasium.make("CartPole-v1"), "cartpole/random-v0", data_format))
    found = converted(partial(Minari, "cartpole/random-v0"), tmp_path / "out", "CartPole-v1")
    assert len(found) == len(given) == 3
    for here, there in zip(found, given, strict=True):
        np.testing.assert_array_equal(here["observation/observation"], there.observations[:-1])
        np.testing.assert_array_equal(here["action"], there.actions)
        np.testing.assert_array_equal(here["reward"], there.rewards)
        ends = bool(there.terminations[-1]), bool(there.truncations[-1])
        assert (here["terminated"][0], here["truncated"][0]) == ends
    assert [episode["seed"][0] for episode in found] == [0, 1, 2]
    spec = build_index(tmp_path / "out").spec
    assert (spec.name, spec.action) == ("CartPole-v1", Discrete((2,)))
    assert isinstance(spec.observation["observation"], Vector)


@pytest.mark.parametrize("data_format", FORMATS)
def test_nested_spaces_and_pictures(home: Path, tmp_path: Path, data_format: str) -> None:
    env = Toy()
    data = recorded(env, "toy-v0", data_format)
    found = converted(partial(Minari, home / "toy-v0"), tmp_path / "out", "toy")
    spec = build_index(tmp_path / "out").spec
    assert spec.observation["goal"] == Discrete((5,)) and spec.action == Discrete((6,))
    assert spec.observation["arm_part1"] == Discrete((2, 2, 2)) and spec.observation["grid"] == Discrete((3, 4, 5, 6))
    assert (spec.observation["camera"], spec.observation["big"]) == (Image(3, 8, 10), Image(1, 40, 33))
    shown = [env.seen[begin : begin + 5] for begin in (0, 6, 12)]  # the sixth is the last, on which nothing was done
    for here, seen, episode in zip(found, shown, data, strict=True):
        for step, there in enumerate(seen):
            assert here["observation/goal"][step] == there["goal"] - 2
            np.testing.assert_array_equal(
                here["observation/arm_part0"][step], there["arm"][0].ravel().astype(np.float32)
            )
            np.testing.assert_array_equal(here["observation/arm_part1"][step], there["arm"][1])
            np.testing.assert_array_equal(here["observation/grid"][step], there["grid"].ravel())
            np.testing.assert_array_equal(here["observation/camera"][step], there["camera"].transpose(2, 0, 1))
            action = episode.actions[step] - [1, 0]
            assert here["action"][step] == action[0] * 3 + action[1]
        np.testing.assert_array_equal(here["observation/big"][:, 0], episode.observations["big"][:5])  # as JPEG has it


SPACES = (
    spaces.Box(0, 255, (3, 8, 9), np.uint8), spaces.Box(0, 255, (8, 9, 1), np.uint8),
    spaces.Box(0, 255, (7, 7), np.uint8), spaces.Box(0, 9, (7, 7), np.uint8), spaces.Box(0, np.inf, (2, 3), np.float32),
    spaces.Discrete(4, start=-2),
    spaces.MultiBinary([2, 2]), NESTED, spaces.Tuple((spaces.Discrete(2), spaces.Dict({"a b": spaces.Discrete(3)}))),
)  # fmt: skip


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_is_the_same_task_for_data_as_for_an_environment(space: spaces.Space[Any]) -> None:
    ours = pytest.importorskip("envs.spaces")
    described = json.loads(minari.serialization.serialize_space(space))
    found = leaves(described)
    parts = ours.parts_of(space)
    assert {leaf.name: leaf.field for leaf in found} == {part.name: part.field for part in parts}
    space.seed(0)
    for value in (space.sample() for _ in range(5)):
        for leaf, part in zip(found, parts, strict=True):
            shown = value
            for key in leaf.path:
                shown = shown[key]
            np.testing.assert_array_equal(
                leaf.stored(np.asarray(shown)[None])[0].astype(part.of(value).dtype), part.of(value)
            )


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4, start=3), spaces.MultiDiscrete([2, 3], start=[1, 0]), spaces.MultiBinary(3),
        spaces.Box(-1, 2, (2,)), spaces.Box(-np.inf, 1, (2, 2)),
    ],
    ids=str,
)  # fmt: skip
def test_an_action_is_the_one_that_an_environment_takes_for_it(space: spaces.Space[Any]) -> None:
    ours = pytest.importorskip("envs.spaces").action_of(space)
    leaf = action_leaf(json.loads(minari.serialization.serialize_space(space)))
    assert leaf.action_field == ours.field
    space.seed(0)
    for value in (space.sample() for _ in range(5)):
        choice = leaf.stored_action(np.asarray(value)[None])[0]
        np.testing.assert_array_equal(ours.give(choice)[0], value)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("task", ["spec", "plain_spec"])
def test_shards_come_back_from_minari_bit_for_bit(
    home: Path, tmp_path: Path, data_format: str, task: str, episode: Any, request: pytest.FixtureRequest
) -> None:
    spec = replace(request.getfixturevalue(task), horizon=77)
    if task == "plain_spec":  # one part alone, of choices; and pictures that have more channels than columns
        spec = replace(spec, observation={"observation": Discrete((3,))})
    given = [episode(spec, steps, seed) for seed, steps in enumerate((5, 1, 9))]
    given[1].terminated = given[1].truncated = True
    write_shard(tmp_path / "in" / "shard-00000.h5", spec, given[:2], {}, seeds=[7, -1])
    write_shard(tmp_path / "in" / "shard-00001.h5", spec, given[2:], {}, seeds=[1 << 40])
    path = write(tmp_path / "in", home, data_format)
    assert path == home / f"{spec.name}-v0" and [p.name for p in home.iterdir()] == [path.name]

    found = converted(partial(Minari, f"{spec.name}-v0"), tmp_path / "out", spec.name, normalise=False)
    for here, there in zip(found, stored(tmp_path / "in"), strict=True):
        assert here.keys() == there.keys()
        for key, values in there.items():
            assert here[key].dtype == values.dtype and here[key].tobytes() == values.tobytes(), key
    assert task_of(tmp_path / "out") == spec

    data = minari.load_dataset(f"{spec.name}-v0")  # and Minari reads what it wrote
    assert [len(one.rewards) for one in data] == [5, 1, 9] and data[2].terminations.tolist()[-1] == given[2].terminated
    assert data.observation_space.contains(data.observation_space.sample())
    with pytest.raises(ReadError, match=r"found a data set of before, expected nothing; delete it"):
        write(tmp_path / "in", home)


def test_pictures_keep_their_channels(
    home: Path, tmp_path: Path, episode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = TaskSpec("narrow", {"thin": Image(3, 9, 2), "wide": Image(3, 2, 9)}, Discrete((2,)))
    write_shard(tmp_path / "in" / "shard-00000.h5", spec, [episode(spec, 4)], {})
    assert write("in", "minari") == home / "narrow-v0"
    (found,), (given,) = converted(partial(Minari, "narrow-v0"), tmp_path / "out", "narrow"), stored(tmp_path / "in")
    for part in spec.observation:
        np.testing.assert_array_equal(found[f"observation/{part}"], given[f"observation/{part}"])
    flat = TaskSpec("flat", {"both": Image(3, 2, 2)}, Discrete((2,)))
    write_shard(tmp_path / "flat" / "shard-00000.h5", flat, [episode(flat, 4)], {})
    with pytest.raises(ReadError, match=r"both: found pictures of \[3, 2, 2\], expected more pixels than channels"):
        write(tmp_path / "flat", home)
    assert not (home / "flat-v0").exists()
