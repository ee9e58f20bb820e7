"""TaskSpec: what is written is read back, and what is malformed is refused with a sentence."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elmur.spec import Discrete, Image, SpecError, TaskSpec, Vector

number = st.floats(-1e6, 1e6, allow_nan=False)
discrete = st.lists(st.integers(1, 99), min_size=1, max_size=4).map(lambda sizes: Discrete(tuple(sizes)))
image = st.builds(Image, st.integers(1, 9), st.integers(1, 128), st.integers(1, 128))


@st.composite
def vector(draw: st.DrawFn) -> Vector:
    size = draw(st.integers(1, 5))
    numbers = st.none() | st.lists(number, min_size=size, max_size=size).map(tuple)
    return Vector(size, *(draw(numbers) for _ in range(4)))


spec = st.builds(
    TaskSpec,
    name=st.text(max_size=20),
    observation=st.dictionaries(st.text(min_size=1, max_size=9), discrete | image | vector(), min_size=1, max_size=4),
    action=vector() | st.integers(1, 50).map(lambda n: Discrete((n,))),
    horizon=st.none() | st.integers(1, 10**6),
)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(spec)
def test_json_gives_back_what_was_written(written: TaskSpec) -> None:
    text = written.to_json()
    assert "\n" not in text
    read = TaskSpec.from_json(text)
    assert read == written
    assert list(read.observation) == list(written.observation), "the order of the parts is kept"
    assert read.differences(written) == []


GOOD = TaskSpec("t", {"a": Vector(2), "b": Discrete((3, 4))}, Discrete((5,)))


def test_shapes_are_those_of_one_step() -> None:
    assert Discrete((3, 4)).shape == (2,)
    assert Vector(7).shape == (7,)
    assert Image(6, 32, 48).shape == (6, 32, 48)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Discrete(()), "at least one component"),
        (lambda: Discrete((3, 0)), "size 1 or more"),
        (lambda: Vector(0), "size 1 or more"),
        (lambda: Vector(2, low=(0.0,)), "Vector.low needs 2 numbers; found 1"),
        (lambda: Vector(1, std=(1.0, 2.0)), "Vector.std needs 1 numbers; found 2"),
        (lambda: TaskSpec("t", {}, Discrete((2,))), "at least one part"),
        (lambda: TaskSpec("t", {"a": Vector(1)}, Discrete((2, 3))), "a discrete action is one choice"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says) -> None:
    with pytest.raises(SpecError, match=says):
        make()


def changed(**changes: object) -> str:
    return json.dumps({**json.loads(GOOD.to_json()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "{}",
        changed(action={"kind": "image", "channels": 1, "height": 8, "width": 8}),
        changed(action={"kind": "smell"}),
        changed(action={"kind": "vector"}),
        changed(action={"kind": "vector", "size": 2, "colour": 3}),
        changed(action={"size": 2}),
        changed(observation={}),
        changed(observation=[1]),
    ],
)
def test_json_of_anything_else_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="not a TaskSpec in JSON"):
        TaskSpec.from_json(text)


def test_differences_name_the_part_what_was_expected_and_what_was_found() -> None:
    other = TaskSpec("u", {"a": Vector(3), "c": Image(3, 8, 8)}, Vector(5))
    assert GOOD.differences(other) == [
        "observation 'a': expected vector[2], found vector[3]",
        "observation 'b': expected discrete[3, 4], found nothing",
        "observation 'c': expected nothing, found image[3, 8, 8]",
        "action: expected discrete[5], found vector[5]",
    ]


def test_statistics_and_horizon_are_no_difference() -> None:
    other = TaskSpec("u", {"a": Vector(2, mean=(1.0, 2.0), std=(1.0, 1.0)), "b": Discrete((3, 4))}, Discrete((5,)), 9)
    assert GOOD.differences(other) == []
