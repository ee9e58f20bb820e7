"""`stage=doctor`: what a run will be able to learn, and what it will cost, in sentences that name the key to change."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from callbacks.inspect.costs import Size
from callbacks.inspect.examine import examine
from callbacks.inspect.gradients import (
    Gradients,
    Learner,
    Sections,
    gradients,
    is_dead,
    knobs,
    learned,
    numbered,
    parts,
    write_path,
)
from callbacks.inspect.regime import Carried, Finding, Regime
from callbacks.inspect.slots import Slots
from callbacks.report.sheets import Sheet
from callbacks.report.text import plain
from elmur.batch import SegmentBatch
from elmur.files import write_json
from elmur.module import SequenceModule

log = logging.getLogger(__name__)
FILE = "doctor.json"
LANES, EPISODES = 4, 8  # that are looked at, and collected where there are none
MOST_WINDOWS = 12  # that are looked at: enough for an episode of the published recipes


@dataclass(frozen=True)
class Patient:
    """What is looked at: a learner with its network, real windows of a few lanes, and what is asked of them.

    learner: makes the module of changed sections "model" and "module", with the same weights every time.
    """

    module: SequenceModule
    windows: Sequence[SegmentBatch]
    learner: Learner
    sections: Sections
    regime: Regime
    size: Size

    @property
    def is_whole(self) -> bool:
        """Whether the windows are those of a whole episode."""
        return self.regime.horizon is not None and len(self.windows) >= self.regime.windows

    @property
    def looked_at(self) -> str:
        """What the windows are of an episode."""
        if self.is_whole:
            return "a whole episode"
        count = len(self.windows)
        first = "the first window" if count == 1 else f"the first {count} windows"
        return f"{first} of an episode" + ("" if self.regime.horizon is None else f" of {self.regime.windows}")


def findings(patient: Patient) -> tuple[list[Finding], Sheet]:
    """All that the doctor finds, but for costs; and the parameters by part."""
    found = gradients(patient.module, patient.windows)
    listed = parts(found, patient.module)
    carried, regime = Carried.of(patient.module.model), patient.regime
    said = [*examine(regime, carried), *writer(patient.module, found, regime)]
    said += dead(found, patient.module)
    for knob in knobs(patient.sections, patient.learner, patient.windows):
        if not knob.acts and (patient.is_whole or not acts_later(knob.key, carried, regime)):
            tried = " or ".join(f"{other:.4g}" for other in knob.tried)
            text = f"{knob.key}={knob.value}: with {tried} the gradients of {patient.looked_at}"
            said.append(Finding("knob without effect", f"{text} are the same to the bit.", knob.key))
    total = sum(part.size for part in listed)
    lines = [{"part": part.name, "parameters": f"{part.size:,}", "share": part.size / total,
              "without gradient": f"{part.dead:,}"} for part in listed]  # fmt: skip
    return said, Sheet("parameters", lines, notes=[f"{total:,} in all, {sum(part.dead for part in listed):,} of them "
                                                   "got no gradient from real windows"])  # fmt: skip


def acts_later(key: str, carried: Carried, regime: Regime) -> bool:
    """Whether a setting that did nothing in the windows looked at changes what a longer part of an episode reads."""
    design = carried.design
    if design is None or design.write is None or not key.endswith("lru_blend_alpha"):
        return False
    return Slots.of(carried, regime, regime.segments).blends


def writer(module: SequenceModule, found: Gradients, regime: Regime) -> list[Finding]:
    """Whether what makes a write learns."""
    names = [f"model.{name}" for name in write_path(module.model)]
    numbers = sum(p.numel() for name, p in learned(module) if name in names)
    if not names:
        return []
    if not all(is_dead(found[name]) for name in names):
        return [Finding("writer", f"The writer gets a gradient ({numbers:,} parameters).")]
    if regime.segments == 1:
        why, key = "an episode is one segment, so that no write is ever read", "module.context_length"
    elif regime.backprop_segments == 1:
        why, key = "memory is cut off from the graph after every segment", "data.backprop_segments=2"
    else:
        why, key = "nothing that is written is read under the loss", "model.memory.read"
    said = (
        f"The writer gets no gradient: {why}. Its {numbers:,} parameters stay as they were drawn, and tokens learn to "
    )
    return [Finding("writer", said + "read what a random map writes.", key, True)]


def dead(found: Gradients, module: SequenceModule) -> list[Finding]:
    """Parameters beside the writer's that nothing reaches."""
    writes = {f"model.{name}" for name in write_path(module.model)}
    sizes = {name: parameter.numel() for name, parameter in learned(module)}
    names = [name for name in sizes if is_dead(found[name]) and (name not in writes or "router" in name)]
    if not names:
        return []
    shown = ", ".join(sorted({numbered(name) for name in names}))
    return [Finding("dead parameters", f"{sum(sizes[name] for name in names):,} parameters get no gradient: {shown}.")]


def schedule(module: SequenceModule, size: Size, window: int) -> list[Finding]:
    """What the learning rate's factor does over the run; steps are counted as if none were padding."""
    updates, lanes = size.updates, size.lanes
    if updates < 1:
        return []
    at = [module.schedule(n, n * lanes * window) for n in range(0, updates, max(1, updates // 200))]
    peak = max(range(len(at)), key=at.__getitem__)
    text = f"The learning rate's factor begins at {at[0]:.2g}, is highest ({at[peak]:.2g}) after "
    text += f"{peak / len(at):.0%} of the updates and ends at {at[-1]:.2g}."
    return [Finding("learning rate", text, "module/schedule")]


def show(said: Sequence[Finding], sheets: Sequence[Sheet], folder: Path, about: Mapping[str, Any]) -> None:
    """Print what was found, what spoils a run first, and write it into the folder."""
    console = Console()
    for warns in (True, False):
        for finding in said:
            if finding.warns is warns:
                mark = ("! ", "bold") if warns else ("  ", "")
                console.print(Text.assemble(mark, (f"{finding.about}: ", "bold"), plain(str(finding), most=None)))
    for sheet in sheets:
        console.print()
        sheet.show(console)
    tables = {sheet.title: sheet.lines for sheet in sheets}
    write_json(folder / FILE, {**about, "findings": [vars(finding) for finding in said], **tables})
    log.info("written to %s", folder / FILE)
