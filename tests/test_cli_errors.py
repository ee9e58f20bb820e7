"""Every error that a user will make: one sentence on stderr, exit code 1, no traceback, nothing collected."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elmur.files import exclusive
from elmur.spec import TaskSpec
from tests.command import DEEP, ROOT, TINY, CommandLine, Done

MODELS = ", ".join(sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")))
TASKS = len(list((ROOT / "conf" / "task").glob("*.yaml")))
HINT = " (HYDRA_FULL_ERROR=1 shows the traceback)"


@pytest.fixture(scope="module")
def trained(cli: CommandLine) -> Path:
    """The folder of a tiny finished run."""
    folder = cli.folder / "trained"
    assert cli.run(*TINY, *DEEP, to=folder).code == 0
    return folder


def refused(done: Done) -> str:
    """The sentence of a refused command."""
    assert done.code == 1, done
    assert "Traceback" not in done.stderr + done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and lines[0].endswith(HINT), done.stderr
    return lines[0].removeprefix("error: ").removesuffix(HINT)


# What is typed -> words of the sentence: where, what was found, what would be right.
EARLY = {
    "unknown key": (["nope=1"], ["nope: there is no such setting", "--cfg job"]),
    "unknown key in a section": (["trainer.nope=1"], ["trainer.nope: there is no such setting"]),
    "a key of what is swept": (
        ["-m", "task=popgym_autoencode_easy,popgym_repeat_first_easy", "recipe.updates=5"],
        ["recipe.updates: there is no such setting", "is swept (task=A,B) brings it, write ++recipe.updates=5"],
    ),
    "added key": (["+nope=1"], ["nope: there is no such setting", "known are stage, seed"]),
    "added key, nearly right": (["+checkpiont=a"], ["checkpiont: there is no such setting; did you mean checkpoint?"]),
    "added key, forced": (["++nope=1"], ["nope: there is no such setting"]),
    "added to model": (["+model.foo=1"], ["model.foo: unknown key of ELMUR", "d_model"]),
    "added to a part of the model": (["+model.memory.write.foo=1"], ["model.memory.write.foo: unknown key of LRU"]),
    "added to a partial": (["+model.feedforward.d_f=1"], ["did you mean model.feedforward.d_ff?"]),
    "added to module": (["+module.foo=1"], ["module.foo: unknown key of SequenceModule"]),
    "added to schedule": (["+module.schedule.flor=1"], ["did you mean module.schedule.floor?"]),
    "added to optimizer": (["+module.optimizer.foo=1"], ["module.optimizer.foo: unknown key of adamw"]),
    "added to data": (["+data.foo=1"], ["data.foo: unknown key of TrajectoryDataModule"]),
    "added to trainer": (["+trainer.foo=1"], ["trainer.foo: unknown key of Trainer"]),
    "added to logger": (["+logger.foo=1"], ["logger.foo: there is no such setting"]),
    "added to env": (["+env.foo=1"], ["env.foo: there is no such setting"]),
    "added to env.make": (["+env.make.foo=1"], ["env.make.foo: unknown key of make_vector"]),
    "added to collect": (["+collect.foo=1"], ["collect.foo: unknown key of collect"]),
    "added to evaluation": (["+evaluation.foo=1"], ["evaluation.foo: unknown key of EvaluationPlan"]),
    "added to callbacks": (["+callbacks.foo=1"], ["callbacks.foo: expected a callback"]),
    "added to a callback": (["+callbacks.selection.foo=1"], ["callbacks.selection.foo: unknown key"]),
    "added to selection": (
        ["+selection.first_seed=7"],
        ["selection.first_seed: nothing reads it, known are every_n_updates", "+callbacks.selection.first_seed= sets"],
    ),
    "added to recipe": (["+recipe.d_modle=7"], ["recipe.d_modle: nothing reads it", "is set in model. and module."]),
    "added to recipe, forced": (["++recipe.d_modle=7"], ["recipe.d_modle: nothing reads it"]),
    "share above 1": (["collect.mixture=2"], ["collect: mixture: expected a share from 0 to 1, found 2"]),
    "no list": (["allow_mismatch=data"], ["allow_mismatch: expected a list, allow_mismatch=[data]"]),
    "unknown option": (["model=nope"], ["model=nope: there is no such option", MODELS]),
    "unknown nested option": (["model/position=nope"], ["model/position=nope", "relative, rope"]),
    "unknown task": (["task=nope"], ["task=nope: there is no such option"]),
    "unknown task, nearly right": (
        ["task=popgym_autoencod_esy"],
        [f"esy: there is no such option; the nearest of {TASKS} are popgym_autoencode_easy, popgym_"],
    ),
    "not key=value": (["nope"], ["Error parsing override 'nope'"]),
    "unknown stage": (["stage=nope"], ["stage: expected one of train, collect", "found 'nope'"]),
    "task of another env": (["env=tmaze", "task=popgym_autoencode_easy"], ["does not belong to env=tmaze"]),
    "foreign target": (["model._target_=os.system"], ["model._target_: 'os.system' is refused"]),
    "seed that is no number": (["seed=abc"], ["seed: expected a whole number", "'abc'"]),
    "negative seed": (["seed=-1"], ["seed: expected a whole number", "-1"]),
    "width that is no number": (["model.d_model=abc"], ["model.d_model: expected int, found 'abc'"]),
    "width that is a fraction": (["model.d_model=1.5"], ["model.d_model: expected int, found 1.5"]),
    "negative width": (["model.d_model=-3"], ["d_model", "-3"]),
    "truth for a number": (["model.n_layer=true"], ["model.n_layer: expected int, found True"]),
    "blend above 1": (["model.memory.write.lru_blend_alpha=2"], ["lru_blend_alpha must lie in 0..1; found 2"]),
    "no slots": (["model.memory.memory_size=0"], ["memory_size must be 1 or more; found 0"]),
    "context length 0": (["module.context_length=0"], ["context_length must be 1 or more; found 0"]),
    "heads that do not divide": (["model.d_model=64", "model.n_head=3"], ["n_head must divide d_model", "n_head=3"]),
    "top-k above experts": (["model/feedforward=moe", "model.feedforward.top_k=9"], ["top_k=9", "num_experts=2"]),
    "unknown tokens": (["model.token_format=x"], ["token_format must be one of s, sa, sr, sra; found 'x'"]),
    "tokens that are no name": (["model.token_format=[s]"], ["token_format must be one of s, sa", "found ['s']"]),
    "dropout above 1": (["model.dropout=2"], ["dropout", "2"]),
    "negative rate": (["module.optimizer.lr=-1"], ["learning rate: -1"]),
    "rate that is no number": (["module.optimizer.lr=abc"], ["module.optimizer.lr: expected float, found 'abc'"]),
    "smoothing above 1": (["module.label_smoothing=3"], ["label_smoothing", "found 3"]),
    "warm-up too long": (["module.schedule.warmup=20"], ["warmup=20"]),
    "steps that are no number": (["trainer.max_steps=abc"], ["trainer.max_steps: expected int, found 'abc'"]),
    "negative clipping": (["trainer.gradient_clip_val=-1"], ["trainer.gradient_clip_val: expected 0 or more"]),
    "unknown precision": (["trainer.precision=foo"], ["trainer: Precision 'foo' is invalid"]),
    "weights in bfloat16": (["trainer.precision=bf16-true"], ["bf16-true is refused", "use bf16-mixed"]),
    "no lanes": (["data.lanes=0"], ["lanes: expected 1 or more, found 0"]),
    "no segments": (["data.backprop_segments=0"], ["backprop_segments: expected 1 or more, found 0"]),
    "corridor too short": (["env.lengths=[9,2]"], ["T=2", "time_limit: expected 3 or more"]),
    "no corridors": (["env.lengths=[]"], ["lengths: expected a list of time limits"]),
    "corridors that are no list": (["env.lengths=9"], ["lengths: expected a list of time limits", "found 9"]),
    "corridors that are no numbers": (["env.lengths=[a]"], ["lengths: expected a list of time limits", "['a']"]),
    "unknown metric": (["env.metric=nope"], ["env.metric: expected one of success, return; found 'nope'"]),
    "no episodes": (["evaluation.num_episodes=0"], ["num_episodes=0"]),
    "a video of fewer than none": (["evaluation.video=-1"], ["video=-1", "from 0 to 64"]),
    "a video of what is not rendered": (["evaluation.video=4"], ["video=4: env=tmaze cannot be rendered; leave it at"]),
    "seeds of the training data": (["evaluation.first_seed=999950"], ["first_seed=999950", "1000000"]),
    "no episodes to select by": (["callbacks.selection.num_episodes=0"], ["callbacks.selection:", "num_episodes=0"]),
    "evaluate nothing": (["stage=evaluate"], ["stage=evaluate needs a checkpoint"]),
    "evaluate a ghost": (["stage=evaluate", "checkpoint=/no/such"], ["/no/such: there is no such checkpoint"]),
    "import nothing": (["stage=import"], ["stage=import needs a source"]),
    "import a ghost": (["stage=import", "source=/no/such"], ["/no/such: there is no such run folder"]),
    "option that is no name": (["logger=true"], ["logger=true: expected the name of an option"]),
    "no callbacks at all": (["callbacks=[]"], ["callbacks: this section is missing; choose one of its options"]),
    "group, nearly right": (["modle=gru"], ["modle: there is no such setting; did you mean model?"]),
    "key, nearly right": (["model.d_modle=8"], ["there is no such setting; did you mean model.d_model?"]),
    "a dot for a slash": (["model.position=rope"], ["chosen with a slash, model/position=rope"]),
    "updates of several windows": (["+trainer.accumulate_grad_batches=2"], ["accumulate_grad_batches: 2 is refused"]),
    "Lightning's own trial run": (["+trainer.fast_dev_run=true"], ["fast_dev_run: True is refused; debug=quick"]),
    "overfitting by Lightning": (["+trainer.overfit_batches=1"], ["overfit_batches: 1 is refused; collect."]),
    "plugins of Lightning": (["+trainer.plugins=[]"], ["trainer.plugins: [] is refused"]),
    "callbacks in the trainer": (["+trainer.callbacks=[]"], ["trainer.callbacks: [] is refused"]),
    "a log of nothing": (["trainer.log_every_n_steps=0"], ["trainer.log_every_n_steps: expected 1 or more; found 0"]),
    "no updates": (["trainer.max_steps=0"], ["trainer.max_steps: expected 1 update or more; found 0"]),
    "updates without end": (["trainer.max_steps=-1"], ["trainer.max_steps: expected 1 update or more; found -1"]),
    "one beta": (["module.optimizer.betas=[0.9]"], ["betas: expected two numbers, found [0.9]"]),
    "a rate that is not a number": (["module.optimizer.lr=nan"], ["module.optimizer.lr: expected a finite number"]),
    "an infinite return": (["evaluation.target_return=inf"], ["evaluation.target_return: expected a finite number"]),
    "no shards": (["shards="], ["shards (or the variable ELMUR_SHARDS): expected a path; found ''"]),
    "no checkpoint": (["stage=evaluate", "checkpoint="], ["checkpoint: expected a path; found ''"]),
    "seeds of selection": (
        ["evaluation.first_seed=19"],
        ["evaluation.first_seed=19: the report would play", "seeds 19 to 118 of those of selection, 0 to 19; leave"],
    ),
    "selection up to the report": (
        ["selection.num_episodes=500001"],
        ["seeds 500000 to 500099 of those of selection, 0 to 500000; leave it at 500000, and selection.num_episodes"],
    ),
    "several runs to resume": (["-m", "resume=a,b"], ["resume= goes on with one run; leave -m and sweep= out"]),
    "unknown key while evaluating": (["stage=evaluate", "checkpoint=x", "+model.foo=1"], ["model.foo: unknown key"]),
}  # fmt: skip


# More of the same kind: half a second each.
RARER = {
    "an infinite return",
    "callbacks in the trainer",
    "no checkpoint",
    "no updates",
    "overfitting by Lightning",
    "several runs to resume",
    "added key, forced",
    "added to a part of the model",
    "added to module",
    "added to optimizer",
    "added to data",
    "added to logger",
    "added to env.make",
    "added to collect",
    "added to evaluation",
    "added to a callback",
    "unknown nested option",
    "unknown task",
    "width that is a fraction",
    "truth for a number",
    "no slots",
    "unknown tokens",
    "dropout above 1",
    "rate that is no number",
    "smoothing above 1",
    "steps that are no number",
    "unknown precision",
    "weights in bfloat16",
    "no lanes",
    "no segments",
    "no corridors",
    "corridors that are no list",
    "no episodes to select by",
    "no episodes",
    "negative seed",
    "added to a partial",
    "unknown metric",
    "unknown key in a section",
    "evaluate nothing",
    "import nothing",
    "unknown key while evaluating",
    "negative width",
}


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c in RARER)) for c in EARLY])
def test_found_before_anything_is_collected(cli: CommandLine, case: str) -> None:
    command, expected = EARLY[case]
    untouched = cli.folder / "untouched"
    said = refused(cli.run(*command, ELMUR_SHARDS=str(untouched)))
    assert [words for words in expected if words not in said] == [], said
    assert not untouched.exists()


def test_every_rarer_case_is_a_case() -> None:
    assert set(EARLY) >= RARER


def test_the_traceback_is_there_for_who_asks(cli: CommandLine) -> None:
    for command in ("stage=nope", "nope=1"):
        done = cli.run(command, HYDRA_FULL_ERROR="1")
        assert done.code == 1 and "Traceback" in done.stderr and "nope" in done.stderr


def changed_checkpoint(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    checkpoint = torch.load(source / "checkpoints" / "best.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, target)
    return target


def other_task(checkpoint: dict[str, Any]) -> None:
    spec = TaskSpec.from_json(checkpoint["elmur"]["spec"])
    checkpoint["elmur"]["spec"] = TaskSpec("popgym-A", spec.observation, spec.action).to_json()


def other_version(checkpoint: dict[str, Any]) -> None:
    checkpoint["elmur"]["version"] = 99


def other_shape(checkpoint: dict[str, Any]) -> None:
    checkpoint["elmur"]["model"]["d_model"] = 32


def other_code(checkpoint: dict[str, Any]) -> None:
    checkpoint["elmur"]["model"]["_target_"] = "os.system"


def not_ours(checkpoint: dict[str, Any]) -> None:
    del checkpoint["elmur"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_task, ["trained on task 'popgym-A', not on 'tmaze'"]),
        (other_version, ["expected checkpoint version 1, found 99"]),
        (other_shape, ["its weights do not fit the model it describes"]),
        (other_code, ["'os.system' is refused"]),
        (not_ours, ["expected a checkpoint of this project", "stage=import"]),
    ],
)
def test_a_checkpoint_that_cannot_act_here(
    cli: CommandLine, trained: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], expected: list[str]
) -> None:
    path = changed_checkpoint(trained, tmp_path / "a.ckpt", change)
    said = refused(cli.run("stage=evaluate", f"checkpoint={path}"))
    assert said.startswith(str(path)) and [words for words in expected if words not in said] == [], said


def test_a_checkpoint_of_another_model(cli: CommandLine, trained: Path) -> None:
    path = trained / "checkpoints" / "best.ckpt"
    said = refused(cli.run("stage=evaluate", "model=gru", f"checkpoint={path}"))
    assert said == f"{path}: expected model=gru, found elmur.model.ELMUR; leave model= out"


class Payload:
    """Runs a command where it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_as_a_checkpoint_is_not_executed(cli: CommandLine, tmp_path: Path, writer: str) -> None:
    path, witness = tmp_path / "evil.ckpt", tmp_path / "executed"
    if writer == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": {}, "elmur": Payload(witness)}))
    else:
        torch.save({"state_dict": {}, "elmur": Payload(witness)}, path)
    said = refused(cli.run("stage=evaluate", f"checkpoint={path}"))
    assert "damaged or holds code" in said and not witness.exists()


