"""`stage=inspect`: episodes of a checkpoint recorded, its memory looked into, as a page, arrays and tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from callbacks.errors import UsageError
from callbacks.evaluation.plan import FIRST_SEED_OF_COLLECTION
from callbacks.inspect.controls import controls
from callbacks.inspect.interventions import Effect, Lasting, at_segments, knocked_out, lasting, patched, shifted, twins
from callbacks.inspect.page import Shown, write_page
from callbacks.inspect.probes import FEWEST, Probe, failures, probes, some_of
from callbacks.inspect.recording import Player, Recording
from callbacks.report.sheets import Sheet
from callbacks.report.statistics import Share
from elmur.banks import banks
from elmur.files import atomic_open, write_json
from elmur.sequence_model import SequenceModel
from envs.family import EnvFamily
from envs.hidden import picture_of
from envs.observers import Observer
from envs.rollout import Wave

log = logging.getLogger(__name__)
LATE = "Segment 1 is the second; counted are episodes that reach it undisturbed, and whose donor does."
PAGE, ARRAYS, NUMBERS = "memory.html", "memory.npz", "memory.json"


@dataclass(frozen=True)
class InspectPlan:
    """What is played to look into a memory; the fields are the keys of `inspect`.

    num_episodes: side by side, from seed `first_seed` on. variant: of the env, by name; None: as `env.make` says.
    shown: episodes that the page shows step by step. max_steps: where longer episodes are cut. single_slots: banks of
    up to so many slots are probed and patched slot by slot.
    """

    num_episodes: int = 100
    first_seed: int = 700_000
    variant: str | None = None
    shown: int = 2
    max_steps: int = 1000
    changes: int = 6
    single_slots: int = 4

    def __post_init__(self) -> None:
        if min(self.num_episodes, self.max_steps) < 1 or not 0 <= self.shown <= self.num_episodes:
            raise ValueError(
                "inspect: expected num_episodes and max_steps of 1 or more and shown from 0 to num_episodes; found "
                f"num_episodes={self.num_episodes}, max_steps={self.max_steps}, shown={self.shown}"
            )
        if not 0 <= self.first_seed <= FIRST_SEED_OF_COLLECTION - self.num_episodes:
            raise ValueError(
                f"inspect.first_seed={self.first_seed}: {self.num_episodes} seeds from there must lie below "
                f"{FIRST_SEED_OF_COLLECTION}, where those of the training data begin"
            )

    def variant_of(self, family: EnvFamily) -> Mapping[str, Any]:
        """The arguments of the variant. Raises UsageError where there is none of its name."""
        if self.variant is None:
            return {}
        if self.variant not in family.variants:
            known = ", ".join(family.variants)
            raise UsageError(f"inspect.variant: expected one of {known}, or null; found {self.variant!r}")
        return family.variants[self.variant]


class _Pictures(Observer):
    """Keeps what the first few environments look like before every step."""

    def __init__(self, rows: int) -> None:
        self.shown = [Shown([], []) for _ in range(rows)]

    def on_action(self, wave: Wave, action: np.ndarray) -> np.ndarray:
        for row, shown in enumerate(self.shown):
            if wave.active[row]:
                shown.grids.append(picture_of(wave.env, row))
                shown.observations.append({name: np.array(part[row]) for name, part in wave.observation.items()})
        return action


def check_memory(model: SequenceModel, length: int, horizon: int | None, source: str) -> None:
    """Raises UsageError where a checkpoint's model carries nothing from segment to segment."""
    if not banks(model.initial_memory(1)):
        raise UsageError(
            f"{source}: a {type(model).__name__} carries nothing from one segment to the next, so that there is no "
            "memory to look into; stage=evaluate acts with it, and stage=inspect takes models that remember"
        )
    if horizon is not None and horizon <= length:
        what = "memory is never read in them" if model.has_segments else "memory is looked at between segments alone"
        log.warning("episodes of %d steps are one segment of %d: %s", horizon, length, what)


def look(
    model: SequenceModel, length: int, family: EnvFamily, plan: InspectPlan, acting: Mapping[str, Any], folder: Path
) -> list[Sheet]:
    """Everything that was found, as tables; written into the folder as a page, arrays and numbers."""
    env = family.world(num_envs=plan.num_episodes, **plan.variant_of(family))
    try:
        pictures = _Pictures(plan.shown)
        seeds = range(plan.first_seed, plan.first_seed + plan.num_episodes)
        play = Player(model, length, env, seeds, dict(acting), plan.max_steps)
        own = play(attention=True, observers=[pictures])
        log.info("recorded %d episodes of %d segments at most", len(own.episodes), own.segments)
        sheets = measured(play, own, plan, family)
    finally:
        env.close()
    write_arrays(folder / ARRAYS, own, plan.shown)
    write_json(folder / NUMBERS, {sheet.title: [plain_line(line) for line in sheet.lines] for sheet in sheets})
    write_page(folder / PAGE, own, pictures.shown, sheets, model.spec)
    for sheet in sheets:
        sheet.show(Console())
    log.info("page: %s; arrays: %s; numbers: %s", *(folder / name for name in (PAGE, ARRAYS, NUMBERS)))
    return sheets


