"""How a run cuts its episodes, and what its model carries from piece to piece."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter

import torch

from callbacks.evaluation.plan import MakeEnv, Variants
from elmur.banks import banks
from elmur.model import ELMUR, MemoryDesign
from elmur.sequence_model import SequenceModel
from envs.hidden import Demand, demand_of
from envs.vector import spec_of


@dataclass(frozen=True)
class Finding:
    """A sentence about a run; `warns` where it will probably spoil the result, `key` of what changes it."""

    about: str
    sentence: str
    key: str = ""
    warns: bool = False

    def __str__(self) -> str:
        return f"{self.sentence} [{self.key}]" if self.key else self.sentence


@dataclass(frozen=True)
class Regime:
    """How episodes are cut: `horizon` steps in the longest that is trained on, None where that is not known.

    longest: steps of the longest variant that is acted in. demand: what the task asks to be held, where it is known; in
    that variant, if it is longer than what is trained on.
    """

    context_length: int
    backprop_segments: int
    horizon: int | None
    longest: int | None = None
    demand: Demand | None = None

    @classmethod
    def of(
        cls,
        make_env: MakeEnv | None,
        variants: Variants,
        horizon: int | None,
        context_length: int,
        backprop_segments: int,
    ) -> Regime:
        """How episodes of up to `horizon` steps are cut, and what is acted in, if anything."""
        if make_env is None:
            return cls(context_length, backprop_segments, horizon)
        found = [(spec_of(make_env, **variant).horizon, variant) for variant in variants.values()]
        known = [(length, variant) for length, variant in found if length is not None]
        longest, variant = max(known, key=itemgetter(0), default=(None, {}))
        demand = demand_of(make_env, **(variant if (longest or 0) > (horizon or 0) else {}))
        return cls(context_length, backprop_segments, horizon, longest, demand)

    @property
    def segments(self) -> int:
        """Segments of the longest training episode; those of one window where its length is not known."""
        return self.backprop_segments if self.horizon is None else -(-self.horizon // self.context_length)

    @property
    def segments_acted(self) -> int:
        """Segments of the longest episode that is acted in."""
        return self.segments if self.longest is None else -(-self.longest // self.context_length)

    @property
    def windows(self) -> int:
        """Windows of the longest training episode."""
        return -(-self.segments // self.backprop_segments)

    @property
    def is_one_segment(self) -> bool:
        """Whether every episode that is acted in is known to be one segment."""
        return (self.longest or self.horizon) is not None and self.segments_acted == 1


@dataclass(frozen=True)
class Carried:
    """What a model carries through an episode.

    design: of ELMUR's memory, None of another model. writers: layers that write to one bank, more than 1 where it is
    shared. state: whether anything is carried. by_step: whether from one step to the next, so that it does not matter
    where a segment ends.
    """

    design: MemoryDesign | None = None
    writers: int = 1
    state: bool = True
    by_step: bool = False

    @classmethod
    def of(cls, model: SequenceModel) -> Carried:
        """What this model carries."""
        state = bool(banks(model.initial_memory(1, torch.Generator())))
        if not isinstance(model, ELMUR) or model.design is None:
            return cls(state=state, by_step=not model.has_segments)
        return cls(model.design, len(model.layers) if model.design.shared else 1, state)

    @property
    def whose(self) -> str:
        """Whose the slots of a bank are."""
        return "a layer" if self.writers == 1 else f"for all {self.writers} layers"


def plural(count: int, what: str) -> str:
    """A count with its noun."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
