"""How often the host waits for the GPU: never within an update but one update late, and once to act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from data.collect import collect
from data.datamodule import TrajectoryDataModule
from elmur.gpu import OnGpu
from elmur.model import ELMUR, MemoryDesign
from elmur.module import SequenceModule
from elmur.optim import WarmupCosine
from elmur.policy import StreamingPolicy
from envs.experts.tmaze import TMazeExpert
from envs.tmaze import make_vector
from tests.elmur.samples import SPEC

L, K, FROM, TO = 3, 2, 6, 10
# An event that has passed is no wait: what was noted an update before is looked at by `cudaEventSynchronize`.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpy")


def waits(profiled: Any) -> dict[str, int]:
    """Calls of the driver that wait for the stream, by name."""
    return {event.key: event.count for event in profiled.key_averages() if event.key in WAITS}


class Profiled(Callback):
    """Profiles updates FROM to TO, in which nothing is logged, and lets no operation of torch wait."""

    def __init__(self) -> None:
        self.profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == FROM:
            self.profile.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == TO:
            self.profile.stop()


@pytest.mark.parametrize("capture", ["never", "always"])
def test_an_update_waits_for_nothing(tmp_path: Path, capture: str) -> None:
    root = tmp_path / "shards"
    # Episodes of one length: that all lanes end together, which is captured apart, happens before FROM as well.
    collect(lambda num_envs: make_vector(num_envs, 14), TMazeExpert(), root, 40, seed=0)
    data = TrajectoryDataModule(root, L, K, lanes=4, seed=2)
    profiled = Profiled()
    module = SequenceModule(
        lambda spec: ELMUR(spec, d_model=8, n_layer=1, n_head=2, memory=MemoryDesign(memory_size=2)),
        L, schedule=WarmupCosine(40, 0.1), seed=2, gpu=OnGpu(capture=capture),
    )  # fmt: skip
    Trainer(
        max_steps=TO + 1, max_epochs=-1, accelerator="gpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        default_root_dir=tmp_path, log_every_n_steps=1000, gradient_clip_val=1.0, callbacks=[profiled],
    ).fit(module, datamodule=data)  # fmt: skip
    calls = {event.key: event.count for event in profiled.profile.key_averages()}
    launched = sum(calls.get(name, 0) for name in ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx"))
    assert launched > 100 or calls.get("cudaGraphLaunch", 0) >= 2 * (TO - FROM), calls
    # The profiler itself waits for the device once or twice when it ends.
    found = waits(profiled.profile)
    assert found.get("cudaStreamSynchronize", 0) == 0 and found.get("cudaMemcpy", 0) == 0, found
    assert found.get("cudaDeviceSynchronize", 0) <= 2, found


def test_a_step_of_acting_waits_once() -> None:
    """For the action that the environment asks for."""
    model = ELMUR(SPEC, d_model=8, n_layer=1, n_head=2).to("cuda")
    policy, num_envs, steps = StreamingPolicy(model, L), 16, 6
    policy.start(num_envs)
    shown = {"state": np.zeros((num_envs, 4), np.float32)}
    first, reward = np.ones(num_envs, np.bool_), np.zeros(num_envs, np.float32)
    for _ in range(2 * L):
        policy.observe(policy.act(shown, first), reward)
        first = np.zeros(num_envs, np.bool_)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for _ in range(steps):
            policy.observe(policy.act(shown, first), reward)
    copies = [event.count for event in profiled.key_averages() if event.key.startswith("Memcpy DtoH")]
    assert sum(copies) == steps
    assert waits(profiled).get("cudaStreamSynchronize", 0) == steps
