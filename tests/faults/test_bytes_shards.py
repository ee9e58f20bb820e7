"""Real shards, damaged: each is named by file, data set and episode at the command line, or skipped and counted."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.shard import Shard, ShardError, write_shard
from elmur.spec import Discrete, Field, Image, TaskSpec, Vector
from tests.command import DEEP, TINY, CommandLine

pytestmark = pytest.mark.faults
TRIES = int(os.environ.get("ELMUR_TRIES", "1"))
SPEC = TaskSpec(
    "toy", {"state": Vector(40), "token": Discrete((5, 2)), "front": Image(3, 8, 8)}, Vector(2, (-1, -1), (1, 1))
)


def episode_of(spec: TaskSpec, length: int, rng: np.random.Generator) -> Any:
    def values(field: Field) -> Any:
        if isinstance(field, Discrete):
            return rng.integers(field.sizes, size=(length, len(field.sizes)))
        if isinstance(field, Image):
            return rng.integers(256, size=(length, *field.shape), dtype=np.uint8)
        return rng.uniform(-1, 1, size=(length, field.size)).astype(np.float32)

    action = values(spec.action)
    return SimpleNamespace(
        observation={name: values(field) for name, field in spec.observation.items()},
        action=action[:, 0] if isinstance(spec.action, Discrete) else action,
        reward=rng.normal(size=length).astype(np.float32),
        loss_mask=rng.random(length) < 0.8,
        terminated=bool(length % 2),
        truncated=not length % 2,
    )


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    commands = CommandLine(tmp_path_factory.mktemp("damaged"))
    done = commands.run("stage=collect", *TINY, "collect.shard_episodes=20")
    assert done.code == 0, done.stderr
    return commands


@pytest.fixture
def root(cli: CommandLine, tmp_path: Path) -> Path:
    """A copy of three real shards of 20 episodes."""
    (folder,) = (cli.folder / "shards").iterdir()
    for path in folder.glob("*.h5"):
        shutil.copy(path, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    return tmp_path


def damaged(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return make


def put(key: str, row: int, value: float) -> Callable[[Path], None]:
    return damaged(lambda file: file[key].__setitem__(row, value))


def flipped(path: Path) -> None:
    with h5py.File(path) as file:
        chunk = file["observation/state"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 100] ^= 4
    path.write_bytes(content)


def empty_episode(file: Any) -> None:
    offsets = file["offsets"][:]
    offsets[3] = offsets[2]
    file["offsets"][:] = offsets


def other_shape(file: Any) -> None:
    rows = len(file["observation/state"])
    del file["observation/state"]
    file.create_dataset("observation/state", (rows, 5), "f4", np.zeros((rows, 5)), chunks=(rows, 5), fletcher32=True)


STEP = r"\(episode 0, step 2\)"
FAULTS = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:9000]), "file: found 9000 bytes"),
    "empty": (lambda path: path.write_bytes(b""), "file: found 0 bytes"),
    "zeroed": (lambda path: path.write_bytes(bytes(path.stat().st_size)), r"file: found \d+ bytes that HDF5 refuses"),
    "flipped byte": (flipped, r"observation/state: found damaged bytes in rows 0 to \d+ \(episodes 0 to \d+\)"),
    "missing index": (damaged(lambda file: file.pop("offsets")), "offsets: found nothing"),
    "wrong version": (damaged(lambda file: file.attrs.update(version=7)), "version: found 7, expected 1"),
    "NaN": (put("observation/state", 2, np.nan), f"observation/state: found .*nan.* {STEP}, expected finite"),
    "infinity": (put("reward", 2, np.inf), f"reward: found inf in row 2 {STEP}, expected finite"),
    "action outside": (put("action", 2, 4), f"action: found 4 in row 2 {STEP}, expected integers from 0 to below 4"),
    "episode of length 0": (damaged(empty_episode), "offsets: found length below 1 in episode 2"),
    "another shape": (damaged(other_shape), r"observation/state: found shape \[\d+, 5\], expected shape \[\d+, 4\]"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_shard_is_named_or_skipped_and_counted(cli: CommandLine, root: Path, fault: str) -> None:
    make, says = FAULTS[fault]
    make(path := root / "shard-00001.h5")
    done = cli.run(*TINY, *DEEP, f"data.root={root}", to=(folder := root / "run"))
    assert (done.code, done.stderr.count("\n")) == (1, 1), done.stderr
    assert re.search(f"^error: shard {path}, {says}", done.stderr), done.stderr
    assert not (folder / "checkpoints").exists(), "nothing was trained on it"
    done = cli.run(*TINY, *DEEP, f"data.root={root}", "data.on_bad_shard=skip", to=folder)
    assert done.code == 0, done.stderr
    assert f"skipping a shard: shard {path}" in done.stdout
    assert f"1 of 3 shards in {root} are damaged and left out" in done.stdout


def test_where_all_are_damaged_there_is_nothing_to_skip_to(cli: CommandLine, root: Path) -> None:
    for path in root.glob("*.h5"):
        path.write_bytes(b"x")
    done = cli.run(*TINY, *DEEP, f"data.root={root}", "data.on_bad_shard=skip")
    assert done.code == 1 and "3 shards, all damaged, expected at least one intact" in done.stderr


def test_truncation_at_twenty_places(root: Path) -> None:
    path = root / "shard-00000.h5"
    whole = path.read_bytes()
    for size in np.random.default_rng(5).integers(len(whole), size=20 * TRIES).tolist():
        path.write_bytes(whole[:size])
        with pytest.raises(ShardError, match=f"^shard {path}, file: found {size} bytes"):
            Shard(path).open()


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of three kinds of observation, of several chunks each."""
    path = tmp_path_factory.mktemp("varied") / "shard-00000.h5"
    rng = np.random.default_rng(0)
    write_shard(path, SPEC, [episode_of(SPEC, length, rng) for length in (1, 40, 700, 900, 3, 800)], {})
    return path


