"""How many steps of an environment pass in a second while its expert is recorded and while a policy is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from callbacks.benchmark.timing import take_turns, threads
from elmur.module import SequenceModule
from elmur.policy import StreamingPolicy
from envs.observers import Recorder
from envs.rollout import rollout

NUM_ENVS, MOST_STEPS = 64, 100


def measure_tasks(module: SequenceModule, tasks: Sequence[Mapping[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """A row per task: rates of collecting and of acting with the recipe's model, untrained, on one thread.

    tasks: `make` and `expert`, a function that gives it, of each. The module's model is another one afterwards.
    """
    rows = []
    for task in tasks:
        vector = task["make"](num_envs=NUM_ENVS)
        module.build_model(vector.spec)
        play = partial(rollout, vector, seeds=range(NUM_ENVS), max_steps=MOST_STEPS)
        works = {
            "collecting": partial(play, policy=task["expert"](), observers=[Recorder()]),
            "acting": partial(play, policy=StreamingPolicy(module.model, module.context_length)),
        }
        with threads(1):
            spent = take_turns(works, seconds, least=2)
            steps = {name: sum(episode.length for episode in work()) for name, work in works.items()}
        vector.close()
        rates = {f"{name}, env steps/s": steps[name] / spent[name] for name in works}
        rows.append({"task": vector.spec.name, "envs": NUM_ENVS, **rates})
    return rows