def measured(play: Player, own: Recording, plan: InspectPlan, family: EnvFamily) -> list[Sheet]:
    """The tables: failures, probes, knock-out, patching, how long it lasts, controls."""
    sheets = [slots_fail(own), stored(own, family.name, plan.single_slots)]
    log.info("memory is knocked out, and taken from other episodes")
    other = twins(play)
    donors = shifted(own) if other is None else other
    about = "the next episode" if other is None else "its twin, which differs in what has to be remembered alone"
    where = at_segments(own.segments, plan.changes)
    usual = Share.of(sum(e.success for e in own.episodes), len(own.episodes))
    sheets.append(effects("knock-out", list(knocked_out(play, own, where)), usual, [
        "reset: as at the beginning of an episode; freeze: held as it is from there on; noise: of its own size. "
        f"{LATE} Acts as undisturbed: share of the later steps."
    ]))  # fmt: skip
    sheets.append(effects("patching", list(patched(play, own, donors, where, plan.single_slots)), usual, [
        f"Memory is taken from {about}, at the beginning of the segment. {LATE} The last two columns are of later "
        "steps at which the two undisturbed episodes act differently."
    ]))  # fmt: skip
    sheets.append(how_long([] if other is None else lasting(play.model, own, other), play.model.spec.name))
    return [*sheets, told_otherwise(play.model, own)]


def slots_fail(own: Recording) -> Sheet:
    """The three ways in which slots fail."""
    lines = [{"number": f.name, "bank": f.bank, "value": f.value, "better": f.good, "meaning": f.meaning} for f in
             failures(own)]  # fmt: skip
    return Sheet("how slots fail", lines, notes=["docs/memory.md says what to change where one is bad."])


def stored(own: Recording, family: str, most_slots: int) -> Sheet:
    """What can be read from each bank at each segment, and from each slot of banks of `most_slots` at most.

    A field of many items as their mean.
    """
    lines = []
    grouped = groupby(probes(own), key=lambda p: (p.field, p.segment, p.bank))
    for (field, segment, bank), each in grouped:
        probed = list(each)
        lines.append(line_of(field, segment, bank, probed) | by_slot(probed, most_slots))
    if lines:
        note = "A ridge regression on one slot, of episodes that it was not fitted to; control: shuffled labels."
    elif not own.hidden:
        note = (
            f"env={family} tells nothing of its hidden state, so that there is nothing to probe for; an environment "
            "with a method hidden() does (envs/hidden.py), and the tables below need none."
        )
    else:
        note = f"No probe: it needs {FEWEST} episodes that reach the second segment; raise inspect.num_episodes."
    return Sheet("what is stored where", lines, notes=[note])


def line_of(field: str, segment: int, bank: str, each: Sequence[Probe]) -> dict[str, Any]:
    """A line of the table of probes."""
    line: dict[str, Any] = {"field": field, "segment": segment, "bank": bank, "items": len(each)}
    if len(each) == 1:
        (one,) = each
        return {**line, "best slot": str(one.slot), "accuracy": one.accuracy, "control": one.control,
                "commonest": one.most}  # fmt: skip
    best = max(each, key=lambda probe: probe.accuracy.value)
    known = sum(probe.accuracy.interval[0] > probe.control.interval[1] for probe in each)  # type: ignore[index]
    return {
        **line,
        "best slot": f"{best.slot} (item {best.item})",
        "accuracy": share_of([probe.hits[probe.slot] for probe in each]),
        "control": share_of([probe.chance[probe.luckiest] for probe in each]),
        "commonest": float(np.mean([probe.most for probe in each])),
        "items above control": known,
    }


def by_slot(each: Sequence[Probe], most: int) -> dict[str, Share]:
    """The columns of a line that tell of every slot; none of a bank with one slot or with more than `most`."""
    found = {}
    for slot in range(size) if 1 < (size := len(each[0].hits)) <= most else ():
        found[f"slot {slot}"] = share_of([probe.hits[slot] for probe in each])
        found[f"slot {slot}, control"] = share_of([probe.chance[slot] for probe in each])
    return found


def share_of(right: Sequence[np.ndarray]) -> Share:
    """The share of right answers, bool `[N]` of each item: of several items the mean of each episode's share."""
    return Share.mean(np.mean(right, axis=0)) if len(right) > 1 else Share.of(int(right[0].sum()), len(right[0]))


