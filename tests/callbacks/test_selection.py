"""Selection keeps the best checkpoint, the later of equal ones, and resumes with what it knew."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from lightning.pytorch import LightningModule, Trainer

from callbacks import selection
from callbacks.checkpoint import LAST
from callbacks.evaluation.outcomes import Outcome
from callbacks.selection import BEST, RolloutSelection, chosen
from envs.rollout import Episode
from envs.tmaze import make_vector, variants
from tests.elmur.samples import make_model


class FakeTrainer:
    """Notes what is saved and logged."""

    is_global_zero, world_size = True, 1

    def __init__(self) -> None:
        self.global_step, self.saved = 0, list[int]()
        self.logged: dict[int, dict[str, float]] = {}
        self.loggers, self.callbacks = [self], list[Any]()
        self.callback_metrics: dict[str, Any] = {}

    def save_checkpoint(self, path: Path) -> None:
        assert path.name == BEST
        self.saved.append(self.global_step)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.logged[step] = metrics


class FakeModule(LightningModule):
    """What selection needs of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.context_length = make_model(), 3


def outcome(success: float) -> Outcome:
    won = round(success * 10)
    return Outcome.of([Episode(i, 1, 0.0, {"success": i < won}) for i in range(10)], 0.0)


def watched(scores: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch, made: RolloutSelection) -> FakeTrainer:
    """Selection at updates 2, 4, ... where the two variants score as given."""
    left = iter(scores)

    def evaluate(policy: Any, make_env: Any, variants: Any, *args: Any, **kwargs: Any) -> dict[str, Outcome]:
        policy.model.eval()
        return dict(zip(variants, map(outcome, next(left)), strict=True))

    monkeypatch.setattr(selection, "evaluate", evaluate)
    trainer, module = FakeTrainer(), FakeModule()
    for update in range(1, 2 * len(scores) + 1):
        trainer.global_step = update
        made.on_train_batch_end(cast(Trainer, trainer), module)
        assert module.training and module.model.training, "back to training"
    made.on_train_end(cast(Trainer, trainer), module)  # nothing new: this update was judged
    return trainer


def make(folder: Path) -> RolloutSelection:
    return RolloutSelection(folder, make_vector, variants([9, 30]), every_n_updates=2)


def test_the_best_is_kept_and_the_later_of_equal_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [(0.2, 0.4), (0.6, 0.2), (0.4, 0.4), (0.3, 0.4), (1.0, 0.9), (0.9, 0.9)]
    made = make(tmp_path)
    trainer = watched(scores, monkeypatch, made)
    assert trainer.saved == [2, 4, 6, 10]
    assert trainer.logged[4] == pytest.approx({"eval/success": 0.4, "eval/success/T=9": 0.6, "eval/success/T=30": 0.2})
    assert made.best == pytest.approx(0.95)
    assert float(trainer.callback_metrics["eval/success"]) == pytest.approx(0.9), "what early stopping can monitor"


def test_what_was_best_survives_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make(tmp_path), make(tmp_path)
    watched([(0.8, 0.8)], monkeypatch, first)
    second.load_state_dict(first.state_dict())
    # Update 2 was judged before; 4 is worse, 6 as good.
    assert watched([(0.7, 0.7), (0.8, 0.8), (1.0, 1.0)], monkeypatch, second).saved == [6]


@pytest.mark.parametrize("wrong", [{"every_n_updates": 0}, {"num_episodes": 0}, {"num_envs": 0}])
def test_values_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RolloutSelection("folder", make_vector, variants([9]), **wrong)


def test_the_last_is_judged_where_nothing_was_selected(tmp_path: Path) -> None:
    assert chosen(tmp_path) == tmp_path / LAST
    (tmp_path / BEST).touch()
    assert chosen(tmp_path) == tmp_path / BEST
