"""What can be said of a run without any weights, in words: how episodes are cut, its slots, what the task asks."""

from __future__ import annotations

from collections.abc import Iterator

from callbacks.inspect.regime import Carried, Finding, Regime, plural
from callbacks.inspect.slots import slots


def cutting(regime: Regime, carried: Carried) -> Iterator[Finding]:
    """How an episode becomes segments and windows."""
    length, window = regime.context_length, regime.backprop_segments
    if regime.horizon is None:
        said = f"A window is {window} segments of {length} steps; how long episodes are is not known."
        yield Finding("segments", said, "module.context_length, data.backprop_segments")
        return
    said = f"An episode of {regime.horizon:,} steps is {plural(regime.segments, 'segment')} of {length} steps"
    untrained = regime.segments == 1 and not carried.by_step
    if regime.segments > 1:
        back = "all of them" if regime.windows == 1 else f"{window} at a time, in {regime.windows} windows"
        yield Finding("segments", f"{said}; the gradient goes through {back}.", "data.backprop_segments")
    elif carried.by_step:
        held = "the state is its memory at every step" if carried.state else "nothing is carried from step to step"
        yield Finding("segments", f"{said}: the gradient goes through all of it, and {held}.")
    else:
        said += ": attention sees all of it at once, and nothing is ever read from memory"
        less = f"; a context below {regime.horizon} steps needs the memory" if regime.is_one_segment else ""
        yield Finding("segments", f"{said}{less}.", "module.context_length")
    if regime.longest is not None and regime.longest > regime.horizon:
        acted = plural(regime.segments_acted, "segment")
        said = f"The longest episode that is acted in has {regime.longest:,} steps, {acted}"
        if not untrained:
            times = f"{regime.segments_acted / regime.segments:,.0f} times those of training"
            yield Finding("segments", f"{said}: {times}.", "env.variants")
        elif regime.segments_acted > 1:
            what = "memory is read there, which is never trained" if carried.state else "no segment knows of another"
            yield Finding("segments", f"{said}: {what}.", "module.context_length", True)


def context(regime: Regime, carried: Carried) -> Iterator[Finding]:
    """How the context and the memory compare with what the task must hold, where the task tells."""
    demand, design = regime.demand, carried.design
    if demand is None:
        return
    held, key = f"The task holds {demand.items} {demand.what} for up to {demand.steps:,} steps", "module.context_length"
    if carried.by_step:
        where = "in the state, whatever the context" if carried.state else "and nothing is carried from step to step"
        yield Finding("capacity", f"{held}, {where}.")
    elif demand.steps < regime.context_length and regime.is_one_segment:
        less = f"less than the context of {regime.context_length}, so it can be solved without memory"
        yield Finding("capacity", f"{held}: {less}.", key)
    elif demand.steps < regime.context_length:
        inside = f"attention suffices inside a segment of {regime.context_length}"
        first, need = f"first {plural(demand.steps, 'step')}", f"need {'the' if carried.state else 'a'} memory"
        yield Finding("capacity", f"{held}: {inside}, but the {first} of each later one {need}.", key)
    elif design is None:
        yield Finding("capacity", f"{held}, a segment shows {regime.context_length}.", key)
    else:
        size, key, each = design.memory_size, "model.memory.memory_size", demand.items / design.memory_size
        held += f", a segment shows {regime.context_length} steps and there are {plural(size, 'slot')} {carried.whose}"
        if size >= demand.items:
            yield Finding("capacity", f"{held}: one for each.", key)
        else:
            held += f": a slot has to hold {each:.3g} of them; one each would be M={demand.items}."
            yield Finding("capacity", held, f"{key}={demand.items}", warns=each > 4)


def examine(regime: Regime, carried: Carried) -> list[Finding]:
    """All that can be said without weights."""
    return [*cutting(regime, carried), *slots(regime, carried), *context(regime, carried)]
