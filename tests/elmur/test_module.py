"""Training: memory carried from window to window, cut off between them, reset where an episode begins; exact resume."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from callbacks.checkpoint import LAST, PREVIOUS, AtomicCheckpointIO, ResumePoint, resume_point
from callbacks.selection import RolloutSelection
from data.collect import collect
from data.datamodule import TrajectoryDataModule
from elmur.checkpoint import read_checkpoint
from elmur.finite import FiniteWatch, NonFiniteError
from elmur.model import ELMUR, MemoryDesign
from elmur.module import SequenceModule, restore_rng, rng_state
from elmur.optim import WarmupCosine
from envs.experts.tmaze import TMazeExpert
from envs.tmaze import make_vector
from tests.elmur.samples import SPEC, make_batch, make_model, noise

L, K = 3, 2  # steps per segment, segments per window


def small(spec: Any) -> ELMUR:
    return ELMUR(spec, d_model=8, n_layer=1, n_head=2, dropout=0.2, memory=MemoryDesign(memory_size=2))


@pytest.fixture
def module() -> SequenceModule:
    """A module whose model is built: float64, nothing dropped out."""
    made = SequenceModule(lambda spec: make_model(), context_length=L)
    made.build_model(SPEC)
    return made


def window(lanes: int = 2, start: int = 0, first: tuple[bool, ...] = (), seed: int = 0) -> Any:
    batch = make_batch(lanes, L * K, start=start, seed=seed)
    batch.is_first = torch.tensor(first or (False,) * lanes)
    return batch


def by_hand(module: SequenceModule, memory: Any, batch: Any) -> tuple[Tensor, Any]:
    """Loss summed over a window's segments, and the memory after it."""
    total = torch.zeros((), dtype=torch.float64)
    for segment in batch.split(L):
        output, memory = module.model(segment, memory)
        total = total + module.model.head.loss(output.prediction, segment.action, segment.loss_mask, 0.0)
    return total, memory


def test_memory_is_carried_from_window_to_window(module: SequenceModule) -> None:
    one, two = window(first=(True, True)), window(start=L * K, seed=1)
    losses = [module.run_window(batch, "train", noise(3))[0] for batch in (one, two)]
    expected, memory = by_hand(module, module.model.initial_memory(2, noise(3)), one)
    assert torch.allclose(losses[0], expected)
    assert torch.allclose(losses[1], by_hand(module, memory, two)[0])


def test_memory_is_cut_off_between_windows(module: SequenceModule) -> None:
    module.run_window(window(first=(True, True)), "train", noise())
    assert all(not bank.slots.requires_grad for bank in module._carry["train"])
    # The second window's loss has a gradient for what reads and writes in it, as if its memory had come from nowhere.
    batch = window(start=L * K, seed=1)
    before = tuple(type(bank)(bank.slots.clone(), bank.written_at.clone()) for bank in module._carry["train"])
    module.run_window(batch, "train", noise())[0].backward()
    found = {name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None}
    module.zero_grad()
    by_hand(module, before, batch)[0].backward()
    for name, parameter in module.model.named_parameters():
        assert (parameter.grad is None) == (name not in found) or not (parameter.grad or found[name]).any()
        if name in found and parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad), name
    assert found["layers.0.writer.query.weight"].any(), "within a window, writing learns"


def test_a_lane_where_an_episode_begins_forgets(module: SequenceModule) -> None:
    module.run_window(window(first=(True, True)), "train", noise())
    after = module._carry["train"]
    module.run_window(window(first=(False, True), seed=1), "train", noise(5))
    fresh = module.model.initial_memory(2, noise(5))
    mixed = tuple(
        type(a)(torch.stack([a.slots[0], f.slots[1]]), torch.stack([a.written_at[0], f.written_at[1]]))
        for a, f in zip(after, fresh, strict=True)
    )
    _, expected = by_hand(module, mixed, window(seed=1))
    for mine, theirs in zip(module._carry["train"], expected, strict=True):
        assert torch.allclose(mine.slots, theirs.slots) and torch.equal(mine.written_at, theirs.written_at)


def test_validation_does_not_disturb_the_carry_of_training(module: SequenceModule) -> None:
    module.run_window(window(first=(True, True)), "train", noise())
    before = [bank.slots.clone() for bank in module._carry["train"]]
    module.run_window(window(first=(True, True), seed=9), "validation", noise())
    assert all(torch.equal(b, bank.slots) for b, bank in zip(before, module._carry["train"], strict=True))


