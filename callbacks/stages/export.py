"""stage=export: a checkpoint as a folder that acts without this repository."""

from __future__ import annotations

from pathlib import Path

from callbacks.command.checks import check_variants
from callbacks.command.identity import ROW, alone_in, check_no_run
from callbacks.command.parts import evaluation_plan, watchable
from callbacks.command.settings import Settings
from callbacks.errors import UsageError


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
    row, run_folder = None, path.parent.parent
    if (run_folder / ROW).is_file():
        row = read_row(run_folder / ROW)
    seeds = evaluation_plan(settings).seeds
    with alone_in(folder):
        export(policy, read_checkpoint(path), family, plan, seeds, folder / "policy", row)
