"""The wheel: it holds the library alone and gives a policy beside a project with rooms of the same names."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from tests.command import ROOT

RUNS = ROOT / "tests" / "written_before" / "runs.tar.xz"
HELD = ("elmur", "pyproject.toml", "LICENSE")
# What acting does without: the platform's libraries, and Lightning itself.
WITHOUT = (
    "lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics", "hydra", "omegaconf", "h5py", "scipy",
    "gymnasium", "rich", "matplotlib",
)  # fmt: skip
PROJECT = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {WITHOUT}:
            raise ModuleNotFoundError(f"{{name}} is not installed here")
sys.meta_path.insert(0, Missing())
import callbacks, data, elmur
assert callbacks.MINE and data.MINE
assert "torch" not in sys.modules, "torch is imported when it is needed"
policy = elmur.load(sys.argv[1])
spec = policy.model.spec
actions = []
for step in range(25):
    actions.append(int(policy.act({{name: [0] * field.shape[0] for name, field in spec.observation.items()}})))
assert all(0 <= action < spec.action.sizes[0] for action in actions)
assert elmur.__file__.startswith(sys.prefix), elmur.__file__
print("acted", len(actions))
"""


def call(*command: object, cwd: Path) -> str:
    """What a command that succeeds says, in an environment that names no path of this checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what git would give of this checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = call("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *HELD, cwd=ROOT)
    for name in files.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    call(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", out, source, cwd=out)
    (found,) = out.glob("*.whl")
    return found


@pytest.mark.slow
def test_it_holds_the_library_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"elmur"}
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "elmur").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == here and len(here) > 30


@pytest.mark.slow
def test_it_acts_beside_a_project_with_rooms_of_its_own(wheel: Path, tmp_path: Path) -> None:
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet")
    call(*pip, "--no-deps", wheel, cwd=tmp_path)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # torch and numpy from where they are; what is installed there by a .pth, as this checkout, is not read.
    (site / "beside.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    project = tmp_path / "project"
    for room in ("data", "callbacks"):
        (project / room).mkdir(parents=True)
        (project / room / "__init__.py").write_text("MINE = True\n")
    (project / "play.py").write_text(PROJECT)
    with tarfile.open(RUNS) as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    for name in ("default", "gru"):
        assert call(python, "play.py", tmp_path / "runs" / name, cwd=project) == "acted 25\n"
