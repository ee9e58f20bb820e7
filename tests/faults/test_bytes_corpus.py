"""Files and configurations made to run code or to fill the memory: refused in one sentence, and none of it runs."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from tests.command import DEEP, TINY, CommandLine, Done

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def trained(cli: CommandLine) -> Path:
    """The folder of a tiny finished run."""
    done = cli.run(*TINY, *DEEP, to=(folder := cli.folder / "trained"))
    assert done.code == 0, done.stderr
    return folder


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def refused(done: Done, canary: Path, says: str) -> None:
    assert done.code == 1, done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr
    assert not canary.exists(), "the payload ran"


def test_the_payload_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_the_checkpoint_that_is_changed_below_is_good(cli: CommandLine, trained: Path) -> None:
    done = cli.run("stage=evaluate", f"checkpoint={trained}/checkpoints/best.ckpt", *TINY)
    assert done.code == 0, done.stderr


def pickled(checkpoint: dict[str, Any], canary: Path, path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(canary)))


def inside(checkpoint: dict[str, Any], canary: Path, path: Path) -> None:
    torch.save({**checkpoint, "callbacks": Payload(canary)}, path)


def legacy(checkpoint: dict[str, Any], canary: Path, path: Path) -> None:
    torch.save({**checkpoint, "loops": Payload(canary)}, path, _use_new_zipfile_serialization=False)


def object_array(checkpoint: dict[str, Any], canary: Path, path: Path) -> None:
    content = io.BytesIO()
    np.savez(content, weights=np.array([Payload(canary)], dtype=object))
    path.write_bytes(content.getvalue())


def bomb(checkpoint: dict[str, Any], canary: Path, path: Path) -> None:
    torch.save(checkpoint, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/999", bytes(1 << 28))


def climbing(checkpoint: dict[str, Any], canary: Path, path: Path) -> None:
    torch.save(checkpoint, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"../{canary.name}", "x")


def hyper(**values: str) -> Callable[..., None]:
    def make(checkpoint: dict[str, Any], canary: Path, path: Path) -> None:
        given = {key: value.format(canary=canary) for key, value in values.items()}
        torch.save({**checkpoint, "hyper_parameters": given}, path)

    return make


def ours(change: Callable[[dict[str, Any], dict[str, Any], Path], None]) -> Callable[..., None]:
    def make(checkpoint: dict[str, Any], canary: Path, path: Path) -> None:
        change(checkpoint["elmur"], checkpoint["state_dict"], canary)
        torch.save(checkpoint, path)

    return make


def names(target: str, key: str | None = None, **arguments: Any) -> Callable[..., None]:
    def change(elmur: dict[str, Any], weights: dict[str, Any], canary: Path) -> None:
        node = {"_target_": target, **{k: str(v).format(canary=canary) for k, v in arguments.items()}}
        elmur["model"] = node if key is None else {**elmur["model"], key: node}

    return ours(change)


def sets(**values: Any) -> Callable[..., None]:
    return ours(lambda elmur, weights, canary: elmur.update(values))


def describes(**values: Any) -> Callable[..., None]:
    return ours(lambda elmur, weights, canary: elmur["model"].update(values))


def not_a_number(elmur: dict[str, Any], weights: dict[str, Any], canary: Path) -> None:
    weights[next(name for name in weights if name.endswith("weight"))].view(-1)[0] = float("nan")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (pickled, "damaged or holds code; nothing in it was executed"),
        (inside, "damaged or holds code; nothing in it was executed"),
        (legacy, "damaged or holds code; nothing in it was executed"),
        (object_array, "nothing in it was executed"),
        (bomb, "a compressed zip that declares 268"),
        (climbing, "a zip whose members leave its folder"),
        (hyper(_instantiator="os.system", command="touch {canary}"), "the key 'hyper_parameters'"),
        (hyper(_class_path="os.system", command="touch {canary}"), "the key 'hyper_parameters'"),
        (names("os.system", command="touch {canary}"), "'os.system'"),
        (names("os.system", "position", command="touch {canary}"), "'os.system' is refused"),
        (names("builtins.exec", "feedforward", source="open('{canary}', 'w')"), "'builtins.exec' is refused"),
        (names("elmur.memory.torch.load", "position", f="{canary}"), "elmur.memory.torch.load"),
        (names("elmur.checkpoint.read_checkpoint", "position", path="{canary}"), "is refused"),
        (names("torch.hub.load", "position", repo_or_dir="{canary}"), "'torch.hub.load' is refused"),
        (sets(model="os.system"), 'elmur.model = "os.system" where dict belongs'),
        (sets(context_length=-1), "elmur.context_length = -1 where 1 or more belongs"),
        (sets(spec="{}"), "elmur.spec: not a TaskSpec"),
        (describes(n_layer=10**9), "the number 1e+09"),
        (describes(n_layer=1000), "1000 layers for"),
        (describes(d_model=1 << 20), "its weights do not fit the model it describes"),
        (ours(not_a_number), "numbers that are not finite in its weights"),
    ],
)  # fmt: skip
def test_a_malicious_checkpoint_is_refused(
    cli: CommandLine, trained: Path, tmp_path: Path, make: Callable[..., None], says: str
) -> None:
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    canary, path = tmp_path / "canary", tmp_path / "evil.ckpt"
    make(checkpoint, canary, path)
    refused(cli.run("stage=evaluate", f"checkpoint={path}", *TINY), canary, says)
    # And where a run would go on from it.
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "result.json").unlink()
    for name in ("last.ckpt", "previous.ckpt"):
        shutil.copy(path, folder / "checkpoints" / name)
    done = cli.run(*TINY, *DEEP, to=folder)
    assert not canary.exists(), "the payload ran"
    if done.code == 0:  # what it says of the model is not used to go on: the command line's is
        assert make.__qualname__.startswith("ours."), done.stdout


@pytest.mark.parametrize("make", [pickled, inside, legacy, object_array])
def test_malicious_published_weights_are_refused(cli: CommandLine, tmp_path: Path, make: Callable[..., None]) -> None:
    canary = tmp_path / "canary"
    make({"weight": torch.zeros(1)}, canary, tmp_path / "best_checkpoint.pth")
    (tmp_path / "config.json").write_text('{"model": {"d_model": 8}, "training": {"context_length": 2}}')
    done = cli.run("stage=import", f"source={tmp_path}")
    assert done.code == 1 and done.stderr.count("\n") == 1, done.stderr
    assert not canary.exists(), "the payload ran"


TARGETS = [
    "model._target_=os.system",
    "model.position._target_=subprocess.Popen",
    "trainer._target_=builtins.exec",
    "logger._target_=builtins.eval",
    "module.optimizer._target_=torch.load",
    "module.schedule._target_=elmur.module.random.seed",
    "data._target_=pickle.loads",
    "env.make._target_=importlib.import_module",
    "env.expert._target_=shutil.rmtree",
    "+callbacks.x={_target_:os.system,command:'touch CANARY'}",
    "+trainer.profiler={_target_:runpy.run_path,path_name:CANARY}",
    "+data.collect={_target_:os.system,_partial_:true,command:'touch CANARY'}",
    "+hydra.callbacks.x={_target_:os.system,command:'touch CANARY'}",
    "+hydra.callbacks.x={_target_:callbacks.command.settings.difflib.get_close_matches,word:x}",
    "hydra.launcher._target_=os.system",
    "+hydra.job_logging.handlers.x={class:subprocess.Popen,args:'touch CANARY',shell:true}",
    "+hydra.job_logging.handlers.x={class:logging.os.system,command:'touch CANARY'}",
    "+hydra.job_logging.filters.x.\\(\\)=os.system",
]  # fmt: skip


@pytest.mark.parametrize("override", TARGETS)
def test_a_target_outside_the_list_is_refused(cli: CommandLine, tmp_path: Path, override: str) -> None:
    done = cli.run(*TINY, override.replace("CANARY", str(tmp_path / "canary")), to=(folder := tmp_path / "run"))
    refused(done, tmp_path / "canary", "")
    assert not (folder / "settings.json").exists(), "nothing was begun"


@pytest.mark.parametrize("multirun", [False, True])
def test_a_target_in_somebodys_yaml_is_refused(cli: CommandLine, tmp_path: Path, multirun: bool) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "nice.yaml").write_text(
        "# @package _global_\nhydra:\n  hydra_logging:\n    handlers:\n      x:\n"
        f"        (): os.system\n        command: touch {canary}\n  callbacks:\n    x:\n"
        f"      _target_: os.system\n      command: touch {canary}\n"
    )
    arguments = ["-m", "seed=0,1"] if multirun else []
    done = cli.run(f"--config-dir={tmp_path}", *arguments, "experiment=nice", to=tmp_path / "run")
    refused(done, canary, "hydra.")


def edited(change: Callable[[Any, Path], None]) -> Callable[[Path, Path], None]:
    def make(path: Path, canary: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file, path)

    return make


def put(key: str, **options: Any) -> Callable[[Path, Path], None]:
    """Another data set in the place of one of ours."""

    def change(file: Any, path: Path) -> None:
        shape, kind = file[key].shape, file[key].dtype
        del file[key]
        file.create_dataset(key, **{"shape": shape, "dtype": kind, "data": None, **options})

    return edited(change)


def link(key: str, target: Any) -> Callable[[Path, Path], None]:
    def change(file: Any, path: Path) -> None:
        del file[key]
        file[key] = target

    return edited(change)


def virtual(file: Any, path: Path) -> None:
    rows = file["reward"].shape
    del file["reward"]
    layout = h5py.VirtualLayout(shape=rows, dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/hostname.h5", "reward", shape=rows)
    file.create_virtual_dataset("reward", layout)


def climbing_part(file: Any, path: Path) -> None:
    spec = bytes(file.attrs["spec"]).decode().replace('"state"', '"../state"')
    file.attrs["spec"] = np.bytes_(spec.encode())


def pickled_shard(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(canary)))


def archive(path: Path, canary: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, reward=np.array([Payload(canary)], dtype=object))


HUGE = 1 << 40
RAW = {"fletcher32": True}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (pickled_shard, "that HDF5 refuses"),
        (archive, "that HDF5 refuses"),
        (link("reward", h5py.ExternalLink("/etc/passwd", "reward")), "reward: found a ExternalLink"),
        (link("observation", h5py.ExternalLink("other.h5", "observation")), "found a ExternalLink"),
        (link("reward", h5py.SoftLink("/action")), "reward: found a SoftLink"),
        (edited(virtual), "reward: found storage"),
        (put("reward", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]), "reward: found storage"),
        (put("reward", compression="lzf", **RAW), "reward: found storage with HDF5 filters"),
        (put("reward", chunks=(16,), compression=307, allow_unknown_filter=True, **RAW), "found storage with HDF5"),
        (put("offsets", shape=(HUGE,), chunks=(1024,), **RAW), "offsets: found 0 chunks"),
        (put("reward", chunks=(16,), **RAW), "reward: found 0 chunks"),
        (edited(climbing_part), "cannot name a data set"),
    ],
)  # fmt: skip
def test_a_malicious_shard_is_refused(
    cli: CommandLine, trained: Path, tmp_path: Path, make: Callable[[Path, Path], None], says: str
) -> None:
    (good,) = cli.folder.glob("shards/*/shard-00000.h5")
    shutil.copy(good, path := tmp_path / "shard-00000.h5")
    canary = tmp_path / "canary"
    make(path, canary)
    done = cli.run(*TINY, *DEEP, f"data.root={tmp_path}")
    refused(done, canary, says)
    assert str(path) in done.stderr


def test_a_small_shard_does_not_unpack_to_fill_the_memory(cli: CommandLine, trained: Path, tmp_path: Path) -> None:
    """1.5 GiB of zeros in one compressed chunk of some kilobytes."""
    import hdf5plugin

    (good,) = cli.folder.glob("shards/*/shard-00000.h5")
    shutil.copy(good, path := tmp_path / "shard-00000.h5")
    with h5py.File(path, "r+") as file:
        del file["offsets"]
        kind = {"dtype": "i8", "chunks": (3 << 26,), "fletcher32": True, **hdf5plugin.Zstd(clevel=1)}
        file.create_dataset("offsets", (3 << 26,), **kind)[:] = 0
    assert path.stat().st_size < 1 << 20
    refused(
        cli.run(*TINY, *DEEP, f"data.root={tmp_path}"), tmp_path / "canary", "offsets: found storage with HDF5 filters"
    )


def test_data_of_another_task_are_refused_before_anything_is_trained(
    cli: CommandLine, trained: Path, tmp_path: Path
) -> None:
    (good,) = cli.folder.glob("shards/*/shard-00000.h5")
    shutil.copy(good, path := tmp_path / "shard-00000.h5")
    with h5py.File(path, "r+") as file:
        spec = bytes(file.attrs["spec"]).decode().replace('"sizes": [4]', '"sizes": [5]')
        file.attrs["spec"] = np.bytes_(spec.encode())
    done = cli.run(*TINY, *DEEP, f"data.root={tmp_path}", to=(folder := tmp_path / "run"))
    refused(done, tmp_path / "canary", "action: expected discrete[4], found discrete[5]")
    assert not (folder / "checkpoints").exists()
