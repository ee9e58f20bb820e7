"""The ELMUR model and how it learns; knows no env and no config.

policy = elmur.load("outputs/runs/.../seed-0")  # a run folder, a checkpoint or an export
action = policy.act(observation)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elmur.policy import StreamingPolicy

__all__ = ["load"]


def load(path: Path | str, **how: Any) -> StreamingPolicy:
    """The policy in a run folder, a checkpoint or an export, on the CPU, ready to act; no code in a file is run.

    how: `sample=True` draws categorical actions instead of taking the likeliest, `target_return` is the return asked
    of models that are told one, `compiled=True` compiles them (`elmur.policy.StreamingPolicy`). Raises
    `elmur.checkpoint.CheckpointError` for a file that cannot be used.
    """
    from elmur.checkpoint import load_policy  # torch is imported when it is needed

    return load_policy(path, **how)