def effects(title: str, found: Sequence[Effect], usual: Share, notes: list[str]) -> Sheet:
    """What changes of memory did."""
    lines: list[dict[str, Any]] = []
    for one in found:
        line = {"change": one.kind, "where": one.where, "segment": one.segment, "episodes": one.episodes,
                "success": one.success, "undisturbed": one.usual, "return": one.episode_return,
                "acts as undisturbed": one.own}  # fmt: skip
        lines.append(line if one.others is None else {**line, "acts as the donor": one.others})
    return Sheet(title, lines, notes=[f"Undisturbed success of all episodes {usual}.", *notes])


def how_long(rows: Sequence[Lasting], task: str) -> Sheet:
    """Twins compared."""
    if not rows:
        note = (
            f"{task} has no twins that differ in what has to be remembered alone, so that this was not measured; the "
            "probes above say at which segment a field can still be read."
        )
        return Sheet("how long it lasts", [], notes=[note])
    chosen = [rows[number - 1] for number in some_of(len(rows))]
    lines = [
        {"segment": r.segment, "step": r.steps, "episodes": r.episodes,
         **{f"memory, {name}": value for name, value in r.memory.items()},
         "prediction": r.prediction, "seen apart": r.seen, "(1 - lambda)^k": r.formula} for r in chosen
    ]  # fmt: skip
    notes = ["Distance between the twins' slots over their size, and between their predictions (total "
             "variation; of actions that are numbers, distance over size). Seen "
             "apart: share of the steps of the segment before at which the twins saw something else, by what they did; "
             "where it is not 0, memory differs by that too.",
             *[fading(name, [r.memory[name] for r in rows], rows) for name in rows[0].memory]]  # fmt: skip
    return Sheet("how long it lasts", lines, notes=notes)


def fading(name: str, values: Sequence[float], rows: Sequence[Lasting]) -> str:
    """When the difference has fallen to a half and to a hundredth of what it was when there first was any."""
    first = next((at for at, value in enumerate(values) if value > 0), None)
    if first is None:
        return f"{name}: twins are never apart."
    said = [f"apart from step {rows[first].steps:,} on"] if first else []
    for share, word in ((0.5, "half"), (0.01, "a hundredth")):
        later = zip(rows[first:], values[first:], strict=True)
        step = next((row.steps for row, value in later if value <= share * values[first]), None)
        said.append(f"{word} after {step:,} steps" if step is not None else f"{word} never in {rows[-1].steps:,} steps")
    formula = [(row.steps, row.formula) for row in rows if row.formula is not None]
    by_formula = next((steps for steps, value in formula if value <= 0.01), None)
    added = f"; the formula says a hundredth after {by_formula:,} steps" if by_formula is not None else ""
    return f"{name}: {', '.join(said)}{added}."


def told_otherwise(model: SequenceModel, own: Recording) -> Sheet:
    """The history reversed and resampled."""
    lines = [{"history": c.history, **{f"memory, {name}": value for name, value in c.memory.items()},
              "same actions": c.same, "episodes": c.episodes} for c in controls(model, own)]  # fmt: skip
    note = "The history is shown in another order or pace, then the last segment as it was; distances over size."
    return Sheet("history told otherwise", lines, notes=[note])


def plain_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line as JSON holds it: shares as value, low and high."""
    found: dict[str, Any] = {}
    for name, value in line.items():
        if isinstance(value, Share):
            bounds = value.interval or (None, None)
            found |= {name: value.value if value.interval else None, f"{name}, low": bounds[0]}
            found |= {f"{name}, high": bounds[1]}
        else:
            found[name] = value
    return found


def write_arrays(path: Path, own: Recording, shown: int) -> None:
    """The recording of the first episodes as npz: names say what, of which layer or bank; shapes as in `Recording`."""
    rows = slice(0, max(1, shown))
    arrays: dict[str, np.ndarray] = {
        "predictions": np.stack(own.predictions)[:, rows],
        "actions": own.actions()[:, rows],
        "rewards": own.of_steps(lambda steps: steps.reward)[:, rows],
    }
    for name in own.seen:
        arrays[f"observation/{name}"] = own.of_steps(lambda steps: steps.observation[name])[:, rows]  # noqa: B023 - at once
    for name, slots in own.slots().items():
        arrays[f"slots/{name}"] = slots[:, rows]
    for name, dates in own.written_at().items():
        arrays[f"written_at/{name}"] = dates[:, rows]
    for layer, weights in own.read.items():
        arrays[f"read/{layer}"] = np.stack(weights)[:, rows]
    for layer, written in own.write.items():
        arrays[f"write/{layer}"] = np.stack([each[rows] for each in written])
        arrays[f"written/{layer}"] = np.stack([each[rows] for each in own.index[layer]])
    for name, values in own.hidden.items():
        arrays[f"hidden/{name}"] = np.stack(values)[:, rows]
    with atomic_open(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
