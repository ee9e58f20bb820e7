"""CQL and IQL: their formulas against the golden files and by hand, and what they learn that cloning does not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elmur.module import SequenceModule
from elmur.objectives.cql import CQL, ActorCriticHead, ChoiceHead
from elmur.objectives.critics import ChoiceCritics
from elmur.objectives.iql import IQL, GaussianActor, IQLHead, advantage_weight, expectile_loss
from elmur.objectives.objective import Cloning, Objective
from elmur.objectives.transitions import Transitions
from elmur.spec import Discrete, TaskSpec, Vector
from elmur.testing import REACH
from tests.elmur.objectives.training import Episode, shards_of, train
from tests.elmur.samples import draws

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden_baselines"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden files of the published baselines are not here")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    return found


def take(module: torch.nn.Module, weights: dict[str, torch.Tensor], prefix: str, head: str, layers: int) -> None:
    """The published network `prefix`, whose last layer is called `head`, as ours."""
    own = {f"{2 * i}.{kind}": weights[f"{prefix}.{2 * i}.{kind}"] for i in range(layers) for kind in ("weight", "bias")}
    last = weights[f"{head}.weight"]
    bias = weights.get(f"{head}.bias", torch.zeros(len(last)))
    module.load_state_dict({**own, f"{2 * layers}.weight": last, f"{2 * layers}.bias": bias})


@golden
def test_iql_agrees_with_the_published_formulas_where_the_next_state_is_the_next_state() -> None:
    found = read("iql")
    weights, inputs, config = found["state_dict"], found["inputs"], found["config"]
    spec = TaskSpec("golden", {"state": Vector(config["state_dim"])}, Vector(config["act_dim"]))
    head, target = (IQLHead(spec, config["d_model"], config["hidden_layers"]) for _ in range(2))
    for prefix, net in (("", head), ("target_", target)):
        for i, twin in enumerate(net.critics.twins, start=1):
            take(twin, weights, f"{prefix}q{i}_mlp", f"{prefix}q{i}_head", 2)
    take(head.value_net, weights, "v_mlp", "v_head", 2)
    encoder = torch.nn.Linear(config["state_dim"], config["d_model"])
    encoder.load_state_dict({kind: weights[f"state_encoder.{kind}"] for kind in ("weight", "bias")})
    x, next_x = encoder(inputs["states"]), encoder(inputs["next_observations_shifted"])
    over, everywhere = inputs["terminals_shifted"], torch.ones_like(inputs["mask"])
    assert set(over.unique().tolist()) <= {0.0, 1.0, 2.0}
    steps = Transitions(
        x, x, next_x, next_x, inputs["actions"], inputs["rewards"], everywhere, over == 0, everywhere
    )  # fmt: skip
    values = found["values"]
    with torch.no_grad():
        q = head.critics.of(x, inputs["actions"])
        torch.testing.assert_close(q, torch.stack([values["q1"], values["q2"]]).squeeze(-1), rtol=0, atol=1e-5)
        torch.testing.assert_close(head.value(x), values["v"].squeeze(-1), rtol=0, atol=1e-5)
        apart = target.critics.of(x, inputs["actions"]).amin(dim=0) - head.value(x)
        value_loss = expectile_loss(apart, config["tau"]).mean()
        weight = advantage_weight(apart, config["beta"], 100.0)
        error = (q - steps.backup(head.value(next_x), config["discount"])).square()
    expected = found["update1_shifted_next"]
    assert float(value_loss) == pytest.approx(expected["v_loss"], abs=1e-5)
    assert float(apart.mean()) == pytest.approx(expected["adv_mean"], abs=1e-5)
    assert float(weight.mean()) == pytest.approx(expected["exp_adv_mean"], abs=1e-5)
    assert float(error.mean(dim=(1, 2)).sum()) == pytest.approx(expected["q_loss"], abs=1e-5)


@golden
@pytest.mark.parametrize("name", ["cql_mlp"])
def test_the_conservative_term_is_the_published_one(name: str) -> None:
    found = read(name)
    weights, inputs, config = found["state_dict"], found["inputs"], found["config"]
    action = Discrete((config["act_dim"],))
    spec = TaskSpec("golden", {"state": Vector(config["state_dim"])}, action)
    head = ChoiceHead(spec, config["d_model"], config["hidden_layers"])
    for i, twin in enumerate(head.critics.twins, start=1):
        take(twin, weights, f"q{i}_backbone", f"q{i}_head", 2)
    x = torch.nn.functional.linear(inputs["states"], weights["state_encoder.weight"], weights["state_encoder.bias"])
    full, mask = found["full"], inputs["mask"] & (inputs["targets"] >= 0)
    with torch.no_grad():
        values = head.critics(x)
        torch.testing.assert_close(values, torch.stack([full["q1"], full["q2"]]), rtol=0, atol=1e-5)
        nothing = torch.zeros_like(mask)
        steps = Transitions(x, x, x, x, inputs["targets"].clamp(min=0), torch.zeros(mask.shape), mask, nothing, nothing)
        terms = head.losses(steps, torch.zeros(mask.shape), config["cql_alpha"])
    assert float(terms["conservative_loss"] / mask.sum()) == pytest.approx(float(full["cql_loss"]), rel=1e-5)


def test_expectiles_by_their_definition() -> None:
    """The minimiser of the expectile loss of a sample: mean at 0.5, towards the largest value as tau grows."""
    values, candidates = torch.tensor([0.0, 1.0, 4.0]), torch.linspace(0, 4, 4001)
    best = [
        float(candidates[expectile_loss(values.unsqueeze(1) - candidates, tau).sum(0).argmin()]) for tau in (0.5, 0.99)
    ]
    assert best[0] == pytest.approx(5 / 3, abs=1e-3)
    # 0.99 (4 - m) = 0.01 (m - 0) + 0.01 (m - 1) where m lies between 1 and 4
    assert best[1] == pytest.approx((0.99 * 4 + 0.01) / 1.01, abs=1e-3)


def test_weights_are_limited_and_hold_no_gradient() -> None:
    apart = torch.tensor([0.0, 1.0, 10.0], requires_grad=True)
    weight = advantage_weight(apart, 3.0, 100.0)
    assert weight.tolist() == pytest.approx([1.0, math.e**3, 100.0], rel=1e-6) and not weight.requires_grad


def test_the_gaussian_of_iql_is_a_density() -> None:
    torch.manual_seed(0)
    actor = GaussianActor(4, Vector(2, low=(-1.0, 0.0), high=(1.0, 4.0))).double()
    actor.log_std.data = torch.tensor([-0.5, 0.3], dtype=torch.float64)
    x, action = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 2, dtype=torch.float64)
    reach = torch.tensor([1.0, 2.0])
    expected = torch.distributions.Normal(actor(x), reach * actor.log_std.exp()).log_prob(action).sum(-1)
    # In units of the reach, so that its size does not weigh: a constant of log 2 here.
    torch.testing.assert_close(-actor.surprise(x, action) - math.log(2.0), expected)
    drawn = actor.act(torch.zeros(4000, 2), draws(0, 4000))
    assert drawn[:, 1].min() == 0.0 and drawn[:, 1].max() <= 4.0 and drawn[:, 0].abs().max() <= 1.0


def test_the_actor_of_cql_knows_its_density() -> None:
    """Against torch's own transformed distribution."""
    torch.manual_seed(0)
    head = ActorCriticHead(REACH, 4, [8]).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    action, density = head.actor.draw(x)
    mean, log_std = head.actor.parameters_of(x)
    affine = torch.distributions.AffineTransform(head.actor.middle, head.actor.reach)
    tanh = torch.distributions.TanhTransform()
    law = torch.distributions.TransformedDistribution(torch.distributions.Normal(mean, log_std.exp()), [tanh, affine])
    torch.testing.assert_close(density, law.log_prob(action).sum(-1), rtol=1e-6, atol=1e-6)


