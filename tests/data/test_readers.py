"""Episodes of other formats, written by the formats' own libraries, come out of the shards as they went in."""

from __future__ import annotations

import contextlib
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import PIL.Image
import pytest

from data.columns import Array
from data.convert import ConvertError, convert
from data.index import build_index
from data.readers.lerobot import LeRobot
from data.readers.npz import NpzFolder
from data.readers.robomimic import Robomimic
from data.shard import Shard
from data.writer import ShardWriter
from elmur.spaces import Spaces
from elmur.spec import Discrete, Image, TaskSpec, Vector

LENGTHS = (4, 7, 1)


def episodes(seed: int = 0) -> list[dict[str, Any]]:
    """Episodes as a robot has them: numbers, pictures, an action of two numbers."""
    rng = np.random.default_rng(seed)
    return [
        {
            "state": rng.normal(size=(steps, 3)).astype(np.float32),
            "camera": rng.integers(256, size=(steps, 48, 64, 3), dtype=np.uint8),
            "action": rng.normal(size=(steps, 2)).astype(np.float32),
            "reward": rng.normal(size=steps).astype(np.float32),
            "done": np.arange(steps) == steps - 1,
        }
        for steps in LENGTHS
    ]


def stored(root: Path) -> list[dict[str, Array]]:
    """Every episode of a collection, column by column."""
    index, found = build_index(root), []
    for number in range(len(index)):
        with Shard(index.paths[index.shard[number]]) as shard:
            begin, row = int(index.offset[number]), int(np.searchsorted(shard.offsets, index.offset[number]))
            found.append(
                {
                    key: shard.read(key, row, row + 1) if column.per_episode
                    else shard.read(key, begin, begin + int(index.lengths[number]))
                    for key, column in shard.columns.items()
                }
            )  # fmt: skip
    return found


def converted(reader: Any, root: Path, name: Any = "mine", **options: Any) -> list[dict[str, Array]]:
    convert(reader, root, "there", name, progress=False, **options)
    return stored(root)


def same(found: list[dict[str, Array]], given: list[dict[str, Any]], **keys: str) -> None:
    """column=name: the column holds what was given under the name."""
    assert len(found) == len(given)
    for here, there in zip(found, given, strict=True):
        for column, name in keys.items():
            column = column.replace("__", "/")
            values = there[name].transpose(0, 3, 1, 2) if there[name].ndim == 4 else there[name]
            np.testing.assert_array_equal(here[column], values, column)


def test_a_folder_of_npz_is_read_by_the_names_that_are_given(tmp_path: Path) -> None:
    given = episodes()
    for number, arrays in zip((0, 2, 10), given, strict=True):  # in the order of the numbers
        np.savez_compressed(tmp_path / f"run_{number}.npz", s=arrays["state"], c=arrays["camera"], a=arrays["action"],
                            r=arrays["reward"], over=arrays["done"], note=np.array(1))  # fmt: skip
    reader = partial(NpzFolder, tmp_path, {"joints": "s", "eye": "c"}, "a", "r", terminated="over")
    found = converted(reader, tmp_path / "out")
    same(found, given, observation__joints="state", observation__eye="camera", action="action", reward="reward")
    assert all(episode["terminated"] == [True] and episode["truncated"] == [False] for episode in found)
    spec = build_index(tmp_path / "out").spec
    assert spec.observation["eye"] == Image(3, 48, 64) and isinstance(spec.observation["joints"], Vector)
    assert spec.observation["joints"].mean is not None and spec.horizon == max(LENGTHS)
    with Shard(tmp_path / "out" / "shard-00000.h5") as shard:
        about = shard.attribute("provenance")
    assert about["converted"] == "there" and about["reader"]["call"] == "data.readers.npz.NpzFolder"


