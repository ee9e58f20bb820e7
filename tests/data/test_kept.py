"""Images that are kept in memory give the same batches as those on disk, wherever they lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.collection import shard_name
from data.datamodule import TrajectoryDataModule
from data.dataset import WindowDataset
from data.index import Index, build_index
from data.kept import keep_images
from data.shard import ShardError, write_shard
from elmur.spec import TaskSpec
from elmur.state import tensors_of

WINDOW, CPU = 8, torch.device("cpu")
PLAN = np.array([[1, 8], [-1, 0], [2, 16], [3, 0], [5, 0], [0, 0], [2, 32], [1, 0], [4, 0]])


@pytest.fixture
def index(tmp_path: Path, spec: TaskSpec, episode: Callable[..., Any]) -> Index:
    for number, lengths in enumerate([[3, 11], [40], [1, 7, 8]]):
        inside = [episode(spec, length, 10 * number + length) for length in lengths]
        write_shard(tmp_path / shard_name(number), spec, inside, {})
    return build_index(tmp_path)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("plan", [PLAN, PLAN[[2, 7]]], ids=["padded", "full"])
def test_kept_images_give_the_batches_of_the_disk(index: Index, processes: int, plan: np.ndarray) -> None:
    kept = keep_images(index, "device", CPU, processes)
    expected, found = WindowDataset(index, WINDOW)[plan], WindowDataset(index, WINDOW, kept=kept)[plan]
    assert expected.observation["front"].any()
    assert [t.dtype for t in tensors_of(found)] == [t.dtype for t in tensors_of(expected)]
    assert found.observation.keys() == expected.observation.keys()
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(found), tensors_of(expected), strict=True))
    # Of a part of the episodes, as validation and training each have one, it is the same store.
    some = index.subset(np.array([4, 2, 0]))
    again, there = (WindowDataset(some, WINDOW, kept=store)[np.array([[0, 0], [1, 24]])] for store in (kept, None))
    assert torch.equal(again.observation["front"], there.observation["front"])


def test_where_images_lie(index: Index, tmp_path: Path) -> None:
    assert keep_images(index, "disk", CPU) is None and keep_images(index, "auto", CPU) is None
    modules = {keep: TrajectoryDataModule(tmp_path, 4, 2, 2, keep=keep) for keep in ("disk", "memory")}
    disk, memory = ([batch.observation["front"] for batch in m.train_dataloader()] for m in modules.values())
    assert len(disk) > 3 and all(torch.equal(a, b) for a, b in zip(disk, memory, strict=True))
    with pytest.raises(ValueError, match="keep: expected one of auto, disk, memory, device; found 'gpu'"):
        TrajectoryDataModule(tmp_path, 4, 2, 2, keep="gpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_damaged_image_is_named(index: Index, processes: int) -> None:
    path = index.paths[1]
    content = bytearray(path.read_bytes())
    # Zstd's magic number begins every compressed chunk, and images alone are compressed.
    at = content.index(b"\x28\xb5\x2f\xfd") + 40
    content[at] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ShardError, match=f"{path.name}.*observation/front.*damaged bytes"):
        keep_images(index, "memory", CPU, processes)
