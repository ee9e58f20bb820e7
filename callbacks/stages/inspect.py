"""stage=inspect: what the memory of a checkpoint holds and does, as a page, arrays and tables."""

from __future__ import annotations

from pathlib import Path

from callbacks.command.checks import check_variants
from callbacks.command.identity import check_no_run
from callbacks.command.parts import watchable
from callbacks.command.settings import Settings
from callbacks.errors import UsageError


def run(settings: Settings) -> None:
    """What the memory of a checkpoint holds and does: a page, arrays and tables."""
    from callbacks.inspect.microscope import InspectPlan, check_memory, look
    from elmur.build import call
    from elmur.checkpoint import checkpoint_in, load_model

    if settings.checkpoint is None:
        raise UsageError("stage=inspect needs a checkpoint: checkpoint=FOLDER of a run, or one of its checkpoints")
    check_no_run(folder := Path(settings.run_dir))
    family, plan = watchable(settings), call(InspectPlan, dict(settings.inspect or {}), "inspect")
    spec = check_variants(family)
    path = checkpoint_in(Path(settings.checkpoint))
    model, length = load_model(path, spec)
    check_memory(model, length, spec.horizon, str(path))
    acting = {key: settings.evaluation[key] for key in ("sample", "target_return")}
    look(model, length, family, plan, acting, folder)
