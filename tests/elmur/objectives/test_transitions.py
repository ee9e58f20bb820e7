"""Which step follows which, the Bellman target by hand, the target network, and exact resume of every objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.checkpoint import LAST
from elmur.baselines.diffusion_policy import DiffusionPolicy
from elmur.baselines.recurrent import GRU
from elmur.batch import Outcome, SegmentBatch
from elmur.checkpoint import load_policy, read_checkpoint
from elmur.module import SequenceModule
from elmur.objectives.cql import CQL
from elmur.objectives.iql import IQL
from elmur.objectives.objective import Cloning, Filtered, Objective
from elmur.objectives.transitions import TransitionObjective
from elmur.spec import TaskSpec, Vector
from elmur.testing import CHOOSE, REACH, random_steps
from tests.elmur.objectives.training import KillAt, Stop, random_episode, shards_of, small, train

GAMMA = 0.9


def made(objective: Objective, spec: TaskSpec = CHOOSE, length: int = 2) -> Any:
    """A module in float64 whose target is not its model, nothing dropped out."""
    torch.manual_seed(0)
    module = SequenceModule(partial(GRU, d_model=6), length, objective=objective)
    module.build_model(spec)
    module.double().eval()
    if isinstance(objective, TransitionObjective):
        for parameter in objective.target.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def cut(whole: SegmentBatch, begin: int, end: int, last: int, terminated: bool) -> SegmentBatch:
    """Steps begin to end of an episode of `last` steps, as a window with the step after it."""
    lanes, far = whole.batch_size, whole.num_steps
    real = (torch.arange(far) < last).expand(lanes, far)
    yes, no = torch.ones(lanes, dtype=torch.bool), torch.zeros(lanes, dtype=torch.bool)

    def window(a: int, b: int) -> SegmentBatch:
        return SegmentBatch(
            {name: part[:, a:b] for name, part in whole.observation.items()}, whole.action[:, a:b],
            whole.return_to_go[:, a:b], real[:, a:b], real[:, a:b], yes if a == 0 else no, yes if b >= last else no,
            torch.full((lanes,), a),
        )  # fmt: skip

    ends = yes if terminated and begin < last <= end else no
    outcome = Outcome(whole.return_to_go[:, begin:end], ends, window(end, end + 1))
    return replace(window(begin, end), outcome=outcome)


def run(module: Any, *windows: SegmentBatch) -> dict[str, Tensor]:
    """The sums of all windows' terms, one after another."""
    found = [module.run_window(batch, "train", torch.Generator()).terms for batch in windows]
    return {name: torch.stack([terms[name] for terms in found]).sum() for name in found[0]}


def features(module: Any, whole: SegmentBatch) -> tuple[Tensor, Tensor]:
    """Features of the model and of its target, of all steps as one segment."""
    x, target_x = (
        net(whole, net.initial_memory(whole.batch_size))[0].prediction
        for net in (module.model, module.objective.target)
    )
    return x, target_x


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
@torch.no_grad()
def test_the_losses_of_iql_on_an_episode_of_three_steps(ends: str) -> None:
    """Equations 5 to 7 step by step; the border of a segment lies inside, and a step of padding behind."""
    module = made(IQL(tau=0.8, beta=2.0, limit=1.5, discount=GAMMA))
    whole, rewards = random_steps(CHOOSE, 1, 5), [1.0, -2.0, 4.0]
    whole.return_to_go[0, :3] = torch.tensor(rewards)
    terms = run(module, cut(whole, 0, 4, 3, ends == "terminated"))
    (x, target_x), head, target = features(module, whole), module.model.head, module.objective.target.head
    value = actor = critic = 0.0
    for t in range(3):
        action = int(whole.action[0, t])
        best = min(float(twin(target_x[0, t])[action]) for twin in target.critics.twins)
        v = float(head.value_net(x[0, t]))
        u = best - v
        value += abs(0.8 - (u < 0)) * u * u
        probability = torch.softmax(head.actor.linear(x[0, t]), dim=-1)[action]
        actor -= min(math.exp(2.0 * u), 1.5) * float(probability.log())
        if t == 2 and ends == "truncated":
            continue  # what followed was never recorded
        y = rewards[t] + (GAMMA * float(head.value_net(x[0, t + 1])) if t < 2 else 0.0)
        critic += sum((float(twin(x[0, t])[action]) - y) ** 2 for twin in head.critics.twins)
    assert float(terms["value_loss"]) == pytest.approx(value, rel=1e-10)
    assert float(terms["critic_loss"]) == pytest.approx(critic, rel=1e-10)
    assert float(terms["actor_loss"]) == pytest.approx(actor, rel=1e-10)


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
@torch.no_grad()
def test_the_losses_of_cql_on_an_episode_of_three_steps(ends: str) -> None:
    """Equation 4 step by step, with max over actions of the smaller of the target's values as backup."""
    module = made(CQL(alpha=0.3, discount=GAMMA))
    whole, rewards = random_steps(CHOOSE, 1, 5, seed=4), [1.0, -2.0, 4.0]
    whole.return_to_go[0, :3] = torch.tensor(rewards)
    terms = run(module, cut(whole, 0, 4, 3, ends == "terminated"))
    (x, target_x), head, target = features(module, whole), module.model.head, module.objective.target.head
    critic = conservative = 0.0
    for t in range(3):
        action, values = int(whole.action[0, t]), [twin(x[0, t]) for twin in head.critics.twins]
        conservative += 0.3 * sum(float(v.exp().sum().log() - v[action]) for v in values)
        if t == 2 and ends == "truncated":
            continue
        following = [twin(target_x[0, t + 1]) for twin in target.critics.twins]
        y = rewards[t] + (GAMMA * float(torch.minimum(*following).max()) if t < 2 else 0.0)
        critic += 0.5 * sum((float(v[action]) - y) ** 2 for v in values)
    assert float(terms["critic_loss"]) == pytest.approx(critic, rel=1e-10)
    assert float(terms["conservative_loss"]) == pytest.approx(conservative, rel=1e-10)