def test_a_window_that_is_padding_alone_counts_for_nothing_in_validation(module: SequenceModule) -> None:
    """As it is where the episodes of one of several processes end before those of another."""
    windows = [window(first=(True, True)), window(start=L * K, seed=1), window(start=2 * L * K)]
    windows[1].loss_mask = windows[1].loss_mask & (torch.arange(L * K) < 2)
    windows[2].loss_mask = windows[2].mask = torch.zeros_like(windows[2].mask)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (found,) = trainer.validate(module, DataLoader(windows, batch_size=None), verbose=False)  # type: ignore[arg-type]
    memory, total = module.model.initial_memory(2, noise(module.seed)), torch.zeros((), dtype=torch.float64)
    for batch in windows[:2]:
        loss, memory = by_hand(module, memory, batch)
        total = total + loss
    steps = sum(int(batch.loss_mask.sum()) for batch in windows)
    assert found["validation/loss"] == pytest.approx(float(total.detach()) / steps, rel=1e-6)


@pytest.mark.parametrize(("key", "value"), [("context_length", 0), ("label_smoothing", 1.0), ("label_smoothing", -0.1)])
def test_values_out_of_range(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{key} must be .* found {value}"):
        SequenceModule(small, **{"context_length": 3, key: value})


def test_random_states_go_round() -> None:
    state = rng_state()
    drawn = (torch.rand(2).tolist(), np.random.rand(2).tolist())  # noqa: NPY002
    restore_rng(state)
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist()) == drawn  # noqa: NPY002


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 episodes of 2 to 13 steps: epochs of less than 11 batches of 4 lanes."""
    root = tmp_path_factory.mktemp("shards")
    collect(lambda num_envs: make_vector(num_envs, 14, random_corridor=True), TMazeExpert(), root, 14, seed=0)
    return root


class Notes(Callback):
    """What was logged of every update."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.batches = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.batches = int(trainer.num_training_batches)
        logged = trainer.callback_metrics
        self.rows[trainer.global_step] = {n: float(v) for n, v in logged.items() if n.startswith("train/")}


class Stop(Exception):
    """A kill: nothing that comes after it is run."""


class KillAt(Callback):
    """Ends training abruptly after an update."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self.update:
            raise Stop


class Poison(KillAt):
    """Spoils the weights after an update, as a bad update would."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self.update:
            next(pl_module.parameters()).data.fill_(1e30)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
        yield


def train(
    shards: Path, folder: Path, updates: int, *more: Callback, workers: int = 0, every: int = 2, late: bool = False
) -> Notes:
    """Train to `updates` in all, from the resume point in `folder` where there is one, with selection.

    late: watched for numbers that are not finite as on a GPU.
    """
    seed_everything(11, workers=True, verbose=False)
    data = TrajectoryDataModule(shards, L, K, lanes=4, num_workers=workers, seed=2)
    module = SequenceModule(small, L, schedule=WarmupCosine(40, 0.1), seed=2)
    module.finite = FiniteWatch(late)
    selection = RolloutSelection(folder, make_vector, {"T=9": {"time_limit": 9}}, every_n_updates=4, num_episodes=2)
    notes = Notes()
    trainer = Trainer(
        max_steps=updates, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        default_root_dir=folder, plugins=[AtomicCheckpointIO()], log_every_n_steps=1, gradient_clip_val=1.0,
        callbacks=[*more, notes, selection, ResumePoint(folder, every)],
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=resume_point(folder), weights_only=True)
    return notes


