"""Shards: round trip, layout, and everything that must be refused."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.shard import Shard, ShardError, write_shard
from elmur.spec import Discrete, Image, TaskSpec, Vector

Make = Callable[..., Any]
REST = ["loss_mask", "terminated", "truncated", "seed"]
LENGTHS = [1, 5, 40, 2]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def episodes(spec: TaskSpec, episode: Make) -> list[Any]:
    return [episode(spec, length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture
def path(tmp_path: Path, spec: TaskSpec, episodes: list[Any]) -> Path:
    write_shard(tmp_path / "a.h5", spec, episodes, {"expert": "none"}, seeds=[7, 8, 9, 10])
    return tmp_path / "a.h5"


def test_round_trip(path: Path, spec: TaskSpec, episodes: list[Any]) -> None:
    with Shard(path) as shard:
        assert shard.spec == spec
        assert shard.offsets.tolist() == [0, 1, 6, 46, 48]
        for number, original in enumerate(episodes):
            rows = int(shard.offsets[number]), int(shard.offsets[number + 1])
            for name, part in original.observation.items():
                found = shard.read(f"observation/{name}", *rows)
                np.testing.assert_array_equal(found, part)
                assert found.dtype == part.dtype
            for key in ("action", "reward", "loss_mask"):
                np.testing.assert_array_equal(shard.read(key, *rows), getattr(original, key))
        assert shard.read("terminated", 0, 4).tolist() == [False, True, False, True]
        assert shard.read("truncated", 0, 4).tolist() == [True, False, True, False]
        assert shard.read("seed", 0, 4).tolist() == [7, 8, 9, 10]
        shard.verify()


def test_provenance_is_completed(path: Path) -> None:
    found = Shard(path).attribute("provenance")
    assert found["env"] == "toy"
    assert found["expert"] == "none"
    assert found["versions"]["h5py"] == h5py.__version__
    assert found["code"] and found["created"].endswith("+00:00")


def test_layout_on_disk(path: Path) -> None:
    names = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert sorted(names) == sorted(
            ["observation/state", "observation/token", "observation/front", "action", "reward", "offsets", *REST]
        )
        assert all(file[name].fletcher32 for name in names)
        assert file["observation/front"].chunks == (16, 3, 4, 6)
        assert "32015" in file["observation/front"]._filters
    assert os.listdir(path.parent) == ["a.h5"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_task_comes_back(data: st.DataObject, tmp_path: Path, episode: Make) -> None:
    size = st.integers(1, 4)
    parts = st.one_of(
        st.builds(Vector, size),
        st.builds(Discrete, st.lists(st.integers(1, 300), min_size=1, max_size=3)),
        st.builds(Image, size, size, size),
    )
    observation = data.draw(
        st.dictionaries(st.from_regex("[a-z_]{1,6}", fullmatch=True), parts, min_size=1, max_size=3)
    )
    action = data.draw(st.one_of(st.builds(lambda n: Discrete((n,)), size), st.builds(Vector, size)))
    lengths = data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=6))
    task = TaskSpec("any", observation, action)
    originals = [episode(task, length, seed) for seed, length in enumerate(lengths)]
    write_shard(tmp_path / "any.h5", task, originals, {})
    with Shard(tmp_path / "any.h5", expect=task) as shard:
        shard.verify()
        assert np.diff(shard.offsets).tolist() == lengths
        rows = sum(lengths)
        for name in observation:
            whole = np.concatenate([original.observation[name] for original in originals])
            np.testing.assert_array_equal(shard.read(f"observation/{name}", 0, rows), whole)
        np.testing.assert_array_equal(shard.read("action", 0, rows), np.concatenate([o.action for o in originals]))


def break_nan(e: Any) -> None:
    e.observation["state"][3, 1] = np.nan


def break_infinite(e: Any) -> None:
    e.observation["state"][3, 1] = np.inf


def break_range(e: Any) -> None:
    e.action[3] = 1.5


def break_discrete(e: Any) -> None:
    e.observation["token"][3] = [4, 2]


def break_shape(e: Any) -> None:
    e.observation["front"] = e.observation["front"][:, :, :, :5]


def break_dtype(e: Any) -> None:
    e.observation["front"] = e.observation["front"].astype(np.float32)


def break_ragged(e: Any) -> None:
    e.loss_mask = e.loss_mask[:-1]


def break_missing(e: Any) -> None:
    del e.observation["token"]


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (break_nan, r"observation/state.*nan.*in episode 2, step 3.*finite"),
        (break_infinite, r"observation/state.*inf.*in episode 2, step 3.*finite"),
        (break_range, r"action.*1\.5.*in episode 2, step 3.*within"),
        (break_discrete, r"observation/token.*\[4, 2\] in episode 2, step 3.*below \[5, 2\]"),
        (break_shape, r"observation/front.*\[40, 3, 4, 5\].*\[40, 3, 4, 6\]"),
        (break_dtype, r"observation/front.*float32.*uint8"),
        (break_ragged, r"loss_mask.*\[39\].*\[40\]"),
        (break_missing, r"observation/token: found no such part in episode 2, but state, front, expected all parts"),
    ],
)
def test_writer_refuses(tmp_path: Path, spec: TaskSpec, episodes: list[Any], harm: Any, says: str) -> None:
    harm(episodes[2])
    with pytest.raises(ShardError, match=says):
        write_shard(tmp_path / "bad.h5", spec, episodes, {})
    assert os.listdir(tmp_path) == []


def test_writer_refuses_nothing_to_write(tmp_path: Path, spec: TaskSpec, episode: Make) -> None:
    with pytest.raises(ShardError, match="no episodes"):
        write_shard(tmp_path / "a.h5", spec, [], {})
    with pytest.raises(ShardError, match="length 0 in episode 1"):
        write_shard(tmp_path / "a.h5", spec, [episode(spec, 2), episode(spec, 0)], {})


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a shard by HDF5's own means, so that its checksums are right."""
    with h5py.File(path, "r+") as file:
        change(file)


