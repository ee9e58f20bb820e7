"""Spaces as parts: every value of a space comes through, and what cannot is refused by name."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import iterate

from elmur.baselines.recurrent import GRU
from elmur.policy import StreamingPolicy
from elmur.spaces import Spaces
from elmur.spec import Discrete, Image, Vector
from elmur.testing import made
from envs.spaces import SpaceError, action_of, parts_of

NESTED = spaces.Dict(
    {
        "arm": spaces.Dict({"joints": spaces.Box(-1.0, 1.0, (2, 3)), "mode": spaces.Discrete(4, start=-2)}),
        "pair": spaces.Tuple((spaces.MultiBinary(3), spaces.MultiDiscrete([2, 5], start=[1, 0]))),
        "left eye": spaces.Box(0, 255, (8, 6, 3), np.uint8),
        "grey": spaces.Box(0, 255, (8, 6), np.uint8),
        "stacked": spaces.Box(0, 255, (4, 8, 6), np.uint8),
        "ram": spaces.Box(0, 255, (5,), np.uint8),
        "free": spaces.Box(-np.inf, np.inf, (), np.float64),
    }
)


def test_a_nested_observation_has_a_part_for_each_leaf() -> None:
    fields = {part.name: part.field for part in parts_of(NESTED)}
    assert fields == {
        "arm_joints": Vector(6, (-1.0,) * 6, (1.0,) * 6),
        "arm_mode": Discrete((4,)),
        "free": Vector(1),
        "grey": Image(1, 8, 6),
        "left_eye": Image(3, 8, 6),
        "pair_part0": Discrete((2, 2, 2)),
        "pair_part1": Discrete((2, 5)),
        "ram": Vector(5, (0.0,) * 5, (255.0,) * 5),
        "stacked": Image(4, 8, 6),
    }


def test_what_is_shown_comes_through() -> None:
    """Each value stands where it is in the observation, told apart by its number."""
    shown: dict[str, Any] = {
        "arm": {"joints": np.arange(6, dtype=np.float32).reshape(2, 3), "mode": np.int64(-2)},
        "pair": (np.array([0, 1, 1], np.int8), np.array([2, 4])),
        "left eye": np.arange(144, dtype=np.uint8).reshape(8, 6, 3),
        "grey": np.arange(48, dtype=np.uint8).reshape(8, 6),
        "stacked": np.arange(192, dtype=np.uint8).reshape(4, 8, 6),
        "ram": np.array([0, 1, 2, 254, 255], np.uint8),
        "free": np.array(0.5),
    }
    read = {part.name: part.of(shown) for part in parts_of(NESTED)}
    assert read["arm_joints"].tolist() == [0, 1, 2, 3, 4, 5] and read["arm_mode"].tolist() == [0]
    assert read["pair_part0"].tolist() == [0, 1, 1] and read["pair_part1"].tolist() == [1, 4]
    for channel, y, x in itertools.product(range(3), range(8), range(6)):
        assert read["left_eye"][channel, y, x] == (y * 6 + x) * 3 + channel
    assert read["grey"][0, 7, 5] == 47 and read["stacked"][3, 7, 5] == 191
    assert read["ram"].tolist() == [0, 1, 2, 254, 255] and read["free"].tolist() == [0.5]
    for part in parts_of(NESTED):
        assert read[part.name].shape == part.field.shape


@pytest.mark.parametrize(
    ("space", "without", "said"),
    [
        (spaces.Dict({"mission": spaces.Text(9), "x": spaces.Discrete(2)}), (), "'mission': Text"),
        (spaces.Graph(spaces.Discrete(2), None), (), "'observation': Graph"),
        (spaces.Dict({"all": spaces.Sequence(spaces.Discrete(2))}), (), r"'all': Sequence.*env.make.without=\[all\]"),
        (spaces.Box(0, 1, (0,)), (), "holds no number"),
        (spaces.Dict({"a b": spaces.Discrete(2), "a_b": spaces.Discrete(2)}), (), "two parts are called 'a_b'"),
        (spaces.Discrete(2), ("x",), "no part 'x'; it has observation"),
        (spaces.Discrete(2), ("observation",), "at least one part must stay"),
    ],
)
def test_what_cannot_be_carried_is_named(space: Any, without: tuple[str, ...], said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        parts_of(space, without)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete(np.array([[2, 3], [2, 1]])),
        spaces.MultiDiscrete([2, 3], start=[4, -1]),
        spaces.MultiBinary(3),
    ],
    ids=str,
)
def test_a_choice_is_each_action_of_a_discrete_space_once(space: Any) -> None:
    action = action_of(space)
    assert isinstance(action.field, Discrete)
    given = [action.give(choice)[0] for choice in range(action.field.sizes[0])]
    assert all(space.contains(value) for value in given)
    sizes = np.asarray(getattr(space, "nvec", None) if hasattr(space, "nvec") else space.n)
    expected = 2**3 if isinstance(space, spaces.MultiBinary) else int(sizes.prod())
    assert len({np.asarray(value).tobytes() for value in given}) == expected == action.field.sizes[0]


def test_an_action_outside_a_box_is_moved_to_its_bounds() -> None:
    action = action_of(spaces.Box(np.array([[-1.0, 0.0]], np.float32), np.array([[1.0, 2.0]], np.float32)))
    assert action.field == Vector(2, (-1.0, 0.0), (1.0, 2.0))
    given, moved = action.give(np.array([-3.0, 1.5], np.float32))
    assert given.tolist() == [[-1.0, 1.5]] and moved
    given, moved = action.give(np.array([0.25, 2.0], np.float32))
    assert given.tolist() == [[0.25, 2.0]] and not moved


@pytest.mark.parametrize("bound", [0.1, 0.3, 0.7, 1.4])
def test_an_action_at_a_bound_that_float32_rounds_is_not_moved(bound: float) -> None:
    action = action_of(spaces.Box(-bound, bound, (1,), np.float64))
    for end in (-bound, bound):
        given, moved = action.give(np.array([end], np.float32))
        assert abs(given[0]) <= bound and not moved
        assert action.give(np.nextafter(np.array([end], np.float32), np.float32(2 * end)))[1]


def test_bounds_that_are_further_apart_than_a_float_can_tell_are_none() -> None:
    most = float(np.finfo(np.float32).max)
    for low, high, is_bound in ((-most, most, False), (-most / 2, most / 2, True), (0.0, most, True)):
        assert (action_of(spaces.Box(low, high, (2,))).field == Vector(2)) != is_bound
    assert action_of(spaces.Box(-1e300, 1e300, (2,), np.float64)).field == Vector(2)
    seen = parts_of(spaces.Box(-most, most, (1,)))[0].field
    assert seen == Vector(1, (-most,), (most,)), "nothing is computed from those of an observation"


class Fixed(gymnasium.Env[Any, Any]):
    """Shows what its space draws, and takes none but its own actions, which it remembers."""

    def __init__(self, observation: Any, action: Any) -> None:
        self.observation_space, self.action_space, self.taken = observation, action, list[Any]()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.taken.append(np.ravel(action).tolist())
        return self.observation_space.sample(), 0.0, False, False, {}


OWN = {
    "start": (spaces.Discrete(3, start=-1), spaces.Discrete(3, start=1), [[1], [2], [3]]),
    "several": (
        spaces.MultiBinary((2, 2)), spaces.MultiDiscrete([2, 2], start=[4, -1]), [[4, -1], [4, 0], [5, -1], [5, 0]],
    ),
    "bits": (spaces.Box(0, 255, (3, 5, 3), np.uint8), spaces.MultiBinary(2), [[0, 0], [0, 1], [1, 0], [1, 1]]),
    "nested": (NESTED, spaces.Discrete(2), [[0], [1]]),
    "numbers": (spaces.Box(-1, 1, (2,), np.float64), spaces.Box(-1, 2, (1, 2), np.int64), None),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_a_policy_acts_in_a_vector_environment_by_its_own_values(name: str) -> None:
    observation, action, values = OWN[name]
    env = gymnasium.vector.SyncVectorEnv([partial(Fixed, observation, action)] * 3)
    between = Spaces(name, env.single_observation_space, env.single_action_space)
    policy = StreamingPolicy(made(partial(GRU, d_model=8), between.spec), context_length=4)
    policy.start(3)
    seen, _ = env.reset()
    for number in range(5):
        parts = between.seen(seen)
        alone = [{part.name: part.of(one) for part in between.parts} for one in iterate(env.observation_space, seen)]
        for part, found in parts.items():
            np.testing.assert_array_equal(found, np.stack([one[part] for one in alone]).astype(found.dtype))
        chosen = policy.act(parts, np.full(3, number == 0))
        seen, *_ = env.step(between.given(chosen))
        wished = [np.clip(np.rint(one), -1, 2).tolist() if values is None else values[int(one)] for one in chosen]
        assert [one.taken[-1] for one in env.envs] == wished  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))), "action: Tuple"),
        (spaces.MultiBinary(13), "8,192 combinations.*at most 4,096"),
        (spaces.Text(3), "action: Text"),
    ],
)
def test_an_action_that_cannot_be_carried_is_named(space: Any, said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        action_of(space)