def assert_same(one: Any, other: Any, path: str = "") -> None:
    """Bit for bit, at whatever depth."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            # Python's own generator is drawn from by the type checks that are on in tests, and by nothing of ours.
            if (path, key) != ("elmur.rng", "python"):
                assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{path}[{i}]")
    else:
        assert one == other, path


STATE = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "elmur", "TrajectoryDataModule")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(shards: Path, tmp_path: Path, workers: int) -> None:
    """Killed in the middle of an epoch, at its end and right after it; weights, optimizer and log are bit-identical."""
    straight = train(shards, tmp_path / "straight", 12, workers=workers)
    end = straight.batches
    assert 4 < end < 11, "the epoch ends within the run"
    whole = read_checkpoint(tmp_path / "straight" / LAST)
    for update in (5, end, end + 1) if not workers else (end,):
        folder = tmp_path / f"killed-{update}"
        with pytest.raises(Stop):
            train(shards, folder, 12, KillAt(update), workers=workers, every=1)
        assert read_checkpoint(folder / LAST)["global_step"] == update - 1
        resumed = train(shards, folder, 12, workers=workers)
        assert sorted(resumed.rows) == list(range(update, 13))
        assert resumed.rows == {n: straight.rows[n] for n in resumed.rows}
        again = read_checkpoint(folder / LAST)
        for key in STATE:
            assert_same(whole[key], again[key], key)


def test_stopping_at_an_update_and_going_on_later_is_the_same(shards: Path, tmp_path: Path) -> None:
    straight = train(shards, tmp_path / "straight", 12)
    for part in (6, straight.batches):
        folder = tmp_path / f"part-{part}"
        first, second = train(shards, folder, part), train(shards, folder, 12)
        assert {**first.rows, **second.rows} == straight.rows
        one, other = (read_checkpoint(f / LAST) for f in (tmp_path / "straight", folder))
        for key in ("state_dict", "optimizer_states", "elmur"):
            assert_same(one[key], other[key], key)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "an update late"])
def test_weights_that_make_no_number_are_not_the_last_checkpoint(shards: Path, tmp_path: Path, late: bool) -> None:
    with pytest.raises(NonFiniteError, match=r"at update 3, epoch 0, batch 3; checkpoints written before are good"):
        train(shards, tmp_path, 12, Poison(3), every=1, late=late)
    assert read_checkpoint(tmp_path / LAST)["global_step"] == 2
    assert not (tmp_path / PREVIOUS).exists()
    assert sorted(train(shards, tmp_path, 4).rows) == [3, 4], "and from there it goes on"


def test_seen_an_update_late_it_ends_training_before_the_next_is_made(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"the loss is .* at update 2, ") as caught:
        train(shards, tmp_path, 12, Poison(2), every=100, late=True)
    assert caught.value.update == 2
    assert not (tmp_path / LAST).exists()
    # At the very end there is no next update: what would be the last checkpoint is refused.
    with pytest.raises(NonFiniteError, match="at update 3, "):
        train(shards, tmp_path, 4, Poison(3), every=100, late=True)
    assert not (tmp_path / LAST).exists()


class Asked(Callback, TorchDispatchMode):
    """Counts how often a number was asked of the device in the updates from the third to the sixth."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations[str(function.overloadpacket)] += 1
        return function(*args, **(kwargs or {}))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == 2:
            self.__enter__()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == 6:
            self.__exit__(None, None, None)


def test_an_update_asks_nothing_of_the_device_but_whether_the_one_before_was_finite(
    shards: Path, tmp_path: Path
) -> None:
    """What reads a number out of a tensor here would wait for the GPU there: two numbers an update, an update late."""
    asked, data = Asked(), TrajectoryDataModule(shards, L, K, lanes=4, seed=2)
    module = SequenceModule(small, L, schedule=WarmupCosine(40, 0.1), seed=2)
    module.finite = FiniteWatch(late=True)
    Trainer(
        max_steps=7, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        default_root_dir=tmp_path, log_every_n_steps=1, gradient_clip_val=1.0, callbacks=[asked],
    ).fit(module, datamodule=data)  # fmt: skip
    assert asked.operations["aten.native_layer_norm"] > 4
    assert asked.operations["aten._local_scalar_dense"] == 2 * 4


def test_gradients_are_clipped_by_value_where_that_is_asked(shards: Path, tmp_path: Path) -> None:
    """With plain descent at rate 1 no weight moves by more than the limit, and many by just that."""
    before: dict[str, Tensor] = {}

    class Start(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            before.update({name: weight.clone() for name, weight in pl_module.state_dict().items()})

    module = SequenceModule(small, L, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=1.0), seed=2)
    Trainer(
        max_steps=1, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        default_root_dir=tmp_path, log_every_n_steps=1, gradient_clip_val=1e-3, gradient_clip_algorithm="value",
        callbacks=[Start()],
    ).fit(module, datamodule=TrajectoryDataModule(shards, L, K, lanes=4, seed=2))  # fmt: skip
    moved = torch.cat([(weight - before[name]).abs().flatten() for name, weight in module.state_dict().items()])
    assert moved.max() <= 1e-3 + 1e-6 and ((moved - 1e-3).abs() < 1e-6).sum() > 50