def test_the_integral_over_actions_is_one() -> None:
    """Against a fine sum over the square of actions, for a critic that is not flat."""
    torch.manual_seed(1)
    head = ActorCriticHead(REACH, 4, [16]).double()
    for twin in head.critics.twins:
        list(twin.parameters())[-2].data *= 10  # the last layer's matrix
    x = torch.randn(4, dtype=torch.float64)
    with torch.no_grad():
        estimates = head.log_integral(x.expand(20000, 4)).exp().mean(dim=1).log()
        grid = torch.cartesian_prod(
            torch.linspace(-1, 1, 201, dtype=torch.float64), torch.linspace(0, 4, 201, dtype=torch.float64)
        )
        values = head.critics(x.expand(len(grid), 4), grid)
        assert values.std() > 0.05, "a flat critic would show nothing"
        exact = (values.exp().mean(dim=1) * 8.0).log()
    torch.testing.assert_close(estimates, exact, rtol=0, atol=0.02)


CHAIN = TaskSpec("chain", {"place": Discrete((4,))}, Discrete((2,)))


def chain(seed: int) -> Episode:
    """Four places in a row: action 1 goes on, action 0 ends it for 0.2; behind the last there is 1. Most end it."""
    rng = np.random.default_rng(seed)
    places, actions, rewards = [], [], []
    for place in range(4):
        action = int(rng.random() < 0.4)
        places.append(place)
        actions.append(action)
        rewards.append(0.2 if action == 0 else float(place == 3))
        if action == 0:
            break
    length = len(places)
    return Episode(
        {"place": np.array(places).reshape(-1, 1)}, np.array(actions), np.array(rewards, np.float32), True, False,
        np.ones(length, np.bool_),
    )  # fmt: skip


