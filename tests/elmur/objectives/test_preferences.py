"""Learning from preferences: the loss written out by numpy, masks, number types, and what is learned in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.datamodule import TrajectoryDataModule
from data.shard import write_shard
from elmur.baselines.recurrent import GRU
from elmur.module import SequenceModule
from elmur.objectives.objective import Cloning, Objective
from elmur.objectives.preferences import Preferences, labels
from elmur.sequence_model import Output
from elmur.spec import Discrete, TaskSpec, Vector
from elmur.testing import random_steps
from tests.elmur.objectives.training import KillAt, Stop, random_episode, shards_of, train

SPEC = TaskSpec("preferring", {"state": Vector(2)}, Discrete((5,)))


class Fixed(GRU):
    """A model whose logits are given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__(SPEC, d_model=4)
        self.logits, self.at = torch.nn.Parameter(logits), 0

    def forward(self, batch: Any, memory: Any, write: bool = True, write_grad: bool = True) -> tuple[Output, Any]:
        self.at, begin = self.at + batch.num_steps, self.at
        return Output(self.logits[:, begin : self.at]), memory


def given(lanes: int = 3, steps: int = 7) -> tuple[Any, torch.Tensor, np.ndarray]:
    """A batch with preferences, logits, and which of its steps count."""
    rng = np.random.default_rng(4)
    batch = random_steps(SPEC, lanes, steps, dtype=torch.float32)
    held = rng.random((lanes, steps, 5)) * (rng.random((lanes, steps, 5)) < 0.7) + 1e-3
    held[0, 0] = [2, 0, 2, 1, 0]  # a tie, and what is out of the question
    counted = rng.random((lanes, steps)) < 0.6
    counted[0, 0] = True
    held = np.where(counted[..., None], held / held.sum(-1, keepdims=True), 0.0)  # padding is all zeros
    batch.preference = torch.from_numpy(held.astype(np.float16))
    batch.loss_mask = torch.from_numpy(counted)
    return batch, torch.from_numpy(rng.normal(size=(lanes, steps, 5)).astype(np.float32)), counted


def by_hand(batch: Any, logits: np.ndarray, temperature: float, share: float = 0.0) -> tuple[float, float, int]:
    """(cross-entropy, entropy of the labels, answers that are best), summed over the counted steps, one by one."""
    held, counted = batch.preference.numpy(), batch.loss_mask.numpy()
    loss = entropy = 0.0
    best = 0
    for lane, step in zip(*np.nonzero(counted), strict=True):
        row, scores = held[lane, step].astype(np.float64), logits[lane, step].astype(np.float64)
        sharp = (row == row.max()).astype(float) if temperature == 0 else (row / row.max()) ** (1 / temperature)
        target = (1 - share) * sharp / sharp.sum()
        target[int(batch.action[lane, step])] += share
        loss -= sum(p * (s - np.log(np.exp(scores).sum())) for p, s in zip(target, scores, strict=True))
        entropy -= sum(p * np.log(p) for p in target if p > 0)
        best += int(row[scores.argmax()] == row.max())
    return loss, entropy, best


@pytest.mark.parametrize(("temperature", "share"), [(0.0, 0.0), (0.1, 0.0), (1.0, 0.0), (0.5, 0.3), (0.0, 0.9)])
def test_the_loss_is_the_cross_entropy_at_the_steps_that_count(temperature: float, share: float) -> None:
    batch, logits, counted = given()
    model = Fixed(logits)
    found, _ = Preferences(temperature, share).window(model, batch, list(batch.split(3)), (), True)
    loss, entropy, best = by_hand(batch, logits.numpy(), temperature, share)
    assert float(found.loss.detach()) == pytest.approx(loss, rel=1e-5)
    assert float(found.terms["label_entropy"]) == pytest.approx(entropy, rel=1e-4)
    assert (int(found.score), int(found.counted)) == (best, counted.sum())
    found.loss.backward()
    assert model.logits.grad is not None
    gradient = model.logits.grad.abs().sum(-1).numpy()
    assert np.isfinite(gradient).all() and (gradient[~counted] == 0).all() and (gradient[counted] > 0).all()


def test_the_least_loss_is_the_entropy_of_the_labels() -> None:
    batch, *_ = given()
    assert batch.preference is not None
    target = labels(batch.preference, batch.action, batch.loss_mask, 0.5, 0.0)
    model = Fixed((target + 1e-30).log())
    found, _ = Preferences(0.5).window(model, batch, list(batch.split(7)), (), True)
    assert float(found.loss.detach()) == pytest.approx(float(found.terms["label_entropy"]), rel=1e-5)


def test_ties_are_learned_alike_and_no_temperature_brings_back_what_is_out_of_the_question() -> None:
    held = torch.tensor([[[0.4, 0.0, 0.4, 0.2, 0.0]]], dtype=torch.float16)
    first, counted = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool)
    for temperature in (0.0, 1e-3, 0.1, 1.0):
        target = labels(held, first, counted, temperature, 0.0)[0, 0]
        assert target.dtype == torch.float32
        assert target[0] == target[2] and target[1] == target[4] == 0 and float(target.sum()) == pytest.approx(1.0)
    assert labels(held, first, counted, 0.0, 0.0)[0, 0].tolist() == [0.5, 0, 0.5, 0, 0]
    assert labels(held, first, counted, 0.0, 0.5)[0, 0].tolist() == [0.75, 0, 0.25, 0, 0]  # the one that it did


