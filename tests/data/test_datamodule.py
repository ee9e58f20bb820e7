"""The datamodule in a real Trainer: the order of batches survives every kind of restart."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from data.collection import shard_name
from data.datamodule import TrajectoryDataModule
from data.index import build_index
from data.shard import ShardError, write_shard
from elmur.batch import SegmentBatch
from elmur.spec import TaskSpec

Make = Callable[..., Any]
BATCHES = 11  # in an epoch of the data below


@pytest.fixture
def root(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> Path:
    """26 episodes of 1 to 13 steps, 24 of them to train on: 11 batches of 4 lanes of 6 steps."""
    rng = np.random.default_rng(0)
    for number in range(2):
        inside = [episode(plain_spec, int(rng.integers(1, 14)), 100 * number + i) for i in range(13)]
        write_shard(tmp_path / "shards" / shard_name(number), plain_spec, inside, {})
    return tmp_path / "shards"


def datamodule(root: Path, **changes: Any) -> TrajectoryDataModule:
    options = {"context_length": 3, "backprop_segments": 2, "lanes": 4, "seed": 5, "validation_fraction": 0.08}
    return TrajectoryDataModule(root, **{**options, **changes})


class Listener(LightningModule):
    """Notes every batch it is trained on; `steps` optimizer steps for each, by hand."""

    def __init__(self, steps: int = 2) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.steps, self.seen, self.validated = steps, list[str](), list[str]()

    def training_step(self, batch: SegmentBatch, batch_idx: int) -> None:
        self.seen.append(fingerprint(batch))
        optimizer: Any = self.optimizers()
        for _ in range(self.steps):
            optimizer.zero_grad()
            self.manual_backward((self.weight - torch.rand(())) ** 2)
            optimizer.step()

    def validation_step(self, batch: SegmentBatch, batch_idx: int) -> None:
        self.validated.append(fingerprint(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fingerprint(batch: SegmentBatch) -> str:
    return f"{batch.start.tolist()} {batch.observation['state'].double().sum():.9f} {batch.is_first.tolist()}"


class SaveAt(Callback):
    """Saves at one moment of training, named "<hook> <epoch> <batch>", and stops there."""

    def __init__(self, path: Path, moment: str) -> None:
        self.path, self.moment, self.after = path, moment, -1

    def _at(self, trainer: Trainer, hook: str, batch: object) -> None:
        if f"{hook} {trainer.current_epoch} {batch}" == self.moment and self.after < 0:
            trainer.save_checkpoint(self.path)
            self.after = len(trainer.lightning_module.seen)  # type: ignore[arg-type]

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._at(trainer, "batch_end", batch_idx)

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        if not trainer.sanity_checking:
            self._at(trainer, "validation_end", trainer.fit_loop.epoch_loop.batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self._at(trainer, "epoch_end", "-")


def fit(
    data: TrajectoryDataModule, resume: Path | None = None, save: Callback | None = None, **options: Any
) -> Listener:
    module = Listener()
    options = {"max_epochs": 3, "limit_val_batches": 1.0, **options}
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[save] if save else [],
        **options,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return module


MOMENTS = [
    ("batch_end 0 0", {}),
    ("batch_end 0 6", {}),
    (f"batch_end 0 {BATCHES - 1}", {}),
    ("batch_end 1 3", {}),
    (f"batch_end 1 {BATCHES - 1}", {}),
    ("epoch_end 0 -", {}),
    ("epoch_end 1 -", {}),
    ("validation_end 0 3", {"val_check_interval": 4}),
    ("validation_end 1 7", {"val_check_interval": 4}),
    ("batch_end 1 3", {"val_check_interval": 4}),
    (f"validation_end 0 {BATCHES - 1}", {}),
    ("batch_end 1 6", {"max_epochs": -1, "max_steps": 2 * 25}),
    ("epoch_end 1 -", {"max_epochs": -1, "max_steps": 2 * 25}),
    (f"batch_end 0 {BATCHES - 1}", {"max_epochs": -1, "max_steps": 2 * 25}),
    (f"batch_end 1 {BATCHES - 1}", {"max_epochs": -1, "max_steps": 2 * 25, "val_check_interval": 4}),
    ("validation_end 1 3", {"max_epochs": -1, "max_steps": 2 * 25, "val_check_interval": 4}),
    (f"validation_end 0 {BATCHES - 1}", {"max_epochs": -1, "max_steps": 2 * 25}),
    ("epoch_end 0 -", {"max_epochs": -1, "max_steps": 2 * 25, "limit_val_batches": 0.0}),
    ("validation_end 1 3", {"max_steps": 2 * 25, "val_check_interval": 5, "check_val_every_n_epoch": None}),
    ("batch_end 1 2", {"limit_train_batches": 4}),
    ("batch_end 1 3", {"limit_train_batches": 4}),
    ("batch_end 1 5", {"limit_val_batches": 0.0}),
]


@pytest.mark.parametrize(("moment", "options"), MOMENTS)
def test_resume_goes_on_with_the_next_batch(root: Path, tmp_path: Path, moment: str, options: dict[str, Any]) -> None:
    save = SaveAt(tmp_path / "saved.ckpt", moment)
    straight = fit(datamodule(root), save=save, **options)
    assert save.after > 0
    resumed = fit(datamodule(root), resume=save.path, **options)
    assert resumed.seen == straight.seen[save.after :]
    assert len(straight.seen) == (25 if "max_steps" in options else 3 * options.get("limit_train_batches", BATCHES))


@pytest.mark.parametrize("moment", ["batch_end 0 6", f"batch_end 0 {BATCHES - 1}", "batch_end 1 2", "epoch_end 0 -"])
@pytest.mark.parametrize("options", [{}, {"max_epochs": -1, "max_steps": 2 * 25}])
def test_workers_change_nothing(root: Path, tmp_path: Path, moment: str, options: dict[str, Any]) -> None:
    save = SaveAt(tmp_path / "saved.ckpt", moment)
    straight = fit(datamodule(root), **options)
    with_workers = fit(datamodule(root, num_workers=2), save=save, **options)
    assert with_workers.seen == straight.seen
    assert with_workers.validated == straight.validated
    resumed = fit(datamodule(root, num_workers=2), resume=save.path, **options)
    assert resumed.seen == straight.seen[save.after :]


def test_resume_of_a_resume(root: Path, tmp_path: Path) -> None:
    straight = fit(datamodule(root))
    one, two = SaveAt(tmp_path / "1.ckpt", "batch_end 0 2"), SaveAt(tmp_path / "2.ckpt", "batch_end 0 5")
    fit(datamodule(root), save=one)
    middle = fit(datamodule(root), resume=one.path, save=two)
    last = fit(datamodule(root), resume=two.path)
    assert straight.seen == straight.seen[: one.after] + middle.seen[: two.after] + last.seen


@pytest.fixture
def labelled(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> Path:
    """Seven more episodes, labelled, in a folder of their own."""
    found = [episode(plain_spec, 3 + number, 900 + number) for number in range(7)]
    for one in found:
        one.label = (one.action + 1) % 4
    write_shard(tmp_path / "round-1" / shard_name(0), plain_spec, found, {}, optional=["label"])
    return tmp_path / "round-1"


def with_round(root: Path, labelled: Path, **changes: Any) -> TrajectoryDataModule:
    data = datamodule(root, **changes)
    data.rounds = [labelled]
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_a_round_joins_at_the_start_of_an_epoch(root: Path, labelled: Path, tmp_path: Path, workers: int) -> None:
    """After seven batches of epoch 0 of the first order comes epoch 1 of the joined one, from its beginning."""
    options: dict[str, Any] = {"max_epochs": -1, "limit_val_batches": 0.0}
    before = SaveAt(tmp_path / "before.ckpt", "batch_end 0 6")
    fit(datamodule(root), save=before, **options, max_steps=2 * 7)
    loader: Any = with_round(root, labelled).train_dataloader()
    loader.sampler.set_epoch(1)
    epoch = list(loader)
    assert epoch[0].is_first.all() and epoch[0].label is not None, "no lane goes on with an episode of before"
    assert sum(int(batch.is_first.sum()) for batch in epoch) == 24 + 7
    loader.sampler.set_epoch(2)
    expected = [fingerprint(batch) for batch in [*epoch, *list(loader)[:4]]]
    options["max_steps"] = 2 * (7 + len(expected))
    assert fit(with_round(root, labelled, num_workers=workers), resume=before.path, **options).seen == expected
    for number in (1, 3, len(epoch) - 1, len(epoch) + 2):  # interrupted, and taken up again
        middle = SaveAfter(tmp_path / f"{number}.ckpt", 7 + number)
        assert fit(with_round(root, labelled), resume=before.path, save=middle, **options).seen == expected
        assert fit(with_round(root, labelled), resume=middle.path, **options).seen == expected[number:]
    with pytest.raises(ValueError, match="cannot resume in the middle of another order of data: episodes was 31"):
        fit(datamodule(root), resume=middle.path, **options)


class SaveAfter(Callback):
    """Saves once, after so many batches in all."""

    def __init__(self, path: Path, batches: int) -> None:
        self.path, self.batches = path, batches

    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step == 2 * self.batches:
            trainer.save_checkpoint(self.path)


def test_other_data_begin_at_the_start_of_an_epoch(root: Path, labelled: Path, tmp_path: Path) -> None:
    """With `allow_other_data` the windows of an epoch are not taken up in the midst of other episodes."""
    options: dict[str, Any] = {"max_epochs": -1, "limit_val_batches": 0.0}
    before = SaveAt(tmp_path / "before.ckpt", "batch_end 0 6")
    fit(datamodule(root), save=before, **options, max_steps=2 * 7)
    (labelled / shard_name(0)).rename(root / shard_name(2))
    data = datamodule(root)
    data.allow_other_data = True
    expected = [fingerprint(batch) for batch in datamodule(root).train_dataloader()]
    assert fit(data, resume=before.path, **options, max_steps=2 * (7 + 5)).seen == expected[:5]


def test_a_round_is_scaled_as_the_first_data_are(
    tmp_path: Path, root: Path, labelled: Path, plain_spec: TaskSpec, episode: Make
) -> None:
    """The weights know vectors by the mean and deviation that they began with."""
    write_shard(tmp_path / "own" / shard_name(0), plain_spec, [episode(plain_spec, 9, i) for i in range(5)], {},
                normalise=["state"])  # fmt: skip
    data = with_round(tmp_path / "own", labelled, validation_fraction=0.2)
    data.setup()
    alone = datamodule(tmp_path / "own", validation_fraction=0.2)
    alone.setup()
    assert data.spec == alone.spec and data.spec.observation["state"].mean is not None  # type: ignore[union-attr]
    assert (data.validation_episodes, len(data.index)) == (1, 12), "of the expert's own episodes alone"
    told = data.provenance()
    assert (told["episodes"], [one["episodes"] for one in told["rounds"]]) == (12, [7])
    assert told["rounds"][0]["steps"] == sum(range(3, 10)) and "rounds" not in alone.provenance()


def test_every_episode_once_per_epoch_and_epochs_differ(root: Path) -> None:
    data = datamodule(root)
    module = fit(data)
    epochs = [module.seen[i : i + BATCHES] for i in range(0, 3 * BATCHES, BATCHES)]
    assert epochs[0] != epochs[1] != epochs[2]
    loader: Any = datamodule(root).train_dataloader()
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        assert sum(int(batch.mask.sum()) for batch in loader) == int(data._orders()[0]["steps"])
        assert sum(int(batch.is_first.sum()) for batch in loader) == 24


def test_validation_episodes_are_kept_apart(root: Path) -> None:
    data = datamodule(root)
    data.setup()
    assert data._train is not None and data._validation is not None
    assert (len(data._train), len(data._validation)) == (24, 2)
    pairs = [{(s, o) for s, o in zip(part.shard, part.offset, strict=True)} for part in (data._train, data._validation)]
    assert not pairs[0] & pairs[1]
    assert [fingerprint(b) for b in data.val_dataloader()] == [fingerprint(b) for b in data.val_dataloader()]
    assert datamodule(root, validation_fraction=0.0).val_dataloader() == []


def test_the_loader_leaves_global_random_numbers_alone(root: Path) -> None:
    loader = datamodule(root).train_dataloader()
    before = torch.random.get_rng_state()
    list(loader)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_collect_is_asked_first(root: Path, tmp_path: Path) -> None:
    def collect() -> None:
        (tmp_path / "new").mkdir()
        for path in root.iterdir():
            (tmp_path / "new" / path.name).write_bytes(path.read_bytes())

    data = datamodule(tmp_path / "new", collect=collect)
    with pytest.raises(RuntimeError, match="not indexed yet"):
        data.spec  # noqa: B018
    data.prepare_data()
    data.setup("fit")
    assert data.spec == build_index(root).spec
    assert len(data.index) == 26


def test_resume_with_another_order_is_refused(root: Path) -> None:
    state = datamodule(root).state_dict()
    with pytest.raises(ValueError, match=r"seed was 5, now 6; lanes was 4, now 8; .*restore these settings"):
        datamodule(root, seed=6, lanes=8).load_state_dict(state)


def replaced(root: Path, spec: TaskSpec, episode: Make, about: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The state of a run on five episodes, and the digest of five others of the same lengths that take their place."""
    for seed in (0, 100):
        inside = [episode(spec, 2 + i, seed + i) for i in range(5)]
        write_shard(root / shard_name(0), spec, inside, about, seeds=list(range(5)) if about else None)
        if not seed:
            state = datamodule(root, validation_fraction=0.0).state_dict()
    return state, build_index(root).digest


