"""Diffusion Policy: the published network, schedule and sampler; what the loss asks; acting from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elmur.baselines.diffusion_policy import DiffusionHead, DiffusionPolicy, PlainConv, ahead
from elmur.diffusion import ConditionalUnet1d, NoiseSchedule
from elmur.policy import StreamingPolicy
from elmur.spec import Image, TaskSpec, Vector
from elmur.testing import CHOOSE, REACH, random_steps
from tests.elmur.baselines.golden import exactly
from tests.elmur.samples import draws

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden_baselines"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden files of the published baselines are not here")


def read(name: str) -> dict[str, Any]:
    """A file, with its weights and inputs in float64, so that this machine adds no rounding to the file's own."""
    found: dict[str, Any] = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    for part in ("state_dict", "inputs"):
        found[part] = {key: exactly(value) for key, value in found[part].items()}
    return found


def published() -> tuple[dict[str, Any], ConditionalUnet1d]:
    found = read("diffusion_unet")
    names = ("input_dim", "global_cond_dim", "diffusion_step_embed_dim", "down_dims", "kernel_size", "n_groups")
    net = ConditionalUnet1d(**{name: found["config"][name] for name in names}).double()
    net.load_state_dict(found["state_dict"])
    return found, net


@golden
def test_the_published_denoiser_and_its_gradient() -> None:
    found, net = published()
    inputs, schedule = found["inputs"], NoiseSchedule(100)
    torch.testing.assert_close(schedule.betas, found["betas"], rtol=0, atol=1e-7)
    torch.testing.assert_close(schedule.alphas_cumprod, found["alphas_cumprod"], rtol=0, atol=1e-7)
    x = schedule.noisy(inputs["actions"], inputs["noise"], inputs["diffusion_steps"])
    torch.testing.assert_close(x, found["noisy_actions"].double(), rtol=0, atol=1e-6)
    predicted = net(x, inputs["diffusion_steps"], inputs["features"].flatten(1))
    torch.testing.assert_close(predicted, found["noise_pred"].double(), rtol=0, atol=1e-5)
    loss = (predicted - inputs["noise"]).square().mean()
    assert float(loss.detach()) == pytest.approx(float(found["loss"]), abs=1e-5)
    loss.backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, found["grads"][name].double(), rtol=1e-4, atol=1e-5)


@golden
@torch.no_grad()
def test_the_published_sampler() -> None:
    found, net = published()
    inputs, sampler, schedule = found["inputs"], found["sampler"], NoiseSchedule(100)
    x, condition, kept = inputs["sampler_first"], inputs["features"].flatten(1), 0
    assert schedule.levels(100) == list(sampler["timesteps"])
    for number, level in enumerate(sampler["timesteps"]):
        noise = inputs["sampler_noise"][number] if level else x
        x = schedule.ancestral(x, net(x, torch.full((len(x),), level), condition), level, noise)
        if level in sampler["kept"]:
            expected = sampler["samples"][list(sampler["kept"]).index(level)]
            torch.testing.assert_close(x, expected.double(), rtol=0, atol=1e-5)
            kept += 1
    assert kept == 11


@golden
@torch.no_grad()
def test_the_published_encoder_of_images() -> None:
    found = read("diffusion_encoder")
    encoder = PlainConv({"rgb": Image(6, 32, 32)}, 16).double()
    encoder.load_state_dict(found["state_dict"])
    features = encoder([found["inputs"]["images"].unsqueeze(1)]).squeeze(1)
    torch.testing.assert_close(features, found["features"].double(), rtol=0, atol=1e-5)


