"""Files of other formats that are damaged or were made to do harm: one sentence each, and nothing written or run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data.convert import ConvertError, convert
from data.readers import ReadError
from data.readers.bounded import npz
from data.readers.lerobot import LeRobot
from data.readers.minari import Minari
from data.readers.npz import NpzFolder
from data.readers.robomimic import Robomimic
from tests.data.test_readers import episodes, lerobot


def refused(reader: Callable[[], Any], root: Path, words: str) -> None:
    """The conversion ends in one sentence that has these words."""
    with pytest.raises((ConvertError, ReadError)) as caught:
        convert(reader, root, "there", "mine", progress=False)
    said = str(caught.value)
    assert words in said and "\n" not in said, said
    assert not list(root.glob("*.h5"))


class Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def good(path: Path, **change: Any) -> None:
    arrays = {"observation": np.zeros((4, 2)), "action": np.zeros((4, 1)), "reward": np.zeros(4), **change}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def objects(path: Path) -> None:
    good(path, observation=np.array([Canary(path.with_suffix(".canary"))] * 4, object))


def outside(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere.npz"
    good(elsewhere)
    path.unlink()
    path.symlink_to(elsewhere)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def liar(path: Path) -> None:
    """A header that tells of eight terabytes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    members["reward.npy"] = b"\x93NUMPY\x01\x00v\x00" + header.ljust(117) + b"\n" + b"\0" * 32
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


NPZ: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half a file": (halved, "2.npz: not a whole npz file of numbers"),
    "objects": (objects, "2.npz: not a whole npz file of numbers (Object arrays cannot be loaded"),
    "no reward": (partial(good, reward=None), "2.npz: no array reward; there are observation, action; reader.reward="),
    "too short": (partial(good, reward=np.zeros(3)), "2.npz: reward: found 3 steps, expected 4, as many as actions"),
    "nan": (partial(good, reward=np.full(4, np.nan)), "2.npz: reward: found nan in episode 0, step 0, expected finite"),
    "wider": (partial(good, observation=np.zeros((4, 3))), "2.npz: observation/observation: found numbers [T, 3], "
              "expected numbers [T, 2], as in the episodes before"),
    "a link": (outside, "leads out of"),
    "a pipe": (pipe, "expected an ordinary file, found a pipe"),
    "a liar": (liar, "2.npz: reward: found 32 bytes, expected 8000000000000, for float64 [1000000000000]"),
    "text": (partial(good, action=np.array(["left"] * 4)), "2.npz: action: found <U4 [4], expected an array"),
}  # fmt: skip


