"""What an export holds for `elmur.load`, written: weights, configuration and task; `elmur.checkpoint` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elmur.checkpoint import CONFIG, EXPORT_VERSION, TASK, WEIGHTS
from elmur.files import write_bytes, write_json

STEP = "step.json"  # names, types and shapes of what the programs take and give


def write_policy(folder: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write what `elmur.load` needs. checkpoint: as `elmur.checkpoint.read_checkpoint` gives it."""
    from safetensors.torch import save  # an extra

    ours, prefix = checkpoint["elmur"], "model."
    weights = {
        name.removeprefix(prefix): tensor.detach().clone().contiguous()
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    about = {key: ours[key] for key in ("model", "head", "context_length") if ours.get(key) is not None}
    write_bytes(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))
    write_json(folder / TASK, json.loads(ours["spec"]))
    write_json(folder / CONFIG, {"library": "elmur", "format": EXPORT_VERSION, **about})