def put(key: str, values: Any, **options: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        array = np.asarray(values)
        del file[key]
        file.create_dataset(
            key, data=array, chunks=options.pop("chunks", array.shape), **{"fletcher32": True, **options}
        )

    return change


def external(file: Any) -> None:
    del file["reward"]
    file["reward"] = h5py.ExternalLink("other.h5", "reward")


def elsewhere(file: Any) -> None:
    del file["observation"]
    file["observation"] = h5py.SoftLink("/nowhere")


def virtual(file: Any) -> None:
    del file["reward"]
    layout = h5py.VirtualLayout(shape=(48,), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "reward", shape=(48,))
    file.create_virtual_dataset("reward", layout)


ZEROS = np.zeros(48, np.float32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.attrs.update(version=3), "version: found 3, expected 1 or 2"),
        (lambda f: f.attrs.update(format=np.bytes_("else")), "format: found 'else'"),
        (lambda f: f.attrs.update(spec=np.bytes_("{}")), "spec: found not a TaskSpec"),
        (lambda f: f.attrs.update(spec="{}"), "structure: found damage .* not text of fixed length"),
        (lambda f: f.attrs.pop("spec"), "structure"),
        (lambda f: f.pop("offsets"), "offsets: found nothing"),
        (lambda f: f.pop("observation/front"), "observation/front: found nothing"),
        (put("offsets", [0, 1, 1, 46, 48]), "offsets: found length below 1 in episode 1"),
        (put("offsets", [0, 6, 1, 46, 48]), "offsets: found length below 1 in episode 1"),
        (put("offsets", [1, 2, 6, 46, 48]), "offsets"),
        (put("offsets", [0, 1, 6, 46, 49]), r"observation/state: found shape \[48, 3\], expected shape \[49, 3\]"),
        (put("observation/state", np.zeros((48, 4), np.float32)), r"observation/state: found shape \[48, 4\]"),
        (put("observation/state", np.zeros((48, 3), np.float64)), "observation/state: found .*f8"),
        (put("reward", ZEROS, fletcher32=False), "reward: found storage"),
        (put("reward", ZEROS, compression="gzip"), "reward: found storage with HDF5 filters"),
        (put("reward", ZEROS, chunks=None, fletcher32=False), "reward: found storage"),
        (external, "reward: found a ExternalLink"),
        (elsewhere, "observation/state: found a SoftLink"),
        (virtual, "reward: found storage"),
    ],
)
def test_reader_refuses_outline(path: Path, change: Callable[[Any], None], says: str) -> None:
    edit(path, change)
    with pytest.raises(ShardError, match=says) as caught:
        Shard(path).open()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "row", "value", "says"),
    [
        (
            "observation/state",
            45,
            np.nan,
            r"observation/state: found .*nan.* in row 45 \(episode 2, step 39\), .*finite",
        ),
        ("observation/token", 6, -1, r"observation/token: found .* in row 6 \(episode 2, step 0\)"),
        ("reward", 0, -np.inf, r"reward: found -inf in row 0 \(episode 0, step 0\)"),
        ("action", 47, 2.0, r"action: found .* in row 47 \(episode 3, step 1\), expected numbers within"),
    ],
)
def test_verify_refuses_values(path: Path, key: str, row: int, value: float, says: str) -> None:
    edit(path, lambda file: file[key].__setitem__(row, value))
    with Shard(path) as shard, pytest.raises(ShardError, match=says):
        shard.verify()