def test_no_flipped_byte_in_a_chunk_is_silent(varied: Path, tmp_path: Path) -> None:
    """Three flips or more in every chunk of every data set; the error names the chunk's rows and its episodes."""
    whole, path, rng, tries = varied.read_bytes(), tmp_path / "shard-00000.h5", np.random.default_rng(1), 0
    with h5py.File(varied) as file:
        keys = ["offsets", *(f"observation/{name}" for name in SPEC.observation)]
        keys += ["action", "reward", "loss_mask", "terminated", "truncated", "seed"]
        chunks = [
            (key, file[key].id.get_chunk_info(i), min(len(file[key]), file[key].chunks[0]), len(file[key]))
            for key in keys
            for i in range(file[key].id.get_num_chunks())
        ]
    per_chunk = TRIES * max(3, -(-200 // len(chunks)))
    for key, chunk, rows, total in chunks:
        first = chunk.chunk_offset[0]
        for _ in range(per_chunk):
            content = bytearray(whole)
            content[chunk.byte_offset + int(rng.integers(chunk.size))] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
            tries += 1
            with Shard(path) as shard, pytest.raises(ShardError) as caught:
                shard.verify()
            found = str(caught.value)
            where = (
                "damaged bytes " if key == "offsets" else f"bytes in rows {first} to {min(first + rows, total) - 1} "
            )
            assert found.startswith(f"shard {path}, {key}: found ") and where in found and "episode" in found
    assert tries >= 200 and len(chunks) > 150


def parts() -> st.SearchStrategy[Field]:
    size = st.integers(1, 6)
    return st.one_of(
        st.builds(Vector, size),
        st.builds(Discrete, st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)),
        st.builds(Image, size, size, size),
    )


@settings(max_examples=1000 * TRIES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    observation=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True), parts(), min_size=1, max_size=3
    ),
    action=st.one_of(st.builds(Vector, st.integers(1, 4)), st.integers(1, 9).map(lambda n: Discrete((n,)))),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
)
def test_round_trip(
    tmp_path: Path, observation: dict[str, Field], action: Vector | Discrete, lengths: list[int], seed: int
) -> None:
    """Shapes, types and ragged lengths of any task come back bit by bit, and in their types."""
    spec, rng = TaskSpec("any", observation, action), np.random.default_rng(seed)
    episodes = [episode_of(spec, length, rng) for length in lengths]
    write_shard(path := tmp_path / "shard-00000.h5", spec, episodes, {"note": 1}, seeds=list(range(len(lengths))))
    with Shard(path) as shard:
        shard.verify()
        assert shard.spec == spec and json.loads(json.dumps(shard.attribute("provenance")))["note"] == 1
        assert np.diff(shard.offsets).tolist() == lengths
        for number, episode in enumerate(episodes):
            begin, end = shard.offsets[number : number + 2].tolist()
            for name, values in episode.observation.items():
                found = shard.read(f"observation/{name}", begin, end)
                assert found.dtype == values.dtype and np.array_equal(found, values)
            for name in ("action", "reward", "loss_mask"):
                assert np.array_equal(shard.read(name, begin, end), getattr(episode, name))
            assert shard.read("truncated", number, number + 1).tolist() == [episode.truncated]
