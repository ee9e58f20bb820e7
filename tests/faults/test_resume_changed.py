"""A run that is taken up among other things than it was left among: settings, data, libraries. And the golden run."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.faults.killed import SMALL, Faulty, in_training_step, metrics

pytestmark = pytest.mark.faults
GOLDEN = Path(__file__).parent / "golden_loss.json"


@pytest.fixture(scope="module")
def half(runs: Faulty) -> Path:
    """A run that was killed in its ninth update."""
    folder = runs.folder / "half"
    assert runs.run(*SMALL, to=folder, fault=in_training_step(8)) == -9, runs.said
    return folder


@pytest.fixture
def left(half: Path, tmp_path: Path) -> Path:
    """A copy of it that may be spoilt."""
    return Path(shutil.copytree(half, tmp_path / "run"))


CHANGES = {
    "model.d_model=32": "model.d_model is 16 there, 32 here",
    "module.optimizer.lr=0.5": "module.optimizer.lr is .* there, 0.5 here",
    "data.lanes=4": "data.lanes is 8 there, 4 here",
    "seed=1": "seed is 0 there, 1 here",
    "collect.num_episodes=61": "collect.num_episodes is 60 there, 61 here",
    "trainer.max_steps=30": "trainer.max_steps is 20 there, 30 here",
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_are_refused_with_what_differs(runs: Faulty, left: Path, change: str) -> None:
    before = {path: path.read_bytes() for path in (left / "checkpoints").iterdir()}
    assert runs.run(*SMALL, change, to=left) == 1
    assert "holds a run with other settings" in runs.said and re.search(CHANGES[change], runs.said), runs.said
    assert {path: path.read_bytes() for path in (left / "checkpoints").iterdir()} == before


def test_a_change_that_is_allowed_is_said(runs: Faulty, left: Path) -> None:
    change = ("trainer.max_steps=24", "trainer.gradient_clip_val=0.5")
    assert runs.run(*SMALL, *change, "allow_mismatch=[trainer.max_steps]", to=left) == 1
    assert "trainer.gradient_clip_val is 1.0 there, 0.5 here" in runs.said and "max_steps is" not in runs.said
    assert runs.run(*SMALL, *change, "allow_mismatch=[trainer,module.schedule]", to=left) == 0, runs.said
    assert "goes on although trainer.max_steps is 20 there, 24 here" in runs.said
    assert json.loads((left / "result.json").read_text())["updates"] == 24


def test_other_code_is_refused_unless_allowed_or_finished(runs: Faulty, left: Path) -> None:
    path = left / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "code": "0123456789ab"}))
    assert runs.run(*SMALL, to=left) == 1
    assert re.search(r"code is 0123456789ab there, \S+ here.*allow_mismatch=\[code\]", runs.said), runs.said
    assert runs.run(f"resume={left}", "allow_mismatch=[code]") == 0, runs.said
    path.write_text(json.dumps({**json.loads(path.read_text()), "code": "0123456789ab"}))
    assert runs.run(*SMALL, to=left) == 0, "its row is shown"


def test_other_data_of_the_same_size_are_refused(runs: Faulty, left: Path, tmp_path: Path) -> None:
    """As many episodes of as many steps, collected from other seeds, in the very place of the first ones."""
    import h5py

    shards = Path(shutil.copytree(runs.folder / "shards", tmp_path / "shards"))
    assert runs.run(*SMALL, f"shards={shards}", to=Path(shutil.copytree(left, tmp_path / "same"))) == 0, runs.said
    (path,) = shards.rglob("*.h5")
    with h5py.File(path, "r+") as file:
        file["seed"][:] = file["seed"][:] + 2
        sums = json.loads(file.attrs["sums"]) | {"seed": zlib.crc32(file["seed"][:].tobytes())}
        file.attrs["sums"] = np.bytes_(json.dumps(sums).encode())
    assert runs.run(*SMALL, f"shards={shards}", to=left) == 1
    said = r"cannot resume in the middle of another order of data: data was \w+, now \w+"
    assert re.search(said, runs.said), runs.said
    assert runs.run(*SMALL, f"shards={shards}", "allow_mismatch=[data]", to=left) == 0, runs.said
    assert "goes on with other data, from the beginning of its epoch: data was" in runs.said


def test_other_libraries_are_said(runs: Faulty, left: Path) -> None:
    for path in (left / "checkpoints").glob("*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["elmur"]["versions"]["torch"] = "1.0"
        torch.save(checkpoint, path)
    assert runs.run(*SMALL, to=left) == 0, runs.said
    assert f"was written with torch 1.0, this is torch {torch.__version__}: the run goes on" in runs.said


@pytest.mark.parametrize("package", ["hdf5plugin", "h5py"])
def test_a_filter_or_reader_that_is_not_installed(runs: Faulty, tmp_path: Path, package: str) -> None:
    """None in sys.modules is how Python says that there is no such module."""
    gone = f"""
import sys
for name in [name for name in sys.modules if name.split(".")[0] in ({package!r}, "data")]:
    del sys.modules[name]
sys.modules[{package!r}] = None
"""
    assert runs.run(*SMALL, to=tmp_path / "run", fault=gone) == 1
    assert f"needs the Python package {package}, which is not installed here; `make setup` installs" in runs.said


def test_the_golden_run(runs: Faulty) -> None:
    """200 updates in double precision lose as they did when the file was written; a deleted file is written anew.

    In double precision, since another processor adds up in another order.
    """
    folder = runs.folder / "golden"
    command = [argument for argument in SMALL if not argument.startswith("trainer.max_steps")]
    command += ["trainer.max_steps=200", "trainer.precision=64-true", "callbacks.selection.every_n_updates=200"]
    assert runs.run(*command, to=folder) == 0, runs.said
    curve = [float(row["train/loss"]) for row in metrics(folder) if row["train/loss"]]
    assert len(curve) == 200 and curve[-1] < curve[0]
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps({"torch": str(torch.__version__), "train/loss": curve}) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert np.allclose(curve, golden["train/loss"], rtol=1e-4, atol=0), "delete the file if the change is meant"
    again = runs.folder / "again"
    assert runs.run(*command, to=again) == 0, runs.said
    assert metrics(again) == metrics(folder), "to the bit, on one machine"