def test_other_values_of_the_same_lengths_are_other_data(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> None:
    """Where nothing was collected, and no seed says what an episode holds."""
    (root := tmp_path / "own").mkdir()
    state, digest = replaced(root, plain_spec, episode, {})
    data = datamodule(root, validation_fraction=0.0)
    assert not data.holds(state["order"]["data"]) and data.holds(digest)
    with pytest.raises(ValueError, match=rf"another order of data: data was \w{{16}}, now {digest}; .*allow_mismatch"):
        data.load_state_dict(state)
    data.allow_other_data = True
    data.load_state_dict(state)
    (root / shard_name(0)).unlink()
    assert data.holds(digest), "what is not there is no other"


def test_the_digests_of_before_are_known(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> None:
    """Of the task, the lengths and the seeds, put together here as they were when checkpoints had no other."""
    (root := tmp_path / "own").mkdir()
    kinds: tuple[dict[str, Any], ...] = ({}, {"collection": {}})
    for about in kinds:
        state, digest = replaced(root, plain_spec, episode, about)
        seeds = np.arange(5) if about else np.full(5, -1)
        parts = plain_spec.to_json().encode(), np.cumsum([0, 2, 3, 4, 5, 6]).tobytes(), seeds.tobytes()
        former = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
        assert (digest == former) == bool(about), "collected episodes are told by their seeds"
        data = datamodule(root, validation_fraction=0.0)
        assert data.holds(former)
        data.load_state_dict({**state, "order": {**state["order"], "data": former}})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"context_length": 0}, "context_length: expected 1 or more, found 0"),
        ({"backprop_segments": 0}, "backprop_segments: expected 1 or more, found 0"),
        ({"lanes": 0}, "lanes: expected 1 or more"),
        ({"num_workers": -1}, "num_workers: expected 0 or more"),
        ({"seed": -1}, "seed: expected 0 or more"),
        ({"validation_fraction": 1.0}, "validation_fraction: expected 0 to below 1, found 1.0"),
        ({"on_bad_shard": "maybe"}, "on_bad_shard: expected 'fail' or 'skip'"),
    ],
)
def test_refusals(root: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        datamodule(root, **changes)


def test_more_lanes_than_episodes(root: Path) -> None:
    with pytest.raises(ValueError, match=r"lanes=99, but .* has 24 episodes to train on.*use lanes of 24 or less"):
        datamodule(root, lanes=99).setup()


def test_damage_met_by_a_worker_is_one_sentence(root: Path) -> None:
    data = datamodule(root, num_workers=1, verify=False, on_bad_shard="skip")
    path = root / shard_name(1)
    data.setup()
    content = bytearray(path.read_bytes())
    for at in range(2048, len(content)):
        content[at] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ShardError, match="shard-00001") as caught:
        list(data.train_dataloader())
    assert "\n" not in str(caught.value)
