"""The small golden file from the large one: `python tests/golden/cut.py FOLDER` (of the published model's outputs).

Left out is what no output depends on: rows of the distance tables beyond 100 steps (the inputs have 60), and the larger
gradients, of which the norms stay.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

NAME, REACH, LARGEST = "relative_ffn_gelu", 100, 128
TABLE = ".cross_rel_bias.bias.weight"


def cut(golden: dict[str, Any]) -> dict[str, Any]:
    """The same with the parts left out."""
    state = {}
    for name, weight in golden["state_dict"].items():
        middle = weight.shape[0] // 2
        rows = slice(middle - REACH, middle + REACH + 1)
        state[name] = weight[rows].clone() if name.endswith(TABLE) else weight
    for key in ("grads_detached", "grads_bptt"):
        grads = golden[key]["grads"]
        small = {name: g for name, g in grads.items() if isinstance(g, torch.Tensor) and g.numel() <= LARGEST}
        golden[key] = {**golden[key], "grads": {name: g.clone() for name, g in small.items()}}
    return {**golden, "state_dict": state}


def whole(golden: dict[str, Any]) -> dict[str, Any]:
    """The cut file with tables of their full size again, the rows that were left out not finite: none may be read."""
    state, rows = dict(golden["state_dict"]), 2 * int(golden["config"]["max_seq_len"]) - 1
    for name, weight in golden["state_dict"].items():
        if name.endswith(TABLE):
            state[name] = torch.full((rows, weight.shape[1]), torch.nan)
            middle = rows // 2
            state[name][middle - REACH : middle + REACH + 1] = weight
    return {**golden, "state_dict": state}


if __name__ == "__main__":
    large = torch.load(Path(sys.argv[1]) / f"{NAME}.pt", weights_only=True)
    torch.save(cut(large), Path(__file__).with_name(f"{NAME}.pt"))
