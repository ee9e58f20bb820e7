"""stage=import: a run of the published code as a checkpoint of ours."""

from __future__ import annotations

import logging
from pathlib import Path

from callbacks.command.identity import check_no_run
from callbacks.command.settings import Settings
from callbacks.errors import UsageError

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """A run of the published code as a checkpoint of ours."""
    from elmur.published.run import import_run

    if settings.source is None:
        raise UsageError("stage=import needs a source: source=FOLDER of a published run, or one of its .pth files")
    check_no_run(folder := Path(settings.run_dir))
    path = import_run(Path(settings.source), folder / "checkpoints" / "best.ckpt")
    log.info("checkpoint: %s", path)