@pytest.mark.parametrize("objective", [IQL, CQL])
@pytest.mark.parametrize("last", [6, 5, 3, 2])
@torch.no_grad()
def test_windows_one_after_another_are_one_long_one(objective: Callable[..., Objective], last: int) -> None:
    """No transition is lost or made up at the border of windows, of model and target alike."""
    whole = random_steps(CHOOSE, 2, 8, seed=2)
    long = run(made(objective(discount=GAMMA)), cut(whole, 0, 6, last, True))
    windows = [cut(whole, begin, begin + 2, last, True) for begin in (0, 2, 4) if begin < last]
    short = run(made(objective(discount=GAMMA)), *windows)
    for name, value in long.items():
        assert float(short[name]) == pytest.approx(float(value), rel=1e-10), name


@torch.no_grad()
def test_the_target_follows_every_update_by_its_rate() -> None:
    module = made(IQL(target_rate=0.25))
    before = [parameter.clone() for parameter in module.objective.target.parameters()]
    module.objective.after_update(module.model)
    for old, new, own in zip(before, module.objective.target.parameters(), module.model.parameters(), strict=True):
        assert torch.allclose(new, 0.75 * old + 0.25 * own)


def test_no_gradient_reaches_the_target_or_what_is_held_constant() -> None:
    module = made(CQL(), REACH)
    batch = cut(random_steps(REACH, 2, 5), 0, 4, 5, False)
    window = module.run_window(batch, "train", torch.Generator())
    window.loss.backward()
    assert all(parameter.grad is None for parameter in module.objective.target.parameters())
    assert all(parameter.grad is not None for parameter in module.model.parameters())


def test_the_actor_of_cql_moves_itself_alone() -> None:
    module = made(CQL(), REACH)
    steps_of = cut(random_steps(REACH, 2, 5), 0, 4, 5, False)
    kept: dict[str, Tensor] = {}
    losses = module.objective.losses

    def noted(*arguments: Any) -> dict[str, Tensor]:
        kept.update(losses(*arguments))
        return kept

    module.objective.losses = noted
    module.run_window(steps_of, "train", torch.Generator())
    kept["actor_loss"].backward()
    moved = {name for name, parameter in module.model.named_parameters() if parameter.grad is not None}
    assert moved == {"head.actor.linear.weight", "head.actor.linear.bias"}


def diffusion(spec: TaskSpec) -> DiffusionPolicy:
    return DiffusionPolicy(spec, d_model=4, num_levels=10, sampling_steps=2, down_dims=(8, 8), pred_horizon=4)


EACH: dict[str, tuple[TaskSpec, Callable[[], Objective], Callable[..., Any]]] = {
    "filtered": (CHOOSE, partial(Filtered, 0.6), small),
    "cql": (CHOOSE, CQL, small),
    "iql": (CHOOSE, IQL, small),
    "continuous cql": (REACH, CQL, small),
    "continuous iql": (REACH, IQL, small),
    "diffusion": (REACH, Cloning, diffusion),
}


@pytest.mark.parametrize("name", EACH)
def test_a_run_that_is_killed_goes_on_exactly(name: str, tmp_path: Path) -> None:
    """Weights, target, optimizer and the carry of both are bit-identical, with what is drawn in the losses."""
    spec, objective, model = EACH[name]
    shards = shards_of(tmp_path / "shards", spec, [random_episode(spec, 4 + seed % 7, seed) for seed in range(12)])
    train(shards, tmp_path / "straight", objective(), 6, model=model)
    with pytest.raises(Stop):
        train(shards, tmp_path / "killed", objective(), 6, KillAt(4), model=model)
    assert read_checkpoint(tmp_path / "killed" / LAST)["global_step"] == 3
    train(shards, tmp_path / "killed", objective(), 6, model=model)
    one, other = (read_checkpoint(tmp_path / folder / LAST) for folder in ("straight", "killed"))
    assert any(key.startswith("objective.target.") for key in one["state_dict"]) == ("ql" in name)
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key]), key
    states = [c["optimizer_states"][0]["state"] for c in (one, other)]
    assert all(torch.equal(states[0][i]["exp_avg"], states[1][i]["exp_avg"]) for i in states[0])
    carries = [c["elmur"]["carry"] for c in (one, other)]
    assert len(carries[0]) and all(torch.equal(a, b) for a, b in zip(*carries, strict=True))


