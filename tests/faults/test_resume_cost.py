"""What checkpoints cost at the default interval, with the default model and its own data: less than 2 % of training."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from statistics import median

import pytest
from omegaconf import OmegaConf

from tests.faults.killed import faulty
from tests.server import ROOT

pytestmark = pytest.mark.faults
log = logging.getLogger(__name__)
MOST = 0.02

# Medians of single updates and single saves: the machine may be busy with other things.
TIMED = """
import json, sys, time
from callbacks.checkpoint import ResumePoint
saves, ends = [], []
real = ResumePoint.save
def save(self, trainer):
    self.saved_at, begin = -1, time.perf_counter()
    real(self, trainer)
    saves.append(time.perf_counter() - begin)
def on_train_batch_start(self, trainer, module, batch, batch_idx):
    ends.append([time.perf_counter()])
def on_train_batch_end(self, trainer, module, *args):
    ends[-1].append(time.perf_counter())
    save(self, trainer)
def on_train_end(self, trainer, module):
    json.dump({"saves": saves, "updates": [end - begin for begin, end in ends]}, open(FILE, "w"))
for hook in (on_train_batch_start, on_train_batch_end, on_train_end):
    setattr(ResumePoint, hook.__name__, hook)
"""


def test_checkpoints_cost_little(tmp_path: Path) -> None:
    every = OmegaConf.load(ROOT / "conf/callbacks/default.yaml").resume.every_n_updates
    with faulty(tmp_path) as runs:
        fault = TIMED.replace("FILE", repr(str(tmp_path / "times.json")))
        command = ("trainer.max_steps=10", "collect.num_episodes=200", "~callbacks.selection", "env.lengths=[9]")
        assert runs.run(*command, "evaluation.num_episodes=2", to=tmp_path / "run", fault=fault) == 0, runs.said
    times = json.loads((tmp_path / "times.json").read_text())
    save, update = median(times["saves"]), median(times["updates"])
    share = save / (save + every * update)
    size = (tmp_path / "run/checkpoints/last.ckpt").stat().st_size
    said = f"{share:.2%}: a save of {size} bytes takes {save:.4f} s, {every} updates {every * update:.2f} s"
    log.info(said)
    assert share < MOST, said
