"""What comes of training on trajectories alone: loss and score on episodes that were not trained on; nobody acted."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from callbacks.command.identity import VALIDATION
from callbacks.report.sheets import Sheet
from elmur.files import read_json, write_json
from elmur.spec import Discrete, TaskSpec

log = logging.getLogger(__name__)
ACCURACY, ERROR = "action accuracy", "mean absolute error"


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How well a policy foretells the actions of the validation episodes; its fields are the keys of the file.

    loss, value: means over steps; measure: what `value` is, the share of actions that are the likeliest ones, or the
    absolute error, a mean over the action's dimensions. updates: of the run; chosen_at: the update whose weights these
    are, and selection_score by what they were chosen, the higher the better; None: they are the last.
    """

    task: str
    model: str
    seed: int
    updates: int
    episodes: int
    loss: float
    measure: str
    value: float
    chosen_at: int | None = None
    selection_score: float | None = None

    @classmethod
    def of(cls, spec: TaskSpec, loss: float, score: float, **about: str | float | None) -> Validation:
        """The validation of a task, by the module's `validation/loss` and `validation/score`."""
        is_choice = isinstance(spec.action, Discrete)
        measure, value = (ACCURACY, score) if is_choice else (ERROR, -score)
        return cls(loss=loss, measure=measure, value=value, **about)  # type: ignore[arg-type]

    def write(self, folder: Path) -> None:
        """Publish it in the run's folder."""
        write_json(folder / VALIDATION, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Validation | None:
        """What was written there, None where nothing was. Raises ValueError for a damaged file."""
        try:
            return cls(**read_json(folder / VALIDATION))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            path = folder / VALIDATION
            raise ValueError(f"{path}: expected a validation in JSON, found {error}; delete it to run again") from error

    def show(self, folder: Path) -> None:
        """As a table, and what it does not say."""
        title = f"{self.task} · {self.model} · seed {self.seed} · trajectories alone"
        cells = {"validation episodes": str(self.episodes), "loss": f"{self.loss:.4f}"}
        at = "the last" if self.chosen_at is None else f"the best, of update {self.chosen_at}"
        cells |= {self.measure: f"{self.value:.4f}", "updates": str(self.updates), "weights": at}
        Sheet(title, [cells]).show(Console())
        log.info(
            "validation: %s; success needs an environment to act in, as in env=gym env.id=CartPole-v1",
            folder / VALIDATION,
        )
