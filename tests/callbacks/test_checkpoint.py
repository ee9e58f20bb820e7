"""Checkpoints on disk: the one before is used where the last is damaged, and nothing that a file holds is executed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.checkpoint import LAST, PREVIOUS, AtomicCheckpointIO, ResumePoint, resume_point
from elmur.build import build
from elmur.checkpoint import CHECKPOINT_VERSION, CheckpointError, load_model, load_policy, read_checkpoint
from elmur.spec import Discrete, TaskSpec, Vector
from tests.elmur.samples import SPEC, make_model

MODEL = {"_target_": "elmur.model.ELMUR", "d_model": 16, "n_layer": 2, "n_head": 2, "dropout": 0.0, "dropatt": 0.0}


def write(path: Path, number: int = 0) -> dict[str, Any]:
    """A checkpoint of a small model."""
    checkpoint = {
        "state_dict": {f"model.{name}": tensor.float() for name, tensor in make_model(number).state_dict().items()},
        "elmur": {"version": CHECKPOINT_VERSION, "spec": SPEC.to_json(), "model": MODEL, "context_length": 3},
        "number": number,
    }
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    return checkpoint


def test_what_is_written_is_read_and_acts(tmp_path: Path) -> None:
    written = write(tmp_path / "a.ckpt")
    model, context_length = load_model(tmp_path / "a.ckpt", SPEC)
    assert context_length == 3 and not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, written["state_dict"][f"model.{name}"])
    policy = load_policy(tmp_path / "a.ckpt", SPEC, sample=True, target_return=3.0)
    assert policy.sample and policy.target_return == 3.0 and policy.context_length == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"], "no temporary file is left"


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [half, empty, flipped])
def test_the_checkpoint_before_is_used_where_the_last_is_damaged(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    assert resume_point(tmp_path) is None
    write(tmp_path / PREVIOUS, 1)
    write(tmp_path / LAST, 2)
    assert resume_point(tmp_path) == tmp_path / LAST
    damage(tmp_path / LAST)
    assert resume_point(tmp_path) == tmp_path / PREVIOUS
    assert str(tmp_path / LAST) in caplog.text
    damage(tmp_path / PREVIOUS)
    with pytest.raises(CheckpointError, match=r"none of .* can be read"):
        resume_point(tmp_path)


class Payload:
    """Leaves a file where it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("protocol", [2, 4, None])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, protocol: int | None) -> None:
    path, witness = tmp_path / "evil.ckpt", tmp_path / "executed"
    content = {"state_dict": {}, "elmur": Payload(witness)}
    if protocol is None:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        read_checkpoint(path)
    assert not witness.exists()


def rewrite(path: Path, **changes: Any) -> None:
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["elmur"] |= changes
    torch.save(checkpoint, path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_do_not_act(tmp_path: Path, number: float) -> None:
    checkpoint = write(tmp_path / "a.ckpt")
    name = next(name for name in checkpoint["state_dict"] if name.endswith("weight"))
    checkpoint["state_dict"][name].view(-1)[-1] = number
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=f"not finite in its weights '(model\\.)?{name.removeprefix('model.')}'"):
        load_model(tmp_path / "a.ckpt")


def test_weights_that_share_a_storage_do_not_hide_a_larger_model(tmp_path: Path) -> None:
    """All layers of one's weights: a file of few bytes does not make a model of many."""
    with torch.device("meta"):
        deep = build({**MODEL, "d_model": 64, "n_layer": 48}, spec=SPEC)
    one: dict[tuple[int, ...], torch.Tensor] = {}
    weights = {f"model.{k}": one.setdefault(tuple(v.shape), torch.zeros(v.shape)) for k, v in deep.state_dict().items()}
    checkpoint = write(tmp_path / "a.ckpt")
    checkpoint["elmur"]["model"] = {**MODEL, "d_model": 64, "n_layer": 48}
    torch.save({**checkpoint, "state_dict": weights}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"a model of \d+ weights in a file of \d+ bytes|tensors of \d+ bytes"):
        load_model(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"version": 99}, "expected checkpoint version 1, found 99"),
        ({"model": {**MODEL, "d_model": 32}}, "do not fit the model it describes"),
        ({"model": {**MODEL, "_target_": "os.system"}}, "'os.system' is refused"),
        ({"model": {**MODEL, "_target_": "torch.load"}}, "'torch.load' is refused"),
        ({"context_length": 0}, "context_length = 0"),
    ],
)
def test_a_checkpoint_that_does_not_fit_this_code(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    write(tmp_path / "a.ckpt")
    rewrite(tmp_path / "a.ckpt", **changes)
    with pytest.raises(ValueError, match=expected):
        load_model(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "task",
    [TaskSpec("other", SPEC.observation, SPEC.action), TaskSpec(SPEC.name, {"state": Vector(5)}, SPEC.action),
     TaskSpec(SPEC.name, SPEC.observation, Discrete((4,)))],
)  # fmt: skip
def test_a_checkpoint_of_another_task(tmp_path: Path, task: TaskSpec) -> None:
    write(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=f"trained on task 'sample', not on '{task.name}'"):
        load_model(tmp_path / "a.ckpt", task)


def test_resume_points_need_an_interval() -> None:
    with pytest.raises(ValueError, match="every_n_updates must be 1 or more; found 0"):
        ResumePoint("folder", 0)
