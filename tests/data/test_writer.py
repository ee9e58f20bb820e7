"""Arrays in memory become a collection: what comes out of the shards, what is inferred, what is refused and how."""

from __future__ import annotations

import contextlib
import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.collection import COLLECTION, LOCK, Collection
from data.index import build_index
from data.shard import Shard, ShardError
from data.writer import ShardWriter
from elmur.spec import Discrete, Image, TaskSpec, Vector

RNG = np.random.default_rng(0)


def recording(steps: int) -> dict[str, Any]:
    """Every kind of array, as a person has them: channels last, float64, one more observation than actions."""
    seen = {
        "state": RNG.normal(size=(steps + 1, 2, 2)),
        "touch": RNG.random((steps + 1, 3)) < 0.5,
        "camera": RNG.integers(256, size=(steps + 1, 6, 5, 3), dtype=np.uint8),
        "grey": RNG.integers(256, size=(steps + 1, 6, 5), dtype=np.uint8),
        "word": RNG.integers(7, size=steps + 1),
    }
    over = np.arange(steps) == steps - 1
    return {"observation": seen, "action": RNG.integers(4, size=steps), "reward": RNG.normal(size=steps),
            "terminated": over}  # fmt: skip


def test_what_is_read_is_what_was_appended(tmp_path: Path) -> None:
    given = [recording(steps) for steps in (3, 1, 8)]
    given[0]["action"][0] = 3  # the first shard says how many there are
    given[0]["observation"]["word"][0] = 6
    with ShardWriter(tmp_path / "mine", shard_bytes=1) as writer:
        for arrays in given:
            buffers = copy.deepcopy(arrays)
            writer.append(**buffers, seed=5)
            buffers["observation"]["state"][:] = buffers["action"][:] = 0  # which are used again
    index = build_index(tmp_path / "mine")
    assert len(index.paths) == 3 and index.lengths.tolist() == [3, 1, 8]
    assert (writer.spec.name, writer.spec.action) == ("mine", Discrete((4,)))  # type: ignore[union-attr]
    kinds = index.spec.observation
    assert (kinds["camera"], kinds["grey"]) == (Image(3, 6, 5), Image(1, 6, 5))
    assert kinds["word"].shape == (1,) and kinds["touch"] == Discrete((2, 2, 2))
    for number, arrays in enumerate(given):
        with Shard(index.paths[number]) as shard:
            steps = len(arrays["action"])
            seen = {name: values[:steps] for name, values in arrays["observation"].items()}
            expected = {
                "observation/state": seen["state"].reshape(steps, 4).astype(np.float32),
                "observation/touch": seen["touch"],
                "observation/camera": seen["camera"].transpose(0, 3, 1, 2),
                "observation/grey": seen["grey"][:, None],
                "observation/word": seen["word"][:, None],
                "action": arrays["action"],
                "reward": arrays["reward"].astype(np.float32),
                "loss_mask": np.ones(steps, bool),
            }
            for key, values in expected.items():
                np.testing.assert_array_equal(shard.read(key, 0, steps), values, key)
            assert shard.read("terminated", 0, 1) == [True] and shard.read("truncated", 0, 1) == [False]
            assert shard.read("seed", 0, 1) == [5] and "created" in shard.attribute("provenance")