def actions_at_every_place(module: SequenceModule) -> list[int]:
    """What the policy does at places 0 to 3, going on."""
    from elmur.policy import StreamingPolicy

    policy = StreamingPolicy(module.model, module.context_length)
    policy.start(1)
    done = []
    for place in range(4):
        done.append(int(policy.act({"place": np.array([[place]])}, np.array([place == 0]))[0]))
        policy.observe(np.array([1]), np.zeros(1, np.float32))
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "updates", "learns"),
    [
        (Cloning(), 40, [0, 0, 0, 0]),
        (CQL(alpha=0.05, discount=0.9, target_rate=0.1, hidden_layers=[32]), 100, [1, 1, 1, 1]),
        (IQL(tau=0.9, beta=10.0, discount=0.9, target_rate=0.1, hidden_layers=[32]), 150, [1, 1, 1, 1]),
    ],
    ids=["cloning", "cql", "iql"],
)
def test_a_chain_that_most_leave_too_early(
    objective: Objective, updates: int, learns: list[int], tmp_path: Path
) -> None:
    """What is worth it comes four steps later, and across windows of two steps; what most did is to leave."""
    shards = shards_of(tmp_path / "shards", CHAIN, [chain(seed) for seed in range(400)])
    module, _ = train(shards, tmp_path / "run", objective, updates, lanes=64, lr=2e-2, length=1)
    assert actions_at_every_place(module) == learns


@torch.no_grad()
def test_critics_of_choices_pick_what_was_taken() -> None:
    torch.manual_seed(0)
    critics = ChoiceCritics(4, Discrete((3,)), [5])
    x, action = torch.randn(2, 3, 4), torch.randint(3, (2, 3))
    found = critics.of(x, action)
    for i, twin in enumerate(critics.twins):
        for b in range(2):
            for t in range(3):
                assert float(found[i, b, t]) == pytest.approx(float(twin(x[b, t])[action[b, t]]), rel=1e-5)
