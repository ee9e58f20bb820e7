"""Files that give orders: names of code, paths, sizes and texts in whatever a command reads, refused in a sentence."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.command import DEEP, TINY, CommandLine, Done

pytestmark = pytest.mark.faults
Order = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="module")
def trained(cli: CommandLine) -> Path:
    """The folder of a tiny finished run."""
    done = cli.run(*TINY, *DEEP, to=(folder := cli.folder / "trained"))
    assert done.code == 0, done.stderr
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, half done."""
    shutil.copytree(trained, folder := tmp_path / "run")
    (folder / "result.json").unlink()
    return folder


def refused(done: Done, says: str, canary: Path | None = None) -> None:
    assert done.code == 1, done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr
    assert canary is None or not canary.exists(), "it was obeyed"


def indirect(canary: Path) -> dict[str, Any]:
    """The functions that build, told to build os.system: all three are members of our own packages."""
    system = {"_target_": "elmur.build.resolve", "name": "os.system", "path": "p", "allowed": ["os", "posix"]}
    return {"_target_": "elmur.build.call", "target": system, "arguments": {"command": f"touch {canary}"}, "path": "p"}


def builds(canary: Path) -> dict[str, Any]:
    order = {"_target_": "os.system", "command": f"touch {canary}"}
    return {"_target_": "elmur.build.build", "config": order, "allowed": ["os", "posix"]}


def writes(canary: Path) -> dict[str, Any]:
    return {"_target_": "elmur.files.write_text", "path": str(canary), "text": "x"}


def wrote_before(canary: Path) -> dict[str, Any]:
    return {"_target_": "data.atomic.write_text", "path": str(canary), "text": "x"}


def wrong_place(canary: Path) -> dict[str, Any]:
    return {"_target_": "callbacks.checkpoint.ResumePoint", "folder": str(canary)}


ORDERS = [indirect, builds, writes, wrote_before, wrong_place]


@pytest.mark.parametrize("order", ORDERS)
def test_in_a_checkpoint(cli: CommandLine, trained: Path, tmp_path: Path, order: Order) -> None:
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["elmur"]["model"]["dropout"] = order(tmp_path / "canary")
    torch.save(checkpoint, path := tmp_path / "evil.ckpt")
    done = cli.run("stage=evaluate", f"checkpoint={path}", *TINY)
    refused(done, f"{path}: model.dropout._target_: ", tmp_path / "canary")


