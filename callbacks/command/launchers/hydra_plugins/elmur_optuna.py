"""hydra/sweeper=optuna: Hydra's Optuna sweeper, whose study lies in a file and goes on where it was."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

log = logging.getLogger("sweep")


class OptunaSearch(Sweeper):
    """A Hydra sweeper: runs with settings that Optuna proposes, by what the best checkpoint of each was chosen by.

    n_trials: runs with a result, in all; those of before count. n_jobs: runs that are proposed together and, with
    hydra/launcher=local, go side by side. storage: None for a file in the sweep's folder, named by all that was typed;
    else as Optuna has it. A trial that was interrupted is proposed again, so that its run goes on from its checkpoint.
    """

    def __init__(
        self,
        sampler: Any,
        n_trials: int,
        n_jobs: int = 1,
        direction: str = "maximize",
        storage: str | None = None,
        study_name: str = "search",
        params: DictConfig | None = None,
    ) -> None:
        self._sampler, self._n_trials, self._n_jobs, self._direction = sampler, n_trials, n_jobs, direction
        self._storage, self._study_name, self._params = storage, study_name, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context: dict[str, Any] = {
            "hydra_context": hydra_context,
            "task_function": task_function,
            "config": config,
        }
        self._folder = Path(config.hydra.sweep.dir)

    def sweep(self, arguments: list[str]) -> None:
        """Run what is missing, and say what was best."""
        # Hydra imports this file whenever it starts.
        from callbacks.command.label import search_name
        from callbacks.errors import UsageError

        try:
            import optuna
            from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
        except ImportError as error:
            raise UsageError(
                f'hydra/sweeper=optuna needs the Python package {error.name}: pip install "elmur[optuna]"'
            ) from error
        if self._n_trials < 1 or self._n_jobs < 1:
            raise UsageError(
                f"hydra.sweeper: expected n_trials and n_jobs of 1 or more; found {self._n_trials} and {self._n_jobs}"
            )
        params = [f"{key!s}={value}" for key, value in (self._params or {}).items()]
        study, states = self._opened(search_name([*arguments, *params])), optuna.trial.TrialState
        before = len(study.get_trials(states=(states.COMPLETE,)))
        log.info("study: %s, %d of %d trials have a result", self._storage, before, self._n_trials)
        if before < self._n_trials:
            made = OptunaSweeperImpl(
                self._sampler, self._direction, self._storage, self._study_name, self._n_trials - before, self._n_jobs,
                max_failure_rate=1.0, search_space=None, custom_search_space=None, params=self._params,
            )  # fmt: skip
            made.setup(**self._context)
            try:
                made.sweep(arguments)
            except ValueError:
                if study.get_trials(states=(states.COMPLETE,)):
                    raise
        if not study.get_trials(states=(states.COMPLETE,)):
            raise UsageError(
                "hydra/sweeper=optuna: no run has a result to go by; each needs callbacks.selection, whose metric is "
                "what is searched for, and not to fail"
            )
        best = study.best_trial
        chosen = " ".join(f"{key}={value}" for key, value in best.params.items())
        log.info("best of %d trials: %s, with %s", len(study.get_trials(states=(states.COMPLETE,))), best.value, chosen)

    def _opened(self, name: str) -> Any:
        """The study, with what was interrupted waiting to be run again. name: of its file where none is given."""
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)
        if self._storage is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._storage = f"sqlite:///{self._folder.resolve()}/{name}.study.db"
        study = optuna.create_study(
            storage=self._storage, study_name=self._study_name, direction=self._direction, load_if_exists=True
        )
        states = optuna.trial.TrialState
        for trial in study.get_trials(states=(states.RUNNING,)):
            log.info("trial %d was interrupted and is run again: %s", trial.number, trial.params)
            study.tell(trial.number, state=states.FAIL)
            study.enqueue_trial(trial.params)
        if study.trials:
            self._sampler.reseed_rng()  # else a sampler with a seed would propose what it has proposed before
        return study


def offer() -> None:
    """Let `hydra/sweeper=optuna` be this sweeper; the plugin that it is built on calls its own by the same name."""
    option: dict[str, Any] = {
        "_target_": f"{__name__}.{OptunaSearch.__name__}", "n_trials": 20, "n_jobs": 1, "direction": "maximize",
        "storage": None, "study_name": "search", "params": None,
    }  # fmt: skip
    try:
        import hydra_plugins.hydra_optuna_sweeper.config  # noqa: F401 - which names its own first

        option |= {"defaults": [{"sampler": "tpe"}]}
    except ImportError:  # an extra; `sweep` says so
        option |= {"sampler": None}
    ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=option, provider="elmur")


offer()
