"""What docs say of the slots of RememberColor: `python -m docs.measure_reached CHECKPOINT [--read 1 2] [--exchange 1]`.

From numbers (`observation=vector`), on the CPU. First what each slot tells of the wanted colour and of the place of the
cube that has it, by a linear map, of episodes that it was not fitted to. Then from which steps slots are written, and
how far the arm is from that cube when a segment begins. Last, with memory of another episode at the beginning of a
segment, which cube the arm ends at: the one of its own colour, the one of the other episode's colour, or the one that
lies where the other episode's cube lies. Counted are episodes in which the last two are different cubes and the colours
differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from callbacks.inspect.interventions import shifted, taken
from callbacks.inspect.probes import right
from callbacks.inspect.recording import Player, Recording
from callbacks.report.statistics import Share
from docs.measure_lookup import write
from elmur.banks import banks
from elmur.checkpoint import load_policy
from envs.mikasa import make_vector
from envs.mikasa.scene import CUE_STEPS, PER_OBJECT

SHOWN_AT = 12  # a step at which all cubes are seen
REACH = 0.05  # metres from the tool to a cube that it touches, as the suite has it
TOOL = slice(18, 21)  # of the part "joints"
CENTRE = np.array([-0.25, 0.0])  # of the arc that the cubes lie on


class Scenes:
    """Of N episodes: the wanted colour `[N]`, where each cube lies along the arc `[N, C]`, and what was reached."""

    def __init__(self, own: Recording) -> None:
        self.colour = own.hidden["colour"][0][: len(own.episodes), 0]
        arm = np.stack([cubes(episode)[SHOWN_AT] for episode in own.episodes])[..., :2] - CENTRE
        self.order = np.arctan2(arm[..., 1], arm[..., 0]).argsort(axis=1).argsort(axis=1)
        self.rows = np.arange(len(self.colour))

    @property
    def place(self) -> np.ndarray:
        """Where the wanted cube lies, `[N]`: 0 is the first along the arc."""
        found: np.ndarray = self.order[self.rows, self.colour]
        return found


def cubes(episode: Any) -> np.ndarray:
    """The places of the cubes, `[T, C, 3]`."""
    shown = episode.steps.observation["objects"]
    found: np.ndarray = shown.reshape(len(shown), -1, PER_OBJECT)[..., 1:]
    return found


def reached(recording: Recording) -> np.ndarray:
    """The number of the cube that the tool is at in the last step of each episode, -1 for none."""
    last = np.stack([cubes(episode)[-1] for episode in recording.episodes])
    tool = np.stack([episode.steps.observation["joints"][-1, TOOL] for episode in recording.episodes if episode.steps])
    away = np.linalg.norm(last - tool[:, None], axis=-1)
    return np.where(away.min(axis=1) <= REACH, away.argmin(axis=1), -1)


def approached(own: Recording, scenes: Scenes) -> Iterator[list[Any]]:
    """When each segment begins: how far the tool is from where the wanted cube is or will be, in centimetres."""
    tool = np.stack([episode.steps.observation["joints"][:, TOOL] for episode in own.episodes if episode.steps])
    wanted = np.stack([cubes(e)[SHOWN_AT, colour] for e, colour in zip(own.episodes, scenes.colour, strict=True)])
    away = np.linalg.norm(tool - wanted[:, None], axis=-1)[:, :: own.context_length]
    for segment, distance in enumerate(away.T):
        yield [segment, segment * own.context_length, 100 * float(distance.mean()), float((distance <= REACH).mean())]


def told(own: Recording, scenes: Scenes, segments: list[int]) -> Iterator[list[Any]]:
    """For each slot that was written, at the beginning of each segment: what a linear map reads from it."""
    asked = np.stack([scenes.colour, scenes.place], axis=1)
    shuffled = asked[np.random.default_rng(0).permutation(len(asked))]
    dates = own.written_at()
    for bank, slots in own.slots().items():
        for segment in segments:
            for slot in np.flatnonzero((dates[bank][segment] >= 0).all(axis=0)):
                features = slots[segment][:, slot].astype(np.float64)
                hits = right(features, np.concatenate([asked, shuffled], axis=1))
                yield [segment, bank, int(slot), *(str(Share.of(int(hit), len(asked))) for hit in hits)]


def written_from(own: Recording) -> Iterator[list[Any]]:
    """For each write: the share of its attention that lies on the steps that show the cue, and on the others."""
    for layer, rows in own.write.items():
        for segment, weights in enumerate(rows):
            of_cue = weights[..., :CUE_STEPS].sum(axis=-1).mean() if segment == 0 else 0.0
            slots = ", ".join(str(slot) for slot in np.unique(own.index[layer][segment]))
            yield [segment, f"layer {layer}", slots, float(of_cue)]


def exchanged(play: Player, own: Recording, scenes: Scenes, segments: list[int]) -> Iterator[list[Any]]:
    """Which cube the arm ends at with the memory of the next episode."""
    donors, giver = shifted(own), np.roll(scenes.rows, -1)
    wanted, theirs = scenes.colour, scenes.colour[giver]
    there = (scenes.order == scenes.place[giver][:, None]).argmax(axis=1)  # the cube that lies at the donor's place
    told_apart = (wanted != theirs) & (theirs != there)
    yield outcome("–", "nothing", reached(own), (wanted, theirs, there), told_apart)
    for segment in segments:
        given = banks(donors.memories[segment])
        places: dict[str, set[tuple[str, int | None]]] = {"all": {(name, None) for name in given}}
        places |= {name: {(name, None)} for name in given}
        for name, bank in given.items():
            dates = bank.written_at
            kept = range(bank.slots.shape[1]) if dates is None else (dates >= 0).all(0).nonzero().flatten().tolist()
            if len(kept) > 1:
                places |= {f"{name}, slot {slot}": {(name, slot)} for slot in kept}
        for where, chosen in places.items():
            found = play(change=taken(donors.memories[segment], segment, chosen))
            yield outcome(segment, where, reached(found), (wanted, theirs, there), told_apart)


def outcome(segment: Any, where: str, at: np.ndarray, answers: Any, counted: np.ndarray) -> list[Any]:
    """A line: how often each of the three cubes was the one, of the episodes that are counted."""
    shares = [Share.of(int((at == answer)[counted].sum()), int(counted.sum())) for answer in answers]
    return [segment, where, int(counted.sum()), *map(str, shares), float((at < 0)[counted].mean())]


def main(checkpoint: str, seeds: range, read: list[int], exchange: list[int]) -> None:
    """Write the tables."""
    policy = load_policy(checkpoint)
    env = make_vector(len(seeds), policy.model.spec.name)
    try:
        play = Player(policy.model, policy.context_length, env, seeds)
        own = play(attention=True)
        scenes = Scenes(own)
        write(
            "segment | bank | slot | colour | place | colour, shuffled | place, shuffled", list(told(own, scenes, read))
        )
        write("written after segment | bank | slot | attention on the steps of the cue", list(written_from(own)))
        write("segment | step | cm to the wanted cube | in reach", list(approached(own, scenes)))
        head = "own colour | the other's colour | at the other's place | no cube"
        write(f"exchanged at segment | what | episodes | {head}", list(exchanged(play, own, scenes, exchange)))
    finally:
        env.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--seeds", nargs=2, type=int, default=(700_000, 700_100), metavar=("FROM", "TO"))
    parser.add_argument("--read", nargs="*", type=int, default=[1, 2], help="segments at which slots are read")
    parser.add_argument("--exchange", nargs="*", type=int, default=[1], help="segments at which memory is exchanged")
    given = parser.parse_args()
    with torch.no_grad():
        main(given.checkpoint, range(*given.seeds), given.read, given.exchange)
