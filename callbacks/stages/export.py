"""stage=export: a checkpoint as a folder that acts without this repository."""

from __future__ import annotations

import logging
from pathlib import Path

from callbacks.command.checks import check_variants
from callbacks.command.identity import ROW, alone_in, check_no_run, judged_identity
from callbacks.command.parts import evaluation_plan, watchable
from callbacks.command.settings import Settings
from callbacks.errors import UsageError

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """A checkpoint as a folder that acts without this repository."""
    from callbacks.export.export import ExportPlan, export
    from callbacks.report.row import read_row
    from elmur.build import call
    from elmur.checkpoint import checkpoint_in, load_policy, read_checkpoint

    if settings.checkpoint is None:
        raise UsageError("stage=export needs a checkpoint: checkpoint=outputs/runs/.../checkpoints/best.ckpt")
    plan: ExportPlan = call(ExportPlan, dict(settings.export), "export")
    path, family = checkpoint_in(Path(settings.checkpoint)), watchable(settings)
    check_no_run(folder := Path(settings.run_dir))
    policy = load_policy(path, check_variants(family), target_return=settings.evaluation["target_return"])
    row = read_row(path.parent.parent / ROW)
    if row is not None and row.identity != judged_identity(row.settings, path):
        log.warning("%s: result.json beside it is not of these weights; the model card says not evaluated", path)
        row = None
    seeds = evaluation_plan(settings).seeds
    with alone_in(folder):
        export(policy, read_checkpoint(path), family, plan, seeds, folder / "policy", row)