def test_a_folder_in_use(cli: CommandLine, trained: Path) -> None:
    folder = cli.folder / "busy"
    with exclusive(folder / ".running"):
        said = refused(cli.run(*TINY, *DEEP, to=folder))
        assert f"{folder} is in use by another process" in said and f"pid {os.getpid()}" in said
        said = refused(cli.run("stage=evaluate", f"checkpoint={trained}/checkpoints/best.ckpt", to=folder))
        assert f"{folder} is in use by another process" in said
    assert not (folder / "checkpoints").exists()


def test_an_output_folder_that_cannot_be_made(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in refused(cli.run(*TINY, *DEEP, to=tmp_path / "file" / "run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_is_read_only(cli: CommandLine, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert str(tmp_path) in refused(cli.run(*TINY, *DEEP, to=tmp_path / "run"))
    finally:
        tmp_path.chmod(0o700)


def test_a_damaged_result_row(cli: CommandLine, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text('{"format": 1, "out')
    said = refused(cli.run(*TINY, *DEEP, to=tmp_path / "run"))
    assert "result.json: expected a result row in JSON" in said


@pytest.fixture
def shards(cli: CommandLine, trained: Path, tmp_path: Path) -> Path:
    """A root of shards of its own, with those of the tiny run in it."""
    shutil.copytree(cli.folder / "shards", tmp_path / "shards")
    return tmp_path / "shards"


def test_a_truncated_shard(cli: CommandLine, shards: Path) -> None:
    (shard,) = (shards / "tmaze-T30").glob("*.h5")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    said = refused(cli.run(*TINY, *DEEP, f"shards={shards}"))
    assert str(shard) in said and "delete the file and collect it again" in said


def test_an_empty_shard_folder_is_filled(cli: CommandLine, shards: Path) -> None:
    for path in (shards / "tmaze-T30").iterdir():
        path.unlink()
    assert cli.run(*TINY, *DEEP, f"shards={shards}").code == 0
    assert list((shards / "tmaze-T30").glob("*.h5"))


def test_a_half_written_shard_is_written_again(cli: CommandLine, shards: Path) -> None:
    (shard,) = (shards / "tmaze-T30").glob("*.h5")
    shard.rename(leftover := shard.with_name(f".{shard.name}.1-2.partial"))
    assert cli.run(*TINY, *DEEP, f"shards={shards}").code == 0
    assert shard.exists() and not leftover.exists()


def test_an_empty_folder_of_someone_elses_shards(cli: CommandLine, shards: Path) -> None:
    """Skipping every bad shard leaves nothing, and that is said."""
    (shard,) = (shards / "tmaze-T30").glob("*.h5")
    shard.write_bytes(b"not a shard")
    said = refused(cli.run(*TINY, *DEEP, f"shards={shards}", "data.on_bad_shard=skip"))
    assert "tmaze-T30" in said


def test_shards_that_were_collected_in_another_way(cli: CommandLine, shards: Path) -> None:
    said = refused(cli.run(*TINY, *DEEP, f"shards={shards}", "collect.noise=0.5"))
    assert "noise was 0.0, now 0.5" in said


def test_more_lanes_than_episodes(cli: CommandLine, trained: Path) -> None:
    said = refused(cli.run(*TINY, *DEEP, "data.lanes=61"))
    assert "lanes=61" in said and "60 episodes" in said


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(cli: CommandLine, trained: Path) -> None:
    folder = cli.folder / "diverged"
    command = [a for a in TINY if not a.startswith("callbacks.resume")]
    done = cli.run(*command, *DEEP, "module.optimizer.lr=1e30", "callbacks.resume.every_n_updates=1", to=folder)
    said = refused(done)
    assert "at update 1, epoch 0, batch 1" in said and "lower module.optimizer.lr" in said
    assert not (folder / "result.json").exists()
    # What was saved before can still be read and acts.
    again = [
        "stage=evaluate",
        f"checkpoint={folder}/checkpoints/last.ckpt",
        "env.lengths=[9]",
        "evaluation.num_episodes=2",
    ]
    assert cli.run(*again).code == 0


@pytest.mark.parametrize(("compiler", "said"), [("nonexistent", "found no 'nonexistent'"), ("false", "does not work")])
def test_a_compiler_that_is_missing_or_broken_is_found_before_training(
    cli: CommandLine, compiler: str, said: str
) -> None:
    done = cli.run(*TINY, "evaluation.compile=true", CXX=compiler, to=cli.folder / compiler)
    assert (done.code, done.stderr.count("\n")) == (1, 1)
    assert f"the C++ compiler '{compiler}'" in done.stderr or "needs a C++ compiler" in done.stderr
    assert said in done.stderr and not list((cli.folder / compiler).rglob("*.ckpt"))
