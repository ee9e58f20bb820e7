"""The cost of acting: bytes by hand, of a model whose state is small and of one that holds a window."""

from __future__ import annotations

from callbacks.benchmark.acting import cost_of_acting
from elmur.baselines.decision_transformer import DecisionTransformer
from elmur.baselines.recurrent import GRU
from elmur.spec import Discrete, TaskSpec, Vector

SPEC = TaskSpec("corridor", {"state": Vector(4)}, Discrete((4,)))


def test_a_recurrent_state_is_as_large_after_any_history() -> None:
    small, large = ([*cost_of_acting(GRU(SPEC, d), 5, 2, (3, 40, 200))] for d in (8, 24))
    assert [cost.history for cost in small] == [3, 40, 200] and all(cost.ms > 0 for cost in small)
    assert len({cost.state_bytes for cost in small}) == 1
    assert large[0].state_bytes - small[0].state_bytes == 4 * (24 - 8), "float32, one layer"


def test_a_window_is_held_once_as_state_and_once_as_open_segment() -> None:
    """Ten steps more of three tokens of eight numbers, twice; after a history in which both windows are full."""
    costs = [
        next(cost_of_acting(DecisionTransformer(SPEC, w, d_model=8, n_layer=1, n_head=2), w, 1, (120,)))
        for w in (10, 20)
    ]
    assert costs[1].state_bytes - costs[0].state_bytes == 2 * 10 * 3 * 8 * 4
