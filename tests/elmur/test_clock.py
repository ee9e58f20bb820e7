"""EpisodeClock: the same step, the same vector, wherever segments begin; a fixed reversal is a linear map of it."""

from __future__ import annotations

import torch

from elmur.clock import EpisodeClock
from elmur.model import ELMUR, MemoryDesign
from tests.elmur.samples import SPEC, make_batch


def test_a_step_has_one_vector_and_steps_differ() -> None:
    clock = EpisodeClock(16).double()
    early, late = clock(torch.arange(0, 8).unsqueeze(0)), clock(torch.arange(4, 12).unsqueeze(0))
    assert torch.equal(early[:, 4:], late[:, :4])
    every = clock(torch.arange(1000).unsqueeze(0))[0]
    assert torch.pdist(every).min() > 1e-3


def test_the_mirrored_step_is_a_linear_map_of_the_sinusoids() -> None:
    clock = EpisodeClock(16, longest=300.0).double()
    with torch.no_grad():
        clock.linear.weight.copy_(torch.eye(16))
        clock.linear.bias.zero_()
        steps = torch.arange(100)
        there, back = clock(steps.unsqueeze(0))[0], clock(104 - steps.unsqueeze(0))[0]
    fitted = torch.linalg.lstsq(there, back).solution
    assert (there @ fitted - back).abs().max() < 1e-6


def test_only_a_model_with_a_clock_tells_segments_of_an_episode_apart() -> None:
    torch.manual_seed(0)
    early, late = make_batch(1, 4, 0), make_batch(1, 4, 40)
    for clock, same in ((None, True), (EpisodeClock, False)):
        memory = MemoryDesign(bias=None, memory_init_std=0.0, clock=clock)
        model = ELMUR(SPEC, 16, memory=memory).double().eval()
        state = model.initial_memory(1)
        gap = (model(early, state)[0].prediction - model(late, state)[0].prediction).abs().max()
        assert bool(gap < 1e-12) == same