@pytest.mark.parametrize("case", NPZ)
def test_npz(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    for number in range(3):
        good(folder / f"{number}.npz")
    harm, words = NPZ[case]
    harm(folder / "2.npz")
    refused(partial(NpzFolder, folder), tmp_path / "out", words)
    assert not list(tmp_path.rglob("*.canary"))


def test_a_small_file_cannot_tell_of_gigabytes(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("action.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (64 << 20,)})
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 17
    with pytest.raises(ReadError, match=r"expected at most 1048576 bytes for an episode of this task, found 67108"):
        npz(tmp_path / "bomb.npz", ["action"], most=1 << 20)
    assert len(npz(tmp_path / "bomb.npz", None)["action"]) == 64 << 20, "Deflate can do that"


def external(demo: Any) -> None:
    del demo["rewards"]
    demo["rewards"] = h5py.ExternalLink("/etc/hostname", "/x")


def soft(demo: Any) -> None:
    del demo["rewards"]
    demo["rewards"] = h5py.SoftLink("/data/demo_0/rewards")


def virtual(demo: Any) -> None:
    del demo["rewards"]
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    demo.create_virtual_dataset("rewards", layout)


def raw(demo: Any) -> None:
    del demo["rewards"]
    demo.create_dataset("rewards", (4,), "f8", external=[("/etc/hostname", 0, 32)])


def empty_chunks(demo: Any) -> None:
    del demo["rewards"]
    demo.create_dataset("rewards", (1 << 33,), "f8", chunks=(1 << 10,))


def strings(demo: Any) -> None:
    del demo["rewards"]
    demo["rewards"] = ["a", "b", "c", "d"]


def gone(demo: Any) -> None:
    del demo["rewards"]


def short(demo: Any) -> None:
    del demo["rewards"]
    demo["rewards"] = np.zeros(3)


HDF5: dict[str, tuple[Callable[[Any], None], str]] = {
    "external": (external, "data/demo_1/rewards: found a ExternalLink"),
    "soft": (soft, "data/demo_1/rewards: found a SoftLink"),
    "virtual": (virtual, "data/demo_1/rewards: found storage outside the file"),
    "raw": (raw, "data/demo_1/rewards: found storage outside the file"),
    "empty": (empty_chunks, "data/demo_1/rewards: found 68719476736 bytes told of in 0, expected at most"),
    "strings": (strings, "data/demo_1/rewards: found object, expected numbers"),
    "gone": (gone, "data/demo_1/rewards: found nothing; there are actions, obs; reader.reward=null stores zeros"),
    "short": (short, "data/demo_1: reward: found 3 steps, expected 4, as many as actions"),
}


def demonstrations(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        for number in range(2):
            demo = file.create_group(f"data/demo_{number}")
            demo["obs/state"], demo["actions"], demo["rewards"] = np.zeros((4, 2)), np.zeros((4, 1)), np.zeros(4)
    return path


@pytest.mark.parametrize("case", HDF5)
def test_robomimic(tmp_path: Path, case: str) -> None:
    path = demonstrations(tmp_path / "demo.hdf5")
    harm, words = HDF5[case]
    with h5py.File(path, "a") as file:
        harm(file["data/demo_1"])
    refused(partial(Robomimic, path), tmp_path / "out", f"1 of 2 episodes are bad: demo.hdf5 data/demo_1: "
            f"{words.removeprefix('data/demo_1: ')}")  # fmt: skip


def test_a_file_that_is_no_hdf5_or_has_no_demonstrations(tmp_path: Path) -> None:
    path = demonstrations(tmp_path / "demo.hdf5")
    halved(path)
    refused(partial(Robomimic, path), tmp_path / "out", f"{path}: not a whole HDF5 file")
    with h5py.File(path, "w") as file:
        file["data/other"] = np.zeros(3)
    refused(partial(Robomimic, path), tmp_path / "out", f"{path}: expected groups data/demo_<number>, found none")
    path.unlink()
    os.mkfifo(path)
    refused(partial(Robomimic, path), tmp_path / "out", f"{path}: expected an ordinary file, found a pipe")


def info(root: Path, **change: Any) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def rewritten(root: Path, name: str, change: Callable[[Any], Any]) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path = root / name
    pq.write_table(change(pq.read_table(path)), path)


DATA, OUTLINE = "data/chunk-000/file-001.parquet", "meta/episodes/chunk-000/file-000.parquet"
LEROBOT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "old": (partial(info, codebase_version="v2.1"), "codebase_version: found 'v2.1', expected v3.x; LeRobot converts"),
    "no fps": (partial(info, fps=None), "expected a number of pictures a second as fps"),
    "a path": (partial(info, features={"../../x": {"dtype": "video"}}), "features: found '../../x', expected names"),
    "none": (partial(info, features={"action": {"dtype": "float32"}}), "expected features observation.*, found action"),
    "text": (partial(info, features={"observation.note": {"dtype": "string"}}), "observation.note: found string"),
    "half": (lambda root: halved(root / DATA), "file-001.parquet: not a whole file of its format"),
    "half the outline": (lambda root: halved(root / OUTLINE), "file-000.parquet: not a whole file of its format"),
    "no rows": (lambda root: rewritten(root, DATA, lambda table: table.slice(0, 0)), "episode 2: found 0 rows of it in "
                "data, expected 1, as meta/episodes says"),
    "no action": (lambda root: rewritten(root, DATA, lambda table: table.drop(["action"])), "2: no column action"),
    "no reward": (lambda root: rewritten(root, DATA, lambda table: table.drop(["next.reward"])),
                  "no column next.reward; there are observation.state, action, episode_index; reader.reward=null"),
    "no file": (lambda root: (root / DATA).unlink(), "file-001.parquet: expected a file, found nothing"),
    "a link": (lambda root: link_out(root / DATA), "leads out of"),
}  # fmt: skip


def link_out(path: Path) -> None:
    elsewhere = path.parents[3] / "elsewhere.parquet"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("case", LEROBOT)
def test_lerobot(tmp_path: Path, case: str) -> None:
    root = lerobot(tmp_path / "set", episodes(), video=False)
    harm, words = LEROBOT[case]
    harm(root)
    refused(partial(LeRobot, root), tmp_path / "out", words)


def test_rows_of_unequal_length_and_without_a_value(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    root = lerobot(tmp_path / "set", episodes(), video=False)
    place = "data/chunk-000/file-000.parquet"

    def changed(name: str, values: list[Any]) -> Callable[[Any], Any]:
        return lambda table: table.set_column(table.column_names.index(name), name, pa.array(values))

    rows = [[0.0, 0.0, 0.0]] * 10 + [[0.0]]
    rewritten(root, place, changed("observation.state", rows))
    refused(partial(LeRobot, root), tmp_path / "out", "observation.state: found lists of 1 to 3 numbers, expected one")
    rewritten(root, place, changed("observation.state", [[0.0, 0.0, 0.0]] * 11))
    rewritten(root, place, changed("next.reward", [None, *[0.0] * 10]))
    refused(partial(LeRobot, root), tmp_path / "out", "next.reward: found 1 rows without a value, expected numbers")


def test_a_table_larger_than_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lerobot(tmp_path / "set", episodes(), video=False)
    monkeypatch.setattr("data.readers.table.MOST_ROWS", 10)
    refused(partial(LeRobot, root), tmp_path / "out", "file-000.parquet: found 11 rows, expected at most 10")
    monkeypatch.undo()
    monkeypatch.setattr("data.readers.table.MOST_BYTES", 100)
    refused(partial(LeRobot, root), tmp_path / "out", "bytes told of, expected at most 100")


def test_a_video_that_is_cut_or_of_another_size(tmp_path: Path) -> None:
    pytest.importorskip("av")
    root = lerobot(tmp_path / "set", episodes(), video=True)
    top = root / "videos" / "observation.images.top" / "chunk-000" / "file-000.mp4"
    content = top.read_bytes()
    halved(top)
    refused(partial(LeRobot, root), tmp_path / "out", "file-000.mp4: not a whole video")
    top.write_text("#EXTM3U\n#EXTINF:1,\n/etc/hostname\n")  # a playlist, which FFmpeg would follow by itself
    refused(partial(LeRobot, root), tmp_path / "out", "file-000.mp4: not a whole video")
    top.write_bytes(content)
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    features["observation.images.top"]["shape"] = [3, 480, 640]
    info(root, features=features)
    refused(partial(LeRobot, root), tmp_path / "out", "file-000.mp4: found 48 x 64 pixels, expected 480 x 640")


def minari_folder(root: Path, **change: Any) -> Path:
    """The outline of a data set, with what is to be changed in its metadata."""
    box = {"type": "Box", "dtype": "float32", "shape": [2], "low": [0, 0], "high": [1, 1]}
    (root / "data").mkdir(parents=True)
    metadata = {
        "observation_space": json.dumps(box),
        "action_space": json.dumps({"type": "Discrete", "n": 3}),
        **change,
    }
    kept = {key: value for key, value in metadata.items() if value is not None}
    (root / "data" / "metadata.json").write_text(json.dumps(kept))
    with h5py.File(root / "data" / "main_data.hdf5", "w") as file:
        group = file.create_group("episode_0")
        group["observations"], group["actions"] = np.zeros((5, 2), np.float32), np.array([0, 1, 2, 0])
        group["rewards"] = np.zeros(4)
        group["terminations"] = group["truncations"] = np.zeros(4, bool)
    return root


TEXT = json.dumps({"type": "Text", "max_length": 3})
MINARI: dict[str, tuple[dict[str, Any], str]] = {
    "an env alone": ({"observation_space": None, "env_spec": '{"entry_point": "canary:Env"}'}, "the environment "
                     "that the file names is not made for it"),
    "text": ({"observation_space": TEXT}, "observation 'observation': Text cannot be carried, Box, Discrete"),
    "no shape": ({"observation_space": '{"type": "Box", "dtype": "float32"}'}, "found a Box without its 'shape'"),
    "huge": ({"observation_space": json.dumps({"type": "MultiBinary", "n": 1 << 40})}, "without its a shape of"),
    "no JSON": ({"action_space": "{"}, "metadata.json: action_space: expected JSON"),
    "many": ({"action_space": json.dumps({"type": "MultiDiscrete", "nvec": [100, 100]})}, "found 10,000 combinations"),
    "fewer": ({"action_space": json.dumps({"type": "Discrete", "n": 2})}, "episode_0: actions: found values outside"),
    "wider": ({"observation_space": json.dumps({"type": "MultiBinary", "n": 3})}, "episode_0: observation: found "
              "rows of shape [2], expected [3]"),
    "format": ({"data_format": "zarr"}, "data_format: found 'zarr', expected hdf5, arrow or parquet"),
}  # fmt: skip


@pytest.mark.parametrize("case", MINARI)
def test_minari(tmp_path: Path, case: str) -> None:
    change, words = MINARI[case]
    folder = minari_folder(tmp_path / "set", **change)
    refused(partial(Minari, folder), tmp_path / "out", words)


def test_minari_that_is_not_there_or_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    refused(partial(Minari, "D4RL/door/human-v2"), tmp_path / "out", "`minari download D4RL/door/human-v2` fetches one")
    refused(partial(Minari, "../../etc"), tmp_path / "out", "expected a Minari data set with metadata.json")
    folder = minari_folder(tmp_path / "set")
    halved(folder / "data" / "main_data.hdf5")
    refused(partial(Minari, folder), tmp_path / "out", "main_data.hdf5: not a whole HDF5 file")


def test_the_canary_sings() -> None:
    """What these files hold would be run by a reader that unpickles."""
    path = Path(os.environ["ELMUR_SHARDS"]) / "canary"
    path.parent.mkdir(parents=True, exist_ok=True)
    pickle.loads(pickle.dumps(Canary(path)))
    assert path.exists()
    path.unlink()