@pytest.mark.parametrize("name", ["cql", "iql", "continuous cql", "continuous iql"])
def test_a_checkpoint_acts_with_the_head_that_was_trained(name: str, tmp_path: Path) -> None:
    spec, objective, _ = EACH[name]
    shards = shards_of(tmp_path / "shards", spec, [random_episode(spec, 8, seed) for seed in range(8)])
    module, logged = train(shards, tmp_path, objective(), 2, validation=0.3)
    assert {"train/critic_loss", "train/loss", "train/score"} <= logged.keys()
    shown = random_steps(spec, 5, 1, dtype=torch.float32)
    observation = {part: values[:, 0].numpy() for part, values in shown.observation.items()}
    for sample in (False, True):
        policy = load_policy(tmp_path / LAST, spec, sample=sample)
        actions = []
        for _ in range(2):
            policy.start(5, seed=3)
            actions.append(policy.act(observation, torch.ones(5, dtype=torch.bool).numpy()))
        assert (actions[0] == actions[1]).all()
        if not sample:
            x = module.model.eval()(shown, module.model.initial_memory(5))[0].prediction[:, 0]
            assert torch.allclose(torch.as_tensor(actions[0]), module.model.head.act(x, None))


def test_validation_draws_nothing_from_the_state_that_training_draws_from(tmp_path: Path) -> None:
    """A loss that draws actions draws the same ones at every validation, and training goes on as without."""
    spec, objective, model = EACH["continuous cql"]
    episodes = [random_episode(spec, 8, seed) for seed in range(8)]
    shards = shards_of(tmp_path / "shards", spec, episodes)
    module, _ = train(shards, tmp_path / "run", objective(), 1, model=model, validation=0.4)
    state = torch.get_rng_state()
    batch = cut(random_steps(spec, 2, 7, dtype=torch.float32), 0, 6, 7, False)
    logs: list[float] = []
    module.log = lambda name, value, **_: logs.append(float(value))  # type: ignore[method-assign]
    for _ in range(2):
        module._carry.pop("validation", None)
        with torch.no_grad():  # as Lightning validates
            module.validation_step(batch, 0)
    assert logs[:2] == logs[2:] and torch.equal(torch.get_rng_state(), state)


def test_a_batch_without_rewards_is_refused() -> None:
    with pytest.raises(ValueError, match="IQL learns from transitions, found a batch without rewards"):
        made(IQL()).run_window(random_steps(CHOOSE, 2, 4), "train", torch.Generator())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (partial(IQL, tau=1.0), "tau must be between 0 and 1; found 1.0"),
        (partial(IQL, beta=-1.0), "beta must be 0 or more and limit above 0; found -1.0 and 100.0"),
        (partial(IQL, discount=1.1), "discount must be from 0 to 1; found 1.1"),
        (partial(CQL, target_rate=0.0), "target_rate must be above 0 and at most 1; found 0.0"),
        (partial(CQL, alpha=-1.0), "alpha must be 0 or more; found -1.0"),
        (partial(CQL, hidden_layers=[0]), r"hidden_layers must be widths of 1 or more; found \[0\]"),
        (partial(Filtered, fraction=0.0), "fraction must be above 0 and at most 1; found 0.0"),
        (partial(Filtered, fraction=1.5), "fraction must be above 0 and at most 1; found 1.5"),
    ],
)
def test_values_out_of_range(objective: Callable[[], Objective], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objective()


def test_labels_are_smoothed_by_cloning_alone() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing=0.1: IQL smooths labels by 0.0; give both the same"):
        SequenceModule(small, 3, label_smoothing=0.1, objective=IQL())


def test_what_generates_actions_keeps_its_head() -> None:
    module = SequenceModule(diffusion, 3, objective=IQL())
    with pytest.raises(ValueError, match=r"DiffusionPolicy generates actions from noise.* use module=imitation"):
        module.build_model(REACH)


def test_cql_needs_bounds_to_draw_actions_in() -> None:
    module = SequenceModule(small, 3, objective=CQL())
    unbounded = replace(REACH, action=Vector(2))
    with pytest.raises(ValueError, match="must be bounded; task 'reach' gives no bounds: use module=iql"):
        module.build_model(unbounded)