@pytest.mark.parametrize("key", ["dropout", "norm_type"])
def test_in_a_published_configuration(cli: CommandLine, tmp_path: Path, key: str) -> None:
    model = {"env_name": "tmaze", "state_dim": 4, "act_dim": 4, "use_tok2mem": True, "use_mem2tok": True}
    config = {"model": {**model, key: indirect(tmp_path / "canary")}, "training": {"context_length": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "best_checkpoint.pth")
    refused(cli.run("stage=import", f"source={tmp_path}"), "config.json", tmp_path / "canary")


PLACES = ["model.dropout", "model.dropatt", "trainer.precision", "env.expert", "collect.noise"]


@pytest.mark.parametrize(("order", "place"), list(zip(ORDERS, PLACES, strict=True)))
def test_in_somebodys_yaml(cli: CommandLine, tmp_path: Path, order: Order, place: str) -> None:
    section, key = place.split(".")
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\n" + json.dumps({section: {key: order(tmp_path / "canary")}})
    (tmp_path / "experiment" / "nice.yaml").write_text(text)
    done = cli.run(f"--config-dir={tmp_path}", "experiment=nice", *TINY, to=tmp_path / "run")
    refused(done, f"{place}._target_: ", tmp_path / "canary")


HYDRA: dict[str, dict[str, Any]] = {
    "a shell line of a launcher": {"launcher": {"_target_": "basic", "setup": ["touch CANARY"]}},
    "the environment": {"job": {"env_set": {"PYTHONPATH": "CANARY"}}},
    "another place for its names": {"searchpath": ["file://CANARY"]},
    "an import of the log": {"job_logging": {"handlers": {"console": {"stream": "ext://antigravity.fly"}}}},
    "a log elsewhere": {"job_logging": {"handlers": {"file": {"filename": "CANARY"}}}},
    "a log above": {"job_logging": {"handlers": {"file": {"filename": "${hydra.runtime.output_dir}/../canary"}}}},
}


@pytest.mark.parametrize("order", HYDRA)
def test_of_hydra_in_somebodys_yaml(cli: CommandLine, tmp_path: Path, order: str) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\n" + json.dumps({"hydra": HYDRA[order]}).replace("CANARY", str(tmp_path / "canary"))
    (tmp_path / "experiment" / "nice.yaml").write_text(text)
    done = cli.run(f"--config-dir={tmp_path}", "experiment=nice", *TINY, to=tmp_path / "run")
    refused(done, "", tmp_path / "canary")


def test_a_file_does_not_allow_a_plugin(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "evilpkg.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\n")
    (tmp_path / "experiment").mkdir()
    order = {"plugins": ["evilpkg"], "env": {"expert": {"_target_": "evilpkg.Expert"}}}
    for given in (order, {**order, "hydra": {"job": {"env_set": {"ELMUR_PLUGINS": "evilpkg"}}}}):
        (tmp_path / "experiment" / "nice.yaml").write_text("# @package _global_\n" + json.dumps(given))
        done = cli.run(f"--config-dir={tmp_path}", "experiment=nice", *TINY, PYTHONPATH=str(tmp_path))
        refused(done, "plugins=[evilpkg]", tmp_path / "canary")


RULES = """
from elmur.memory import LRU

class Own(LRU):
    pass
"""


def test_a_plugin_is_allowed_by_who_types_it_each_time(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "ownrules").mkdir()
    (tmp_path / "ownrules" / "__init__.py").write_text(RULES)
    own, path = ("model.memory.write._target_=ownrules.Own", "plugins=[ownrules]"), str(tmp_path)
    with_path = {"PYTHONPATH": path}
    refused(cli.run(*TINY, *DEEP, own[0], **with_path), "plugins=[ownrules]")
    done = cli.start(*TINY, *DEEP, *own, f"hydra.run.dir={tmp_path}/b", **with_path)
    assert done.code == 0, done.stderr
    checkpoint = f"checkpoint={tmp_path}/b/checkpoints/best.ckpt"
    done = cli.run("stage=evaluate", checkpoint, *TINY, **with_path)
    refused(done, "'ownrules.Own' is refused")
    assert "plugins=[ownrules]" in done.stderr
    with_plugin = {**with_path, "ELMUR_PLUGINS": "ownrules"}
    done = cli.start("stage=evaluate", checkpoint, *TINY, f"hydra.run.dir={tmp_path}/d", **with_plugin)
    assert done.code == 0, done.stderr
    (tmp_path / "b" / "result.json").unlink()
    refused(cli.run(f"resume={tmp_path}/b", to=tmp_path / "b", **with_path), "'ownrules.Own' is refused")
    done = cli.start(f"resume={tmp_path}/b", "plugins=[ownrules]", **with_path)
    assert done.code == 0, done.stderr


def set_in(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(settings: dict[str, Any]) -> None:
        *sections, key = path.split(".")
        for section in sections:
            settings = settings[section]
        settings[key] = value

    return change


STORED = [
    ("callbacks.x", {"_target_": "elmur.files.write_text", "path": "CANARY", "text": "x"}, "callbacks.x._target_"),
    ("callbacks.x", {"_target_": "data.atomic.write_text", "path": "CANARY", "text": "x"}, "callbacks.x._target_"),
    ("model.dropout", {"_target_": "elmur.build.call", "target": "x", "arguments": {}, "path": "p"}, "model.dropout"),
    ("env.expert", {"_target_": "elmur.build.resolve", "name": "os.system"}, "env.expert._target_"),
    ("callbacks.resume.folder", "CANARY", "leads out of the run's folder"),
    ("callbacks.resume.folder", "canary", "leads out of the run's folder"),
    ("callbacks.metrics.folder", "${run_dir}/../canary", "leads out of the run's folder"),
    ("callbacks.metrics.folder", "~/canary", "leads out of the run's folder"),
    ("callbacks.metrics.folder", "${oc.env:HOME}/canary", "leads out of the run's folder"),
    ("trainer.default_root_dir", "CANARY", "leads out of the run's folder"),
    ("data.root", "CANARY", "leads out of the run's folder"),
    ("data.root", "${shards}/../canary", "leads out of the run's folder"),
    ("shards", "CANARY", "which a file alone cannot choose"),
    ("trainer.strategy", {"_target_": "subprocess.Popen", "args": "touch CANARY", "shell": True}, "trainer.strategy"),
    ("model", [1], "expected the settings of a run"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "says"), STORED)
def test_in_the_settings_of_a_run(cli: CommandLine, run: Path, tmp_path: Path, key: str, value: Any, says: str) -> None:
    text = (run / "settings.json").read_text()
    set_in(key, json.loads(json.dumps(value).replace("CANARY", str(tmp_path / "canary"))))(found := json.loads(text))
    (run / "settings.json").write_text(json.dumps(found))
    refused(cli.run(f"resume={run}", "allow_mismatch=[code]", to=run), says, tmp_path / "canary")


def test_settings_without_an_order_go_on(cli: CommandLine, run: Path) -> None:
    done = cli.run(f"resume={run}", "allow_mismatch=[code]", to=run)
    assert done.code == 0, done.stderr


def test_stored_settings_choose_no_logger(cli: CommandLine, run: Path, tmp_path: Path) -> None:
    found = json.loads((run / "settings.json").read_text())
    found["logger"] = {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "save_dir": str(tmp_path / "canary")}
    (run / "settings.json").write_text(json.dumps(found))
    cli.run(f"resume={run}", "allow_mismatch=[code]", to=run)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100 + "1" + "}" * 100, '{"a": NaN}', '{"a": 1e999}', "\xff", "9" * 9999]
)
@pytest.mark.parametrize("name", ["settings.json", "result.json"])
def test_json_that_is_none_of_ours(cli: CommandLine, run: Path, name: str, text: str) -> None:
    (run / name).write_bytes(text.encode("latin-1"))
    refused(cli.run(f"resume={run}", "allow_mismatch=[code]", to=run), str(run / name))


