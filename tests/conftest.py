"""What holds for every test: shapes are checked, one thread, no screen, no network, no user's folders."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before numpy and torch are imported, and inherited by every process that a test starts.
for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
os.environ.update(MPLBACKEND="Agg", WANDB_MODE="offline", WANDB_SILENT="true")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the CPU, unless the caller names a GPU
for _setting in ("HYDRA_FULL_ERROR", "ELMUR_SHARDS", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
    os.environ.pop(_setting, None)

# What a shell starts in the background ignores Ctrl-C, what nohup starts ignores a closed terminal, and so would all
# that the tests start to be stopped by them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from hypothesis import settings  # noqa: E402
from jaxtyping import config as jaxtyping_config  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

settings.register_profile("house", deadline=None, derandomize=True)  # the same on a busy machine, and every time
settings.load_profile("house")

# Whatever imports elmur later gets its tensor shapes checked at every call, in the tests of elmur (see below).
# Not spec.py: it has no tensors, and turns what it is given into what it says. Nor state.py, which takes any nest: the
# functions inside its functions would be compiled anew at every call, a third of the time of many tests.
_rooms = (Path(__file__).parent.parent / "elmur").iterdir()
_checked = [f"elmur.{path.stem}" for path in _rooms if path.stem not in ("spec", "state")]
# jaxtyping evaluates this text; the tower lets an int stand where a float is expected, as mypy has it.
install_import_hook(_checked, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import torch  # noqa: E402

from tests.command import CommandLine  # noqa: E402

torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check shapes in the tests of elmur; where others act and train, that would take as long as the rest."""
    checked = item.path.is_relative_to(Path(__file__).parent / "elmur")
    jaxtyping_config.update("jaxtyping_disable", not checked)


@pytest.fixture(scope="session", autouse=True)
def shards_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trajectories that a test collects by default go where no other run finds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELMUR_SHARDS", str(tmp_path_factory.mktemp("shards")))
        yield


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """`python run.py ...` for the tests of one file, which share what they collect."""
    return CommandLine(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def conf() -> Iterator[None]:
    """What `hydra.compose` gives is the project's configuration."""
    import hydra

    import run  # noqa: F401 - the resolvers

    with hydra.initialize_config_dir(str(Path(__file__).parent.parent / "conf"), version_base="1.3"):
        yield