def test_vectors_are_normalised_by_all_shards(tmp_path: Path) -> None:
    rows = RNG.normal(3.0, 2.0, size=(30, 2)).astype(np.float32)
    with ShardWriter(tmp_path / "mine", shard_bytes=200) as writer:
        for begin in range(0, 30, 10):
            writer.append(rows[begin : begin + 10], np.zeros((10, 1), np.float32), np.zeros(10))
    index = build_index(tmp_path / "mine")
    part = index.spec.observation["observation"]
    assert isinstance(part, Vector) and len(index.paths) > 1
    np.testing.assert_allclose(part.mean, rows.mean(axis=0), rtol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(part.std, rows.std(axis=0), rtol=1e-5)  # type: ignore[arg-type]
    assert index.spec.action == Vector(1), "numbers have no bounds that nobody gave"


GOOD: dict[str, Any] = {"observation": np.zeros((4, 2), np.float32), "action": np.zeros(4, int), "reward": np.zeros(4)}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "objects": ({"observation": np.array([{"a": 1}] * 4)}, r"observation/observation: found object \[4\] in episode 1"),
    "text": ({"action": ["left"] * 4}, r"action: found <U4 \[4\] in episode 1, expected an array of numbers"),
    "unequal": ({"reward": [[1], [1, 2], [1], [1]]}, "reward: found rows of unequal size in episode 1"),
    "short": ({"reward": np.zeros(3)}, "reward: found 3 steps in episode 1, expected 4, as many as actions"),
    "empty": ({"action": np.zeros(0, int)}, "action: found no step in episode 1, expected one step or more"),
    "two_ends": ({"terminated": [0, 1, 0, 1]}, "terminated: found the end of the episode at step 1 of 4 in episode 1"),
    "wider": ({"observation": np.zeros((4, 3), np.float32)}, r"found numbers \[T, 3\] in episode 1, expected numbers "
              r"\[T, 2\], as in the episodes before"),
    "other": ({"observation": {"state": np.zeros((4, 2))}}, "parts: found action, observation/state in episode 1"),
    "kind": ({"action": np.zeros(4)}, r"action: found numbers \[T\] in episode 1, expected integers \[T\]"),
    "negative": ({"action": np.full(4, -1)}, "action: found the integer -1 in episode 1, expected choices from 0 up; "),
    "nan": ({"observation": np.full((4, 2), np.nan)}, r"observation: found \[nan, nan\] in episode 1, step 0"),
    "huge": ({"reward": np.full(4, 1e300)}, "reward: found inf in episode 1, step 0, expected finite numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_episode_that_does_not_fit_is_refused_and_nothing_stays(tmp_path: Path, case: str) -> None:
    change, words = REFUSED[case]
    with pytest.raises(ShardError, match=words) as caught, ShardWriter(tmp_path / "mine") as writer:
        writer.append(**GOOD)
        writer.append(**{**GOOD, **change})
    assert str(caught.value).startswith(f"shard {tmp_path / 'mine'}, ") and ";" in str(caught.value)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [".collecting"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action": np.full(4, 9999)}, "found the integer 9999 in episode 1, expected choices below 4096; use float32"),
        ({"action": np.zeros((4, 2), int)}, r"found integers \[T, 2\] in episode 1, expected one choice .*ravel_multi"),
        ({"observation": np.zeros((4, 9, 9, 9), np.uint8)}, "expected 1, 3 or 4 channels, .*; give a TaskSpec"),
        ({"observation": {"a/b": np.zeros(4)}}, "'a/b' cannot name a data set"),
    ],
)
def test_what_is_no_task_of_ours_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words), ShardWriter(tmp_path / "mine") as writer:
        writer.append(**{**GOOD, **change})


def test_a_given_task_decides(tmp_path: Path) -> None:
    spec = TaskSpec("grid", {"observation": Discrete((9, 9))}, Vector(1, (-1.0,), (1.0,)))
    arrays: dict[str, Any] = {"observation": np.zeros((4, 2), np.int8), "action": np.zeros((4, 1)), "reward": [0] * 4}
    with ShardWriter(tmp_path / "mine", spec) as writer:
        writer.append(**arrays)
    assert build_index(tmp_path / "mine").spec == spec
    with (
        pytest.raises(
            ShardError, match=r"action: found \[2\.\] in episode 0, step 0, expected numbers within \[-1\.0\]"
        ),
        ShardWriter(tmp_path / "other", spec) as writer,
    ):
        writer.append(**{**arrays, "action": np.full((4, 1), 2.0)})
    with (
        pytest.raises(ShardError, match="observation/more: found a part that the task has not, in episode 0"),
        ShardWriter(tmp_path / "other", spec) as writer,
    ):
        writer.append(**{**arrays, "observation": {"observation": np.zeros((4, 2), int), "more": np.zeros(4)}})


