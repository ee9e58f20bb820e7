"""Rounds of data set aggregation: the policy acts, the expert labels, and training goes on over all data so far."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from callbacks.checkpoint import resume_point
from callbacks.command.parts import env_family, evaluation_plan, learner, named, trainer
from callbacks.command.registry import PLATFORM
from callbacks.command.settings import Settings
from callbacks.errors import UsageError
from callbacks.evaluation.device import placed, threads
from callbacks.evaluation.plan import FIRST_SEED_OF_COLLECTION as FIRST_SEED
from elmur.build import build, call
from elmur.checkpoint import load_model, read_checkpoint
from elmur.policy import StreamingPolicy
from elmur.sequence_model import SequenceModel
from envs.labelling import Learner, check_labels

log = logging.getLogger(__name__)
FOLDER = "rounds"  # in the folder of a run
SEED_STREAM = 0xDA66E12  # apart from the seeds of the expert's own episodes
CHECKED_STEPS = 32  # in which an expert shows that it labels
DATA = "TrajectoryDataModule"  # under which a checkpoint has the state of the data
# Of `collect` what is for the expert's own episodes alone.
OF_THE_EXPERT = ("num_episodes", "noise", "mixture", "check", "processes", "seed", "normalise")


@dataclass(frozen=True)
class Rounds:
    """When rounds take place, and what is done in each (Ross, Gordon and Bagnell 2011, algorithm 3.1).

    number: of rounds. episodes: labelled in each. updates: made after each; None: all updates of the run in equal parts
    before, between and after the rounds. expert_share: p; in round k every step is the expert's own with probability
    p ** k, so that with 0 the policy acts alone, and with 1 the expert.
    """

    number: int = 3
    episodes: int = 1000
    updates: int | None = None
    expert_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("number", "episodes", "updates"):
            value = getattr(self, name)
            if (type(value) is not int or value < 1) and not (name == "updates" and value is None):
                raise ValueError(f"rounds.{name}: expected 1 or more, found {value!r}")
        if not 0.0 <= self.expert_share <= 1.0:
            raise ValueError(f"rounds.expert_share: expected a share from 0 to 1, found {self.expert_share}")

    def updates_before(self, total: int | None) -> list[int]:
        """The updates made when each round takes place, in a run of so many, and at last all of them.

        Raises UsageError where they are too few, or nobody says how many.
        """
        total = total or 0
        of_each = self.updates or total // (self.number + 1)
        first = total - self.number * of_each if self.updates else of_each
        if min(of_each, first) < 1:
            wanted = f"more than {self.number * (self.updates or 1)}, some before each of {self.number} rounds"
            raise UsageError(
                f"trainer.max_steps={total}: expected {wanted} and some after; lower rounds.number or rounds.updates"
            )
        return [*(first + number * of_each for number in range(self.number)), total]

    def share_of_expert(self, number: int) -> float:
        """The probability that a step of round `number`, from 1, is the expert's own."""
        return float(self.expert_share**number)


@dataclass(frozen=True)
class Part:
    """What is trained in one go: until so many updates, over the expert's data and these rounds."""

    until: int
    rounds: tuple[Path, ...]
    is_last: bool


def rounds_of(settings: Settings) -> Rounds | None:
    """The rounds that are asked for; None without."""
    if settings.rounds is None:
        return None
    return call(Rounds, dict(settings.rounds), "rounds")


def part(settings: Settings, folder: Path, number: int) -> Part:
    """The part of a run that follows on its round `number`, 0: that before the first."""
    asked = rounds_of(settings)
    assert asked is not None
    until = asked.updates_before(settings.trainer.get("max_steps"))[number]
    return Part(until, tuple(folder_of(folder, one) for one in range(1, number + 1)), number == asked.number)


def folder_of(folder: Path, number: int) -> Path:
    """Where the shards of a round lie in the folder of a run."""
    return folder / FOLDER / f"round-{number}"


def standing(folder: Path) -> tuple[int, int]:
    """How many rounds the newest checkpoint of a run was trained with, and its updates; 0 and 0 where there is none."""
    path = resume_point(folder / "checkpoints")
    if path is None:
        return 0, 0
    found = read_checkpoint(path)
    return int(found[DATA]["order"].get("rounds", 0)), int(found["global_step"])


def check_rounds(settings: Settings) -> None:
    """Raises UsageError or ValueError for rounds that cannot be held; an expert has to show that it labels."""
    asked, family = rounds_of(settings), env_family(settings)
    if asked is None:
        return
    asked.updates_before(settings.trainer.get("max_steps"))
    if family.make is None or family.expert is None:
        lacks = "is trajectories alone" if family.make is None else "names no env.expert"
        raise UsageError(
            f"rounds: the policy acts and an expert says what it would do, and env={family.name} {lacks}; leave rounds "
            "out, or name an environment with an expert, env.expert._target_=mypkg.Expert plugins=[mypkg]"
        )
    objective = learner(settings).objective
    if objective.reads.transitions or objective.reads.best_fraction is not None:
        raise UsageError(
            f"rounds: {type(objective).__name__} learns from returns or rewards, which a label has not; use "
            "module=imitation, or leave rounds out"
        )
    if (processes := trainer(settings, []).world_size) > 1:
        raise UsageError(f"rounds: one process acts and trains, found {processes}; give trainer.devices=1")
    how = build(settings.collect, "collect", "env", PLATFORM)
    check_labels(how["make_env"], family.expert, range(FIRST_SEED, FIRST_SEED + 2), CHECKED_STEPS)


def label(settings: Settings, folder: Path, number: int) -> None:
    """Let the newest weights act and the expert label, as far as that was not done: the shards of one round."""
    asked, family, plan = rounds_of(settings), env_family(settings), evaluation_plan(settings)
    path = resume_point(folder / "checkpoints")
    assert asked is not None and path is not None
    model, length = load_model(path)
    how = {
        key: of for key, of in build(settings.collect, "collect", "env", PLATFORM).items() if key not in OF_THE_EXPERT
    }
    how["num_envs"] = min(how.get("num_envs", 64), asked.episodes)
    how["shard_episodes"] = min(how.get("shard_episodes", asked.episodes), asked.episodes)
    if learner(settings).objective.reads.preferences:
        how["preferences"] = True
    share, updates = asked.share_of_expert(number), int(read_checkpoint(path)["global_step"])
    about = {"round": number, "updates": updates, "weights": digest(model), "expert_share": share}
    on_gpu = settings.trainer.get("accelerator") != "cpu"
    acting: dict[str, Any] = {"sample": plan.sample, "target_return": plan.target_return}  # as it will in the report
    policy = StreamingPolicy(placed(model, length, how["num_envs"], plan.device, on_gpu), length, **acting)
    how |= {
        "expert": family.expert,
        "root": folder_of(folder, number),
        "num_episodes": asked.episodes,
        "seed": seed_of(settings.seed, number),
        "learner": Learner(policy, share, {**about, **acting}),
    }
    by = "the policy acts" if not share else f"a step is the expert's with probability {share:.3g}, else the policy's"
    log.info("round %d of %d at update %d: %s, the expert labels", number, asked.number, updates, by)
    with threads(1):
        call(named("trajectories", "collect"), how, "collect")


def seed_of(seed: int, number: int) -> int:
    """What the seeds of a round's episodes follow from, in a run of this seed; they are those of training data."""
    return int(np.random.SeedSequence([seed, number, SEED_STREAM]).generate_state(1)[0])


def digest(model: SequenceModel) -> str:
    """A hash of all weights by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