def test_reader_refuses_another_task(path: Path, spec: TaskSpec) -> None:
    with pytest.raises(ShardError, match="found task 'toy', expected task 'other'"):
        Shard(path, expect=replace(spec, name="other")).open()
    parts = {**spec.observation, "state": Vector(9)}
    with pytest.raises(ShardError, match=r"'state': expected vector\[9\], found vector\[3\]"):
        Shard(path, expect=replace(spec, observation=parts)).open()


def test_truncation_anywhere_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for size in [0, len(whole) - 1, *np.random.default_rng(0).integers(len(whole), size=20).tolist()]:
        path.write_bytes(whole[:size])
        with pytest.raises(ShardError, match=f"file: found {size} bytes that HDF5 refuses"):
            Shard(path).open()


def test_flipped_byte_in_any_chunk_is_named(path: Path) -> None:
    whole = path.read_bytes()
    with Shard(path) as shard:
        keys = list(shard.columns)
        chunks = [(key, shard.open()[key].id.get_chunk_info(i)) for key in keys for i in range(1)]
    assert len(chunks) == 9
    for key, chunk in chunks:
        damaged = bytearray(whole)
        damaged[chunk.byte_offset + chunk.size // 2] ^= 0x10
        path.write_bytes(bytes(damaged))
        with (
            Shard(path) as shard,
            pytest.raises(ShardError, match=f"{key}: found damaged bytes in rows 0 to") as caught,
        ):
            shard.verify()
        assert re.search(r"rows 0 to \d+ \(episodes 0 to \d\)", str(caught.value))


def test_flipped_byte_anywhere_is_refused_or_harmless(path: Path) -> None:
    """In another process, since damage might crash HDF5 instead of raising."""
    code = """
import sys, numpy as np
from pathlib import Path
from data.shard import ShardError
from data.shard import Shard
path = Path(sys.argv[1]); whole = path.read_bytes(); rng = np.random.default_rng(1); refused = 0
def content():
    with Shard(path) as shard:
        shard.verify()
        parts = [shard.read(k, 0, 48).tobytes() for k in shard.columns]
        return parts, shard.spec, shard.attribute("statistics"), shard.attribute("provenance")
truth = content()
for place in rng.integers(len(whole), size=400).tolist():
    damaged = bytearray(whole); damaged[place] ^= 1 << int(rng.integers(8)); path.write_bytes(damaged)
    try:
        assert content() == truth, place
    except ShardError:
        refused += 1
sys.exit(0 if refused > 200 else 3)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_handle_is_not_shared_with_a_child(path: Path) -> None:
    with Shard(path) as shard:
        mine = shard.open()
        assert shard.open() is mine
        shard._pid += 1  # as a fork would leave it
        assert shard.open() is not mine
        copy = pickle.loads(pickle.dumps(shard))
        assert copy.read("seed", 0, 1).tolist() == [7]
        copy.close()


def test_error_survives_the_way_out_of_a_worker() -> None:
    error = ShardError("a.h5", "reward", "nan", "finite numbers")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    text = (
        f"Caught ShardError in DataLoader worker process 0.\nOriginal Traceback:\n  x\ndata.shard.ShardError: {error}"
    )
    assert str(ShardError(text)) == str(error)


def test_a_label_is_an_array_that_only_some_shards_have(tmp_path: Path, spec: TaskSpec, episodes: list[Any]) -> None:
    for number, one in enumerate(episodes):
        one.label = np.full((LENGTHS[number], 2), number / 10, np.float32)
    write_shard(tmp_path / "a.h5", spec, episodes, {}, optional=["label"])
    with Shard(tmp_path / "a.h5") as shard:
        shard.verify()
        assert shard.read("label", 0, 48)[:, 1].tolist() == pytest.approx([0.0] + 5 * [0.1] + 40 * [0.2] + 2 * [0.3])
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["version"] == 2, "who knows no labels is not to take this for the expert's episodes"
    episodes[2].label[7, 1] = 1.5
    with pytest.raises(ShardError, match=r"label: found .*1\.5.* in episode 2, step 7, expected numbers within"):
        write_shard(tmp_path / "b.h5", spec, episodes, {}, optional=["label"])


def test_a_label_that_is_missing_is_damage(tmp_path: Path, spec: TaskSpec, episodes: list[Any]) -> None:
    for one in episodes:
        one.label = one.action
    write_shard(tmp_path / "a.h5", spec, episodes, {}, optional=["label"])
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["label"]
    with pytest.raises(ShardError, match="label: found nothing, expected a data set in this file"):
        Shard(tmp_path / "a.h5").open()