def test_what_comes_after_the_first_shard_must_fit_what_was_inferred_from_it(tmp_path: Path) -> None:
    with (
        pytest.raises(
            ShardError, match=r"action: found 2 in episode 1, step 0, .* inferred from the episodes before, give"
        ),
        ShardWriter(tmp_path / "mine", shard_bytes=1) as writer,
    ):
        writer.append(**GOOD)
        writer.append(**{**GOOD, "action": np.full(4, 2)})
    assert not list((tmp_path / "mine").glob("*.h5"))


def test_an_unfinished_collection_is_not_read_and_a_finished_one_not_overwritten(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "mine", shard_bytes=1)
    writer.append(**GOOD)
    assert len(list((tmp_path / "mine").glob("*.h5"))) == 1
    with pytest.raises(ShardError, match=r"1 of 2 shards .* expected a finished collection"):
        build_index(tmp_path / "mine")
    writer.close()
    assert len(build_index(tmp_path / "mine")) == 1
    with pytest.raises(ShardError, match="1 shards of before, expected a new or an empty folder; delete it"):
        ShardWriter(tmp_path / "mine")
    with ShardWriter(tmp_path / "mine", replace=True) as writer:
        writer.append(**GOOD)
        writer.append(**GOOD)
    assert len(build_index(tmp_path / "mine")) == 2
    with pytest.raises(ShardError, match="episodes: found none"), ShardWriter(tmp_path / "none"):
        pass


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for its lock."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != LOCK}


@pytest.mark.parametrize("has_record", [True, False])
def test_what_was_to_be_replaced_is_back_where_it_is_not(tmp_path: Path, has_record: bool) -> None:
    folder = tmp_path / "mine"
    with ShardWriter(folder, shard_bytes=1) as writer:
        for _ in range(3):
            writer.append(**GOOD)
    if not has_record:
        (folder / COLLECTION).unlink()
    before = content(folder)
    with pytest.raises(ShardError, match="reward"), ShardWriter(folder, shard_bytes=1, replace=True) as writer:
        writer.append(**GOOD)
        with pytest.raises(ShardError, match=r"the shards that it was to replace are in .*/mine/replaced"):
            build_index(folder)
        assert {f"replaced/{name}" for name in before} < content(folder).keys()
        writer.append(**{**GOOD, "reward": np.full(4, np.nan)})
    assert content(folder) == before
    with ShardWriter(folder, replace=True) as writer:
        writer.append(**GOOD)
    assert len(build_index(folder)) == 1 and content(folder).keys() == {"shard-00000.h5", COLLECTION}


CHANGES = (
    (Path, "mkdir"), (Path, "rename"), (Path, "replace"), (Path, "unlink"), (shutil, "copy2"), (shutil, "rmtree"),
    (Collection, "write"),
)  # fmt: skip


class Killed(BaseException):
    """Where a process ends."""


@pytest.mark.parametrize("goes_back", [True, False])
def test_a_killed_writer_has_lost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_back: bool) -> None:
    """Killed before each change of the folder, on the way there or back: the next writer finds the old or the new."""
    whole = []
    for allowed in range(20):
        folder, left = tmp_path / str(allowed), 1000 if goes_back else allowed

        def counted(real: Any) -> Any:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return real(*args, **options)

            return call

        with ShardWriter(folder, shard_bytes=1) as writer:
            writer.append(**GOOD)
            writer.append(**GOOD)
        old = content(folder)
        with monkeypatch.context() as patched:
            for where, name in CHANGES:
                patched.setattr(where, name, counted(getattr(where, name)))
            with contextlib.suppress(Killed):
                writer = ShardWriter(folder, shard_bytes=1, replace=True)
                writer.append(**GOOD)
                left = allowed if goes_back else left
                writer._discard() if goes_back else writer.close()
        writer._open.close()
        with contextlib.suppress(ZeroDivisionError), ShardWriter(folder, replace=True):
            raise ZeroDivisionError
        assert content(folder) == old or content(folder).keys() == {"shard-00000.h5", COLLECTION}
        whole.append(content(folder) == old)
    assert whole == [True] * 20 if goes_back else whole == sorted(whole, reverse=True), (
        "the new, when they are all there"
    )
    assert goes_back or not whole[-1]