def test_a_folder_is_converted_again_by_the_same_reader_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same is the same from every working directory; a relative path elsewhere leads to other files."""
    for place in ("one", "two"):
        (tmp_path / place / "mine").mkdir(parents=True)
        np.savez(tmp_path / place / "mine" / "0.npz", a=np.zeros((3, 1)), b=np.ones((3, 2)), action=[0, 1, 2])

    def convert_in(place: str, source: Path, part: str = "a") -> list[Path]:
        monkeypatch.chdir(tmp_path / place)
        reader = partial(NpzFolder, source=source, observation=part, reward=None)
        return convert(reader, tmp_path / "out", str(source), "mine", progress=False)

    def own(folder: str) -> list[dict[str, Any]]:
        return [{"observation": np.zeros((2, 1)), "action": [0, 1], "reward": None}]

    assert convert_in("one", Path("mine")) == convert_in("two", tmp_path / "one" / "mine")
    with pytest.raises(ConvertError, match=r"holds other data than those of .*two/mine; delete it, or name another"):
        convert_in("two", Path("mine"))
    with pytest.raises(ConvertError, match=r"'observation': 'b'.* read by .*'observation': 'a'.*; delete it, or name"):
        convert_in("one", Path("mine"), "b")
    for folder in ("A", "A", "B"):  # a reader of one's own, which has no source but itself
        known = pytest.raises(ConvertError, match=r"'folder': 'B'.* read by .*'folder': 'A'") if folder == "B" else None
        with known or contextlib.nullcontext():
            convert(partial(own, folder=folder), tmp_path / "own", "myreader.read", "mine", progress=False)


def test_other_parts_than_the_task_has_are_found_before_anything_is_written(tmp_path: Path) -> None:
    spec = TaskSpec("mine", {"a": Vector(2), "b": Vector(2)}, Discrete((3,)))

    def episode(*parts: str) -> dict[str, Any]:
        return {"observation": {part: np.zeros((3, 2)) for part in parts}, "action": [0, 1, 2], "reward": None}

    good, more, other = episode("a", "b"), episode("a", "b", "c"), episode("a", "B")
    assert len(converted(lambda: [good], tmp_path / "out", spec)) == 1
    with pytest.raises(ConvertError, match="episode 1: observation/c: found a part that the task has not") as caught:
        converted(lambda: [good, more, other], tmp_path / "out", spec)
    assert "episode 2: observation/b: found no such part in episode 0, but a, B, expected all parts" in str(
        caught.value
    )
    assert "reader.observation={PART: NAME}" in str(caught.value)
    assert len(stored(tmp_path / "out")) == 1, "what was there is there"
    assert len(converted(lambda: [good, more, good, other], tmp_path / "out", spec, on_bad_file="skip")) == 2


def test_a_robomimic_file(tmp_path: Path) -> None:
    given, path = episodes(), tmp_path / "low_dim.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift"})
        for number, arrays in zip((0, 2, 10), given, strict=True):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = len(arrays["action"])
            for part in ("state", "camera"):
                demo.create_dataset(f"obs/{part}", data=arrays[part], compression="gzip")
                demo.create_dataset(f"next_obs/{part}", data=arrays[part])
            demo.create_dataset("actions", data=arrays["action"].astype(np.float64))
            demo.create_dataset("rewards", data=arrays["reward"].astype(np.float64))
            demo.create_dataset("dones", data=np.ones(len(arrays["reward"]), np.int64))  # at every step at the goal
        file.create_dataset("mask/train", data=np.array([b"demo_0", b"demo_10"]))
    names = {"observation__state": "state", "observation__camera": "camera", "action": "action", "reward": "reward"}
    found = converted(partial(Robomimic, path), tmp_path / "out")
    same(found, given, **names)
    assert all(episode["terminated"] == [True] for episode in found)
    some = converted(partial(Robomimic, path, observation=["state"], subset="train"), tmp_path / "some")
    same(some, [given[0], given[2]], observation__state="state")
    assert "observation/camera" not in some[0]


def lerobot(root: Path, given: list[dict[str, Any]], video: bool) -> Path:
    """The layout of version 3: two episodes in the first file, the third in another; one video for all."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    steps = [len(arrays["action"]) for arrays in given]
    first = np.concatenate([[0], np.cumsum(steps)])
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
    }
    if video:
        features["observation.images.top"] = {"dtype": "video", "shape": [3, 48, 64], "names": ["c", "h", "w"]}
    info = {"codebase_version": "v3.0", "fps": 10, "features": features, "total_episodes": len(given)}
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    (root / "data" / "chunk-000").mkdir(parents=True)
    files = (0, 0, 1)
    for file in (0, 1):
        rows = [(e, arrays) for e, arrays in enumerate(given) if files[e] == file]
        columns = {
            "observation.state": [row for _, a in rows for row in a["state"].tolist()],
            "action": [row for _, a in rows for row in a["action"].tolist()],
            "next.reward": [float(x) for _, a in rows for x in a["reward"]],
            "next.done": [bool(x) for _, a in rows for x in a["done"]],
            "episode_index": [e for e, a in rows for _ in a["reward"]],
            "task_index": [0 for _, a in rows for _ in a["reward"]],
        }
        kinds = {"observation.state": pa.list_(pa.float32()), "action": pa.list_(pa.float32(), 2)}
        table = pa.table({name: pa.array(column, kinds.get(name)) for name, column in columns.items()})
        pq.write_table(table, root / "data" / "chunk-000" / f"file-00{file}.parquet")
    outline: dict[str, Any] = {
        "episode_index": [0, 1, 2], "length": steps, "tasks": [["reach"]] * 3, "data/chunk_index": [0] * 3,
        "data/file_index": list(files), "dataset_from_index": first[:-1], "dataset_to_index": first[1:],
    }  # fmt: skip
    if video:
        place = "videos/observation.images.top"
        outline |= {f"{place}/chunk_index": [0] * 3, f"{place}/file_index": [0] * 3}
        outline |= {f"{place}/from_timestamp": first[:-1] / 10, f"{place}/to_timestamp": first[1:] / 10}
        write_video(root / "videos" / "observation.images.top" / "chunk-000" / "file-000.mp4", given)
    pq.write_table(pa.table(outline), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    return root


def write_video(path: Path, given: list[dict[str, Any]]) -> None:
    """An mp4 of ten pictures a second, in which only every sixth stands by itself."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size, stream.bit_rate = 64, 48, "yuv420p", 6, 4_000_000
        for arrays in given:
            for pixels in arrays["camera"]:
                video.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        video.mux(stream.encode())


def test_a_lerobot_data_set(tmp_path: Path) -> None:
    given = episodes()
    found = converted(partial(LeRobot, lerobot(tmp_path / "set", given, video=False)), tmp_path / "out")
    same(found, given, observation__state="state", action="action", reward="reward")
    assert all(episode["truncated"] == [True] for episode in found), "nothing says what ended them"
    ended = converted(partial(LeRobot, tmp_path / "set", terminated="next.done"), tmp_path / "ended")
    assert all(episode["terminated"] == [True] for episode in ended)


def test_the_pictures_of_a_lerobot_video_are_those_of_their_steps(tmp_path: Path) -> None:
    pytest.importorskip("av")
    given = episodes()
    number = 0
    for arrays in given:  # a grey of its own for each step, which compression keeps
        for pixels in arrays["camera"]:
            pixels[:] = 20 * number
            number += 1
    found = converted(partial(LeRobot, lerobot(tmp_path / "set", given, video=True)), tmp_path / "out")
    assert build_index(tmp_path / "out").spec.observation["images_top"] == Image(3, 48, 64)
    seen = np.concatenate([episode["observation/images_top"].mean(axis=(1, 2, 3)) for episode in found])
    np.testing.assert_allclose(seen, 20 * np.arange(sum(LENGTHS)), atol=6)


def test_pictures_in_the_table_of_a_lerobot_data_set(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    given, root = episodes(), tmp_path / "set"
    lerobot(root, given, video=False)
    for file, chosen in ((0, given[:2]), (1, given[2:])):
        path = root / "data" / "chunk-000" / f"file-00{file}.parquet"
        rows = [{"bytes": png(pixels), "path": "/etc/hostname"} for arrays in chosen for pixels in arrays["camera"]]
        pq.write_table(pq.read_table(path).append_column("observation.eye", pa.array(rows)), path)
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["observation.eye"] = {"dtype": "image", "shape": [48, 64, 3], "names": ["h", "w", "c"]}
    (root / "meta" / "info.json").write_text(json.dumps(info))
    found = converted(partial(LeRobot, root), tmp_path / "out")
    same(found, given, observation__eye="camera", observation__state="state")


def png(pixels: Array) -> bytes:
    content = io.BytesIO()
    PIL.Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


START = {"type": "Discrete", "n": 3, "start": 1}
PAIR = {"type": "MultiDiscrete", "nvec": [2, 3], "start": [1, -1]}


def test_choices_are_recorded_in_the_values_of_their_environment(tmp_path: Path) -> None:
    """By npz, by the writer, and given to the environment again; what is no value of it is named in its values."""
    shown = {"cue": {"type": "Discrete", "n": 3, "start": -1}, "two": PAIR}
    own = Spaces("mine", {"type": "Dict", "subspaces": shown}, START)
    cue, two, action = np.array([0, 1, -1]), np.array([[1, -1], [2, 1], [1, 0]]), np.array([2, 1, 3])
    np.savez(tmp_path / "0.npz", cue=cue, two=two, action=action)
    reader = partial(NpzFolder, tmp_path, {"cue": "cue", "two": "two"}, reward=None)
    (found,) = converted(reader, tmp_path / "out", own)
    assert found["action"].tolist() == [1, 0, 2] and found["observation/cue"].tolist() == [[1], [2], [0]]
    assert found["observation/two"].tolist() == [[0, 0], [1, 2], [0, 1]]
    np.testing.assert_array_equal(own.given(found["action"]), action)
    with ShardWriter(tmp_path / "written", own) as writer:
        writer.append({"cue": cue, "two": two}, action[:, None], None)
    np.testing.assert_equal(stored(tmp_path / "written"), [found])
    (by_the_task,) = converted(lambda: [{"observation": {"cue": [0], "two": [[1, 2]]}, "action": [0], "reward": None}],
                               tmp_path / "task", own.spec)  # fmt: skip
    assert by_the_task["action"] == [0] and by_the_task["observation/two"].tolist() == [[1, 2]]
    np.savez(tmp_path / "1.npz", cue=cue, two=two, action=[2, 0, 3])
    with pytest.raises(
        ConvertError, match=r"1.npz: action: found \[0\] in step 1, expected Discrete from \[1\] to \[3\]"
    ):
        converted(reader, tmp_path / "out", own)


def test_several_choices_of_an_action_are_recorded_as_such_or_by_their_number(tmp_path: Path) -> None:
    own = Spaces("mine", START, PAIR)
    pairs = [[1, -1], [1, 0], [1, 1], [2, -1], [2, 0], [2, 1]]
    for name, action in (("pairs", pairs), ("numbers", list(range(6)))):
        with ShardWriter(tmp_path / name, own) as writer:
            writer.append(np.full(6, 3), action, None)
        (found,) = stored(tmp_path / name)
        assert found["action"].tolist() == list(range(6)) and found["observation/observation"].tolist() == [[2]] * 6


@pytest.mark.parametrize("shape", [(3, 3, 3), (6, 4, 3), (6, 1, 3), (6, 3, 1), (3, 6, 4), (6, 4), (1, 6, 8), (4, 4)])
@pytest.mark.parametrize("is_told", [True, False])
def test_small_pictures_stand_as_an_environment_shows_them(
    tmp_path: Path, shape: tuple[int, ...], is_told: bool
) -> None:
    """Of which the axis of the channels is told by the rules for spaces: every pixel is looked for by its place."""
    pictures = np.random.default_rng(0).integers(256, size=(4, *shape), dtype=np.uint8)
    box = {"type": "Box", "shape": shape, "dtype": "uint8", "low": np.zeros(shape), "high": np.full(shape, 255)}
    own = Spaces("mine", box, {"type": "Discrete", "n": 2})
    (found,) = converted(lambda: [{"observation": pictures, "action": [0, 1, 0, 1], "reward": None}], tmp_path / "out",
                         own if is_told else "mine")  # fmt: skip
    there = found["observation/observation"]
    for step, *place in np.ndindex(pictures.shape):
        is_first = shape in ((1, 6, 8), (3, 6, 4))
        row, column, channel = [*place[1:], place[0]] if is_first else [*place, 0][:3]
        assert there[step, channel, row, column] == pictures[step, *place]
    np.testing.assert_array_equal(there, own.seen(pictures)["observation"])


def test_pictures_that_are_stored_are_not_turned_again(tmp_path: Path) -> None:
    """A format that tells its task gives what the task has, however its pictures could be read."""
    spec = TaskSpec("mine", {"observation": Image(3, 3, 3)}, Discrete((2,)))
    pictures = np.random.default_rng(0).integers(256, size=(2, 3, 3, 3), dtype=np.uint8)

    class Reader:
        def __init__(self) -> None:
            self.spec, self.made_with = spec, dict[str, str]()

        def __iter__(self) -> Any:
            yield {"observation": pictures, "action": [0, 1], "reward": None}

    for task in ("mine", spec):
        (found,) = converted(Reader, tmp_path / str(type(task)), task)
        np.testing.assert_array_equal(found["observation/observation"], pictures)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_actions_are_clipped_where_they_lie_outside_as_they_are_stored(tmp_path: Path, kind: Any) -> None:
    bound = 1.0 if kind is np.int64 else 0.7
    spec = TaskSpec("mine", {"observation": Vector(1)}, Vector(1, (-bound,), (bound,)))
    action = np.array([bound, -bound, 0, 2, -bound, bound]).astype(kind)[:, None]
    (found,) = converted(lambda: [{"observation": np.zeros((6, 1)), "action": action, "reward": None}],
                         tmp_path / "out", spec)  # fmt: skip
    assert found["action"][:, 0].tolist() == [np.float32(x) for x in (bound, -bound, 0, bound, -bound, bound)]
    with Shard(tmp_path / "out" / "shard-00000.h5") as shard:
        assert shard.attribute("provenance")["clipped_actions"] == 1


def test_choices_are_told_from_numbers(tmp_path: Path) -> None:
    for number in range(2):
        shown = np.arange(6).reshape(3, 2) + number
        np.savez(tmp_path / f"{number}.npz", observation=shown, action=np.array([0, 1, 4]),
                 reward=np.zeros(3))  # fmt: skip
    converted(partial(NpzFolder, tmp_path), tmp_path / "out")
    spec = build_index(tmp_path / "out").spec
    assert (spec.observation["observation"], spec.action) == (Discrete((6, 7)), Discrete((5,)))
