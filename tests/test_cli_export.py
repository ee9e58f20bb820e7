"""stage=export by its command line: the folder, what acts from it alone, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from huggingface_hub import ModelCard

import elmur
from callbacks.export.card import USE
from elmur.testing import random_steps
from tests.command import TINY, CommandLine

LENGTHS = "env.lengths=[9,30]"


@pytest.mark.slow
def test_a_trained_policy_leaves_the_repository(cli: CommandLine, tmp_path: Path) -> None:
    run = cli.folder / "trained"
    done = cli.run(*TINY, "model.n_head=2", to=run)
    assert done.code == 0, done.stderr
    done = cli.run("stage=export", f"checkpoint={run}", LENGTHS, "export.steps=200", "export.time=true")
    assert done.code == 0, done.stderr
    folder = cli.folder / f"run{cli.count}" / "policy"
    assert done.stdout.count("acts as the policy: 200 steps") == 4 and "ms a step" in done.stdout
    files = {"README.md", "config.json", "task.json", "model.safetensors", "step.json", "latency.json"}
    programs = {"step.onnx", "step_1.onnx", "step.pt2", "step_1.pt2"}
    assert {path.name for path in folder.iterdir()} == files | programs
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "elmur" and "| T=30 | 6 |" in card.text
    # Weights of the same run that were not the ones judged: its last ones, and its best ones with one number changed.
    last, changed = (run / "checkpoints" / f"{name}.ckpt" for name in ("last", "changed"))
    found = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    next(iter(found["state_dict"].values())).view(-1)[0] += 1
    torch.save(found, changed)
    for path in (last, changed):
        done = cli.run("stage=export", f"checkpoint={path}", LENGTHS, "export.steps=20", "export.formats=[onnx]")
        assert done.code == 0 and "not of these weights" in done.stdout + done.stderr, done.stderr
        text = (cli.folder / f"run{cli.count}" / "policy" / "README.md").read_text()
        assert "not evaluated" in text and "T=30" not in text and "# elmur on " in text
        assert f"{torch.load(path, weights_only=True)['global_step']} updates, seed 0" in text
    assert onnx.load(folder / "step.onnx").opset_import[0].version >= 18
    # The policy itself, from the checkpoint and from the folder.
    policy, again = elmur.load(run), elmur.load(folder)
    steps = random_steps(policy.model.spec, 1, 60)
    shown = {name: part[0].numpy() for name, part in steps.observation.items()}
    policy.seed_episodes([0])
    expected = [int(policy.act({n: p[t].astype(p.dtype) for n, p in shown.items()})) for t in range(60)]
    again.seed_episodes([0])
    assert [int(again.act({n: p[t] for n, p in shown.items()})) for t in range(60)] == expected
    # The card's own block, with nothing but numpy and onnxruntime.
    kept: dict[str, Any] = {name: part.astype(dtype_of(folder, name)) for name, part in shown.items()}
    np.savez(folder / "shown.npz", **kept)
    block = USE.split("```python\n")[2].partition("```")[0]
    loop = block.replace(
        "while running:", "for t in range(60):\n    observation = {n: shown[n][t : t + 1] for n in shown}"
    )
    program = (
        "import sys\nfor name in ('torch', 'elmur', 'lightning', 'hydra'):\n    sys.modules[name] = None\n"
        f"import numpy as np\nshown = dict(np.load('shown.npz'))\n{loop}    sys.stdout.write(f'{{action[0]}} ')\n"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert [int(word) for word in said.stdout.split()] == expected
    # The folder is a policy like another: it can be evaluated, and exported again.
    done = cli.run("stage=evaluate", f"checkpoint={folder}", LENGTHS, "evaluation.num_episodes=2")
    assert done.code == 0, done.stderr
    row = json.loads((cli.folder / f"run{cli.count}" / "result.json").read_text())
    assert row["model"] == "elmur" and row["outcomes"]["T=9"]["episodes"] == 2


def dtype_of(folder: Path, name: str) -> str:
    inputs = json.loads((folder / "step.json").read_text())["inputs"]
    return next(about["dtype"] for about in inputs if about["name"] == name)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "stage=export needs a checkpoint: checkpoint="),
        (("checkpoint=nowhere.ckpt",), "nowhere.ckpt: there is no such checkpoint"),
        (("checkpoint=nowhere.ckpt", "export.formats=[onxx]"), "formats: expected some of torch, onnx; found 'onxx'"),
        (("checkpoint=nowhere.ckpt", "export.stps=3"), "did you mean export.steps?"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(cli: CommandLine, words: tuple[str, ...], said: str) -> None:
    done = cli.run("stage=export", *words)
    assert done.code == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
