"""How long memory tells a key from a ball in Minigrid-Memory: `python -m docs.measure_holding RUN [RUN ...]`.

The best checkpoint of each run folder acts in 40 episodes on maps of 101 cells. At so many steps after the object was
first seen: the distance of the mean memory of the episodes with a key from that of those with a ball, over the mean
size of a memory; of each tensor of the memory, a layer's slots or a recurrent state.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from callbacks.evaluation.device import threads
from callbacks.report.sheets import Sheet
from elmur.checkpoint import checkpoint_in, load_policy
from elmur.state import tensors_of
from envs.minigrid import COLOURS, KINDS, PART, STATES, make_vector

EPISODES, SIZE, FIRST_SEED = 40, 101, 700_000
AFTER = (6, 10, 16, 20, 30, 40, 60, 80, 90)  # steps; the walk to the fork takes some 100
KEY, BALL = 5, 6  # kinds of cells, in Minigrid's encoding
CELLS = len((KINDS, COLOURS, STATES))


def measure(run: Path) -> list[dict[str, str]]:
    """A line for each number of steps."""
    policy, env = load_policy(checkpoint_in(run)), make_vector(EPISODES, [SIZE])
    shown, active = env.reset(range(FIRST_SEED, FIRST_SEED + EPISODES)), np.ones(EPISODES, np.bool_)
    policy.start(EPISODES, 0)
    kind, seen, found = (
        np.zeros(EPISODES, np.int64),
        np.zeros(EPISODES, np.int64),
        dict[int, list[tuple[int, list[np.ndarray]]]](),
    )
    for step in range(2 * SIZE):
        for one in (KEY, BALL):
            new = (kind == 0) & (shown[PART][:, ::CELLS] == one).any(1)
            kind[new], seen[new] = one, step
        action = policy.act(shown, np.full(EPISODES, step == 0))
        parts = [
            part.flatten(1).double().numpy()
            for part in tensors_of(policy.memory())
            if part.is_floating_point() and part[0].numel() > 1
        ]
        for row in np.flatnonzero(active & (kind > 0)):
            found.setdefault(step - int(seen[row]), []).append((int(kind[row]), [part[row] for part in parts]))
        made = env.step(action, active)
        policy.observe(action, made.reward)
        shown, active = made.observation, active & ~(made.terminated | made.truncated)
    return [{"steps after": str(after), **apart(found[after])} for after in AFTER if after in found]


def apart(memories: list[tuple[int, list[np.ndarray]]]) -> dict[str, str]:
    """The distance of the two means over the mean size, of each tensor."""
    told = {}
    for number in range(len(memories[0][1])):
        keys, balls = (np.array([parts[number] for kind, parts in memories if kind == one]) for one in (KEY, BALL))
        size = np.linalg.norm(np.concatenate([keys, balls]), axis=1).mean()
        told[f"memory {number}"] = f"{np.linalg.norm(keys.mean(0) - balls.mean(0)) / size:.3f}"
    return told


if __name__ == "__main__":
    with threads(1):
        for folder in sys.argv[1:]:
            Sheet(f"a key's memory from a ball's: {folder}", measure(Path(folder))).show(Console(width=140))
