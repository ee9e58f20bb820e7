"""hydra/launcher=local, in a package of the one name by which Hydra takes launchers from outside of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn

log = logging.getLogger("sweep")


class LocalLauncher(BasicLauncher):
    """A Hydra launcher: the runs of a sweep on this machine, n_jobs at the same time, each a process of its own."""

    def __init__(self, n_jobs: int = -1) -> None:
        super().__init__()
        self._n_jobs = n_jobs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        # Hydra imports this file whenever it starts.
        from callbacks import signals
        from callbacks.command.local import Runs
        from callbacks.command.sweeps import score_in

        Runs.present = runs = Runs(self._n_jobs)
        logging.getLogger(BasicLauncher.__module__).setLevel(logging.WARNING)  # it counts one job at a time
        returned: list[JobReturn] = []
        try:
            with signals.held():
                for number, overrides in enumerate(job_overrides, initial_job_idx):
                    runs.wait(below=runs.count)
                    returned += super().launch([overrides], number)
                log.info("%d runs, %d at the same time", len(job_overrides), runs.count)
                runs.wait(below=1)
        finally:
            Runs.present = None
        for job in returned:  # each was only begun; by now its row is there
            assert job.hydra_cfg is not None
            job.return_value = score_in(Path(job.hydra_cfg.hydra.runtime.output_dir))
        return returned