def test_links_out_of_a_run_are_not_followed(cli: CommandLine, run: Path, tmp_path: Path) -> None:
    (run / "run.log").unlink(missing_ok=True)
    (run / "run.log").symlink_to(tmp_path / "canary")
    refused(cli.run(f"resume={run}", "allow_mismatch=[code]", to=run), "found a link or a pipe", tmp_path / "canary")


@pytest.mark.parametrize(
    "name", ["settings.json", "result.json", "run.log", "logs/metrics.csv", "checkpoints/last.ckpt"]
)
def test_a_pipe_is_not_waited_for(cli: CommandLine, run: Path, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    for previous in (run / "checkpoints").glob("previous.ckpt"):
        previous.unlink()
    (run / name).parent.mkdir(exist_ok=True)
    os.mkfifo(run / name)
    begin = time.monotonic()
    refused(cli.run(f"resume={run}", "allow_mismatch=[code]", to=run), name.rpartition("/")[2])
    assert time.monotonic() - begin < 60


def test_pipes_among_results_data_and_archives(cli: CommandLine, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "a" / "b").mkdir(parents=True)
    os.mkfifo(tmp_path / "runs" / "a" / "b" / "result.json")
    refused(cli.run("stage=report", f"source={tmp_path}/runs"), "found no result.json")
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "data" / "shard-00000.h5")
    refused(cli.run(*TINY, *DEEP, f"data.root={tmp_path}/data"), "shard-00000.h5")
    (tmp_path / "other").mkdir()
    os.mkfifo(tmp_path / "other" / "collection.json")
    refused(cli.run(*TINY, *DEEP, f"data.root={tmp_path}/other"), "collection.json")
    os.mkfifo(tmp_path / "config.json")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "best_checkpoint.pth")
    refused(cli.run("stage=import", f"source={tmp_path}"), "config.json")
    os.mkfifo(tmp_path / "x.ckpt")
    refused(cli.run("stage=evaluate", f"checkpoint={tmp_path}/x.ckpt", *TINY), "x.ckpt")
    (tmp_path / "archive").mkdir()
    os.mkfifo(tmp_path / "archive" / "train_data_0.npz")
    refused(cli.run("stage=convert", f"source={tmp_path}/archive", "task=popgym_repeat_first_easy"), "found a pipe")