def test_noise_that_is_known_is_taken_away() -> None:
    """A denoiser that knows x0 leads both samplers to it, whatever the number of steps."""
    schedule, x0 = NoiseSchedule(20), torch.rand(3, 4, 2) * 1.8 - 0.9

    def oracle(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        left = schedule.alphas_cumprod[level].view(-1, 1, 1)
        return (x - left.sqrt() * x0) / (1 - left).sqrt()

    for steps in (20, 7, 3, 1):
        levels = schedule.levels(steps)
        assert len(levels) == steps and levels[0] == 19 and levels == sorted(levels, reverse=True)
        found = schedule.sample(oracle, torch.randn(3, 4, 2), levels, torch.randn_like)
        torch.testing.assert_close(found, x0, rtol=0, atol=1e-4)


def test_the_schedule_forgets_everything_in_the_end() -> None:
    schedule = NoiseSchedule(100)
    assert schedule.alphas_cumprod[0] > 0.999 and schedule.alphas_cumprod[-1] < 1e-6
    with pytest.raises(ValueError, match="sampling steps must be from 1 to 100; found 101"):
        schedule.levels(101)


def test_what_comes_after_a_step() -> None:
    values = torch.arange(8.0).view(1, 4, 2)
    found = ahead(values, 3)
    assert found.shape == (1, 4, 3, 2)
    assert found[0, 1].tolist() == [[2, 3], [4, 5], [6, 7]]
    assert found[0, 3].tolist() == [[6, 7], [0, 0], [0, 0]]


def model(**more: Any) -> DiffusionPolicy:
    torch.manual_seed(0)
    sizes = {"d_model": 8, "num_levels": 20, "sampling_steps": 4, "down_dims": (8, 16), "pred_horizon": 4, **more}
    return DiffusionPolicy(REACH, **sizes)


def head_of(made: DiffusionPolicy) -> DiffusionHead:
    assert isinstance(made.head, DiffusionHead)
    return made.head


def test_actions_that_are_not_known_change_nothing() -> None:
    """Behind the end of a segment, and where masked: neither the loss nor its gradient depends on them."""
    made = model().double()
    batch = random_steps(REACH, 2, 6)
    mask = torch.tensor([[True] * 6, [True, True, True, False, True, False]])
    condition = made(batch, made.initial_memory(2))[0].prediction.detach()
    losses = []
    for filling in (0.0, 77.0):
        action = torch.where(mask.unsqueeze(-1), batch.action, filling)
        torch.manual_seed(3)
        losses.append(float(made.head.loss(condition, action, mask, 0.0).detach()))
    assert losses[0] == losses[1]
    torch.manual_seed(3)
    other = torch.where(mask.unsqueeze(-1), batch.action + 0.1, 0.0)
    assert losses[0] != float(made.head.loss(condition, other, mask, 0.0).detach())


def test_some_plans_stand_for_all() -> None:
    """The loss of a part of the plans, over many draws, is the loss of all of them."""
    batch = random_steps(REACH, 4, 8, dtype=torch.float32)
    means = []
    for max_plans in (4, 1000):
        made = model(max_plans=max_plans)
        with torch.no_grad():
            condition = made(batch, made.initial_memory(4))[0].prediction
            torch.manual_seed(1)
            draws = [float(made.head.loss(condition, batch.action, batch.mask, 0.0)) for _ in range(100)]
        means.append(np.mean(draws))
    assert means[0] == pytest.approx(means[1], rel=0.05)


def test_the_window_of_observations_is_short_and_begins_with_the_first() -> None:
    made = model(obs_horizon=3).double().eval()
    batch = random_steps(REACH, 1, 6)
    with torch.no_grad():
        x = made.observation(batch.observation)[0]
        condition = made(batch, made.initial_memory(1))[0].prediction[0]
    for t in range(6):
        expected = torch.cat([x[max(0, t - 2)], x[max(0, t - 1)], x[t]])
        assert torch.allclose(condition[t], expected, atol=1e-12)


def test_acting_is_the_seeds() -> None:
    made = model().eval()
    shown = random_steps(REACH, 3, 1, dtype=torch.float32)
    observation = {name: part[:, 0].numpy() for name, part in shown.observation.items()}

    def actions(seed: int) -> np.ndarray:
        policy = StreamingPolicy(made, context_length=2)
        policy.start(3, seed=seed)
        return np.stack([policy.act(observation, np.full(3, step == 0)) for step in range(3)])

    state = torch.get_rng_state()
    assert (actions(1) == actions(1)).all() and (actions(1) != actions(2)).all()
    assert torch.equal(torch.get_rng_state(), state), "nothing else is drawn from"
    low, high = np.array(REACH.action.low), np.array(REACH.action.high)  # type: ignore[union-attr]
    assert (actions(1) >= low).all() and (actions(1) <= high).all()


@pytest.mark.slow
def test_it_learns_two_ways_of_doing_a_thing() -> None:
    """Half of the time -0.8, half 0.8: the mean, 0, which cloning would do, is what nobody did."""
    spec = TaskSpec("fork", {"o": Vector(1)}, Vector(1, low=(-1.0,), high=(1.0,)))
    torch.manual_seed(0)
    made = DiffusionPolicy(spec, 8, 1, 2, num_levels=20, sampling_steps=20, down_dims=(16,), max_plans=64)
    optimizer = torch.optim.Adam(made.parameters(), lr=5e-3)
    condition = made.observation({"o": torch.ones(64, 1, 1)})
    for _ in range(300):
        action = torch.randint(2, (64, 1, 1)) * 1.6 - 0.8
        loss = made.head.loss(made.observation({"o": torch.ones(64, 1, 1)}), action, torch.ones(64, 1).bool(), 0.0)
        optimizer.zero_grad()
        (loss / 64).backward()
        optimizer.step()
    with torch.no_grad():
        condition = made.observation({"o": torch.ones(200, 1, 1)})[:, 0]
        drawn = made.head.act(condition, draws(0, len(condition))).squeeze(1)
    assert float(((drawn.abs() - 0.8).abs() < 0.25).float().mean()) > 0.8
    assert 0.25 < float((drawn > 0).float().mean()) < 0.75


@pytest.mark.parametrize(
    ("spec", "sizes", "message"),
    [
        (CHOOSE, {}, "draws continuous actions, task 'choose' has 3 to choose from; every other model can"),
        (TaskSpec("free", {"o": Vector(1)}, Vector(2)), {}, "within bounds, task 'free' gives none"),
        (REACH, {"pred_horizon": 3}, "pred_horizon must be a multiple of 2, for 2 levels of down_dims; found 3"),
        (REACH, {"down_dims": (12,)}, r"multiples of n_groups=8, the first of 8 too; found \[12\]"),
        (REACH, {"obs_horizon": 0}, "must be 1 or more; found 64, 0, 8 and 128"),
        (REACH, {"num_levels": 5}, "sampling steps must be from 1 to 5; found 10"),
        (REACH, {"diffusion_step_embed_dim": 3}, "must be even and 4 or more; found 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_built(spec: TaskSpec, sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionPolicy(spec, **sizes)