def test_of_a_sure_expert_it_is_cloning() -> None:
    batch, logits, _ = given()
    cloned, _ = Cloning().window(Fixed(logits), batch, list(batch.split(3)), (), True)
    alone, _ = Preferences(0.1, action_share=1.0).window(Fixed(logits), batch, list(batch.split(3)), (), True)
    assert float(alone.loss.detach()) == pytest.approx(float(cloned.loss.detach()), rel=1e-6)
    batch.preference = torch.nn.functional.one_hot(batch.action, 5).to(torch.float16)
    for temperature, share in ((0.0, 0.0), (0.1, 0.5), (1.0, 0.0)):
        found, _ = Preferences(temperature, share).window(Fixed(logits), batch, list(batch.split(3)), (), True)
        assert float(found.loss.detach()) == pytest.approx(float(cloned.loss.detach()), rel=1e-6)
        assert int(found.score) == int(cloned.score) and float(found.terms["label_entropy"]) == 0


def test_half_precision_is_computed_in_whole() -> None:
    batch, logits, _ = given()
    halved = logits.to(torch.bfloat16)
    found, _ = Preferences(0.1).window(Fixed(halved), batch, list(batch.split(3)), (), True)
    assert found.loss.dtype == torch.float32
    loss, *_ = by_hand(batch, halved.float().numpy(), 0.1)
    assert float(found.loss.detach()) == pytest.approx(loss, rel=1e-5)


def test_what_cannot_be_learned_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be from 0 to 1; found 2"):
        Preferences(2)
    with pytest.raises(ValueError, match=r"action_share must be from 0 to 1; found -0\.5"):
        Preferences(0.1, action_share=-0.5)
    numbers = TaskSpec("steering", {"state": Vector(2)}, Vector(1, (-1.0,), (1.0,)))
    module = SequenceModule(lambda spec: GRU(spec, d_model=8), 3, objective=Preferences())
    with pytest.raises(
        ValueError, match=r"preferences are among choices, and GRU ends in a ContinuousHead for .*steer"
    ):
        module.build_model(numbers)
    batch, logits, _ = given()
    batch.preference = None
    with pytest.raises(ValueError, match="found a batch without them"):
        Preferences().window(Fixed(logits), batch, [batch], (), True)


def preferring_shards(folder: Path, preferences: bool = True) -> Path:
    """Episodes of one task, at each step of which the state says what is held of the five actions."""
    episodes: list[Any] = [random_episode(SPEC, 6 + seed % 5, seed) for seed in range(24)]
    for episode in episodes:
        state = episode.observation["state"]
        worth = np.stack([state[:, 0] > 0, state[:, 0] > 0, state[:, 0] <= 0, 0 * state[:, 0], 0 * state[:, 0]], 1)
        episode.preference = worth / worth.sum(axis=1, keepdims=True)
    write_shard(folder / "shard-00000.h5", SPEC, episodes, {}, optional=["preference"] * preferences)
    return folder


def test_the_recorded_preferences_are_learned_and_actions_are_not_read(tmp_path: Path) -> None:
    module, logged = train(preferring_shards(tmp_path / "shards"), tmp_path / "run", Preferences(), 120, lr=0.02)
    assert logged["train/score"] > 0.95  # actions are random
    assert logged["train/loss"] < logged["train/label_entropy"] + 0.15
    assert isinstance(module.objective, Objective)


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    shards = preferring_shards(tmp_path / "shards")
    whole, _ = train(shards, tmp_path / "whole", Preferences(), 6)
    with pytest.raises(Stop):
        train(shards, tmp_path / "cut", Preferences(), 6, KillAt(4))
    again, _ = train(shards, tmp_path / "cut", Preferences(), 6)
    for one, other in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_shards_without_preferences_are_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = preferring_shards(tmp_path / "plain", preferences=False)
    with pytest.raises(ValueError, match=r"plain: its shards do not say .* set collect.preferences=true and collect"):
        train(folder, tmp_path / "run", Preferences(), 2)


def test_cloning_does_the_same_from_shards_with_preferences(tmp_path: Path) -> None:
    """One column more changes neither the order of data nor anything that is learned from the others."""
    plain = shards_of(tmp_path / "plain", SPEC, [random_episode(SPEC, 6 + seed % 5, seed) for seed in range(24)])
    one, _ = train(plain, tmp_path / "one", Cloning(), 4)
    other, _ = train(preferring_shards(tmp_path / "more"), tmp_path / "other", Cloning(), 4)
    for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    orders = [TrajectoryDataModule(tmp_path / name, 3, 2, lanes=4).state_dict()["order"] for name in ("plain", "more")]
    assert orders[0].pop("data") != orders[1].pop("data")  # one's own data are told by all of their arrays
    assert orders[0] == orders[1]