EVIL = "x/../../../traversed"
TEXTS = (
    "\x1b[2J\x1b]0;owned\x07", '=HYPERLINK("http://evil")', "<script>x</script>", "![x](http://evil/p.png)", "[red]r",
)  # fmt: skip


def test_what_rows_say_stays_text_in_the_folder_of_the_report(cli: CommandLine, trained: Path, tmp_path: Path) -> None:
    good = json.loads((trained / "result.json").read_text())
    for number, text in enumerate([EVIL, *TEXTS]):
        outcomes = {f"{text}-{name}": outcome for name, outcome in good["outcomes"].items()}
        row = {**good, "model": text, "task": text, "outcomes": outcomes, "actions": text}
        for metric in ("success", "return"):
            folder = tmp_path / "runs" / f"{metric}{number}" / "seed-0"
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps({**row, "metric": metric}))
    # A row of a suite, of which a figure is drawn under the model's name.
    reference = {"random": 0.0, "expert": 1.0}
    suite = {**good, "model": EVIL, "task": "popgym-RepeatFirstEasy-v0", "metric": "return", "suite": "popgym48"}
    (folder := tmp_path / "runs" / "suite" / "seed-0").mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({**suite, "reference": reference}))
    before = set(tmp_path.rglob("*"))
    done = cli.run("stage=report", f"source={tmp_path}/runs", to=(out := tmp_path / "report"), COLUMNS="400")
    assert done.code == 0, done.stderr
    assert all(path.is_relative_to(out) for path in set(tmp_path.rglob("*")) - before)
    assert list((out / "figures").glob("*.svg"))
    for text in (done.stdout, done.stderr, (out / "run.log").read_text()):
        assert "\x1b[2J" not in text and "\x1b]0" not in text
    assert "[red]r" in done.stdout, "markup is shown, not obeyed"
    for path in (out / "report.html", *out.rglob("*.svg")):
        page = path.read_text()
        assert "<script" not in page and "\x1b" not in page and "<img" not in page
        assert "[red]r" in page or "popgym48" in path.name  # where the suite's row stands alone
    page = (out / "report.md").read_text()
    assert "<script" not in page and "](http" not in page.replace("\\](", "") and "\x1b" not in page
    with (out / "report.csv").open() as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert any("HYPERLINK" in cell for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))]


def test_nothing_is_unpickled_to_repeat_a_run(cli: CommandLine, tmp_path: Path) -> None:
    import pickle

    class Payload:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'canary'}",)

    (tmp_path / "x.pickle").write_bytes(pickle.dumps(Payload()))
    for option in ("--experimental-rerun", "--experimental-r", "--exp"):
        refused(cli.run(option, str(tmp_path / "x.pickle")), "would run code that a file holds", tmp_path / "canary")


def expanded(checkpoint: dict[str, Any]) -> None:
    weights = checkpoint["state_dict"]
    name = next(name for name in weights if name.endswith("weight") and weights[name].ndim == 2)
    weights[name] = torch.zeros(1).expand(1 << 15, 1 << 15)


def expanded_elsewhere(checkpoint: dict[str, Any]) -> None:
    checkpoint["loops"] = {"deep": [torch.zeros(1, dtype=torch.int8).expand(1 << 33)]}


def sparse(checkpoint: dict[str, Any]) -> None:
    where = torch.zeros(2, 1, dtype=torch.long)
    checkpoint["optimizer_states"] = [torch.sparse_coo_tensor(where, torch.ones(1), (1 << 20, 1 << 20))]


