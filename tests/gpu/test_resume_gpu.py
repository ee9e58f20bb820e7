"""A run on one GPU that is stopped and taken up ends as if it had not been, captured or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from callbacks.checkpoint import LAST, AtomicCheckpointIO, ResumePoint, resume_point
from data.collect import collect
from data.datamodule import TrajectoryDataModule
from elmur.checkpoint import read_checkpoint
from elmur.gpu import OnGpu
from elmur.model import ELMUR, MemoryDesign
from elmur.module import SequenceModule
from elmur.optim import WarmupCosine
from elmur.state import tensors_of
from envs.experts.tmaze import TMazeExpert
from envs.tmaze import make_vector

L, K = 3, 2


def train(shards: Path, folder: Path, updates: int, capture: str) -> None:
    seed_everything(11, workers=True, verbose=False)
    module = SequenceModule(
        lambda spec: ELMUR(spec, d_model=16, n_layer=1, n_head=2, dropout=0.2, memory=MemoryDesign(memory_size=2)),
        L, schedule=WarmupCosine(40, 0.1), seed=2, gpu=OnGpu(capture=capture),
    )  # fmt: skip
    Trainer(
        max_steps=updates, max_epochs=-1, accelerator="gpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        default_root_dir=folder, plugins=[AtomicCheckpointIO()], gradient_clip_val=1.0,
        callbacks=[ResumePoint(folder, 100)],
    ).fit(
        module, datamodule=TrajectoryDataModule(shards, L, K, lanes=4, seed=2), ckpt_path=resume_point(folder),
        weights_only=True,
    )  # fmt: skip


@pytest.fixture
def sums_in_one_order() -> Iterator[None]:
    """Nothing is added up by atomic operations, whose order differs from run to run."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("sums_in_one_order")
@pytest.mark.parametrize("capture", ["never", "always"])
def test_resume_is_exact(tmp_path: Path, capture: str) -> None:
    shards = tmp_path / "shards"
    collect(lambda num_envs: make_vector(num_envs, 14, random_corridor=True), TMazeExpert(), shards, 40, seed=0)
    train(shards, tmp_path / "straight", 9, capture)
    for updates in (5, 9):
        train(shards, tmp_path / "stopped", updates, capture)
    straight, stopped = (read_checkpoint(tmp_path / name / LAST) for name in ("straight", "stopped"))
    assert straight["global_step"] == stopped["global_step"] == 9
    for key in ("state_dict", "optimizer_states"):
        for one, other in zip(tensors_of(straight[key]), tensors_of(stopped[key]), strict=True):
            torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)
    ours = [straight["elmur"], stopped["elmur"]]
    assert ours[0]["trained_steps"] == ours[1]["trained_steps"]
    assert torch.equal(ours[0]["rng"]["cuda"][0], ours[1]["rng"]["cuda"][0])
    for key in ("noise", "carry"):
        for one, other in zip(tensors_of(ours[0][key]), tensors_of(ours[1][key]), strict=True):
            assert torch.equal(one, other), key