def quantised(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer_states"] = [torch.quantize_per_tensor(torch.zeros(4), 1.0, 0, torch.qint8)]


def on_meta(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer_states"] = [torch.zeros(1 << 40, device="meta")]


def shared(checkpoint: dict[str, Any]) -> None:
    one = torch.zeros(1 << 20)
    checkpoint["optimizer_states"] = [one.view(1 << 20) for _ in range(4096)]


def described(**values: Any) -> Callable[[dict[str, Any]], None]:
    def change(checkpoint: dict[str, Any]) -> None:
        for key, value in values.items():
            set_in(key.replace("__", "."), value)(checkpoint["elmur"]["model"])

    change.__name__ = "described " + ", ".join(f"{key}={str(value)[:12]}" for key, value in values.items())
    return change


def laughing(checkpoint: dict[str, Any]) -> None:
    """A list of two lists of two lists ...: 2**40 values in a hundred bytes."""
    node: Any = [1]
    for _ in range(30):
        node = [node, node]
    checkpoint["elmur"]["model"]["dropout"] = node


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (expanded, "tensors of 4"), (expanded_elsewhere, "tensors of 8"), (sparse, "not dense"), (on_meta, ""),
        (quantised, ""), (shared, "tensors of"), (laughing, "values, or nested deeper"),
        (described(memory__memory_size=10**9), "the number 1e+09"),
        (described(memory__memory_size=1 << 20, memory__bias=None), "bytes for each episode"),
        (described(n_head=10**9), "the number 1e+09"), (described(d_model=10**30), "the number 1e+30"),
        (described(dropout=float("nan")), "the number nan"), (described(dropout=float("inf")), "the number inf"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Sparse invariant checks", "ignore:torch.quantize_per_tensor")
def test_a_checkpoint_takes_no_more_room_than_its_file(
    cli: CommandLine, trained: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path := tmp_path / "evil.ckpt")
    assert path.stat().st_size < 1 << 23
    refused(cli.run("stage=evaluate", f"checkpoint={path}", *TINY), says)


@pytest.mark.parametrize("key", ["memory_size", "num_experts", "state_dim"])
def test_a_published_run_takes_no_more_room_than_its_files(cli: CommandLine, tmp_path: Path, key: str) -> None:
    model = {"env_name": "tmaze", "state_dim": 4, "act_dim": 4, "use_tok2mem": True, "use_mem2tok": True}
    config = {"model": {**model, key: 10**9}, "training": {"context_length": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "best_checkpoint.pth")
    refused(cli.run("stage=import", f"source={tmp_path}"), "the number 1e+09")


@pytest.mark.parametrize("number", [10**9, -1, 1.5, True])
def test_a_record_tells_of_no_more_shards_than_there_can_be(
    cli: CommandLine, trained: Path, tmp_path: Path, number: Any
) -> None:
    (good,) = cli.folder.glob("shards/*/collection.json")
    shutil.copytree(good.parent, folder := tmp_path / "data")
    (folder / "collection.json").write_text(json.dumps({**json.loads(good.read_text()), "num_shards": number}))
    refused(cli.run(*TINY, *DEEP, f"data.root={folder}"), "collection.json, record: found")


def test_an_archive_unpacks_to_no_more_than_an_episode(cli: CommandLine, tmp_path: Path) -> None:
    one, no = np.zeros(1, np.int64), np.zeros(1, np.bool_)
    path = tmp_path / "train_data_0.npz"
    np.savez_compressed(path, obs=one[:, None], action=one, done=no, reward=np.zeros(1 << 24, np.float64))
    assert path.stat().st_size < 1 << 22
    done = cli.run("stage=convert", f"source={tmp_path}", "task=popgym_repeat_first_easy")
    refused(done, "bytes for an episode of this task, found 134")


def test_a_memory_larger_than_the_machine_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    done = cli.run(*TINY, *DEEP, "model.memory.memory_size=1000000000", ELMUR_SHARDS=str(folder))
    refused(done, "lower model.memory.memory_size")
    assert not folder.exists()
