"""Implicit Q-learning: values by expectile regression, and cloning weighted by advantage.

Kostrikov, Nair, Levine 2021, "Offline Reinforcement Learning with Implicit Q-Learning", equations 5 to 7. The paper's
networks for policy, Q and V are separate; here they are heads on the features of one trunk, which all three losses
train: what is worth remembering is learned from imitation and from reward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from elmur.draws import Draws
from elmur.heads import CategoricalHead, ContinuousHead, exact
from elmur.objectives.critics import LOG_STD, ChoiceCritics, VectorCritics, mlp
from elmur.objectives.transitions import FeatureHead, TransitionObjective, Transitions
from elmur.sequence_model import SequenceModel
from elmur.spec import Discrete, TaskSpec, Vector


class CategoricalActor(CategoricalHead):
    """The policy of chosen actions: a softmax of the logits."""

    def surprise(self, x: Tensor, action: Tensor) -> Float[Tensor, "B T"]:
        """-log pi(a|s) of every step."""
        return F.cross_entropy(exact(self(x)).movedim(-1, 1), action, reduction="none")


class GaussianActor(ContinuousHead):
    """The policy of continuous actions: around the mean, a deviation that is learned for each dimension alone."""

    def __init__(self, d_model: int, action: Vector) -> None:
        super().__init__(d_model, action)
        self.log_std = nn.Parameter(torch.zeros(action.size))

    def surprise(self, x: Tensor, action: Tensor) -> Float[Tensor, "B T"]:
        """-log pi(a|s) of every step, in units of the action's reach."""
        log_std = self.log_std.clamp(*LOG_STD)
        apart = (exact(self(x)) - action) / self.reach * torch.exp(-log_std)
        return (0.5 * apart.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    def act(self, prediction: Float[Tensor, "B A"], draws: Draws | None) -> Float[Tensor, "B A"]:
        """The mean; with random numbers, a draw around it, within the bounds."""
        if draws is None:
            return super().act(prediction, None)
        drawn = prediction.float() + draws.normal(prediction.float()) * self.reach * self.log_std.clamp(*LOG_STD).exp()
        return self.middle + self.reach * ((drawn - self.middle) / self.reach).clamp(-1, 1) if self.bounded else drawn


class IQLHead(FeatureHead):
    """An actor as cloning has it, twin critics and a value, on the same features."""

    def __init__(self, spec: TaskSpec, d_model: int, hidden_layers: Sequence[int]) -> None:
        super().__init__(d_model)
        action = spec.action
        self.actor: CategoricalActor | GaussianActor
        self.critics: ChoiceCritics | VectorCritics
        if isinstance(action, Discrete):
            self.actor, self.critics = (
                CategoricalActor(d_model, action),
                ChoiceCritics(d_model, action, hidden_layers),
            )
        else:
            self.actor, self.critics = GaussianActor(d_model, action), VectorCritics(d_model, action, hidden_layers)
        self.value_net = mlp(d_model, hidden_layers, 1)

    def value(self, x: Float[Tensor, "*steps D"]) -> Float[Tensor, "*steps"]:
        """V(s)."""
        return exact(self.value_net(x).squeeze(-1))

    def act(self, prediction: Float[Tensor, "B D"], draws: Draws | None) -> Tensor:
        """What the actor does."""
        return self.actor.act(self.actor(prediction.unsqueeze(1)).squeeze(1), draws)

    def score(self, prediction: Tensor, action: Tensor, mask: Tensor) -> Tensor:
        """The actor's score as of cloning."""
        return self.actor.score(self.actor(prediction), action, mask)


def expectile_loss(apart: Tensor, tau: float) -> Tensor:
    """|tau - 1[u < 0]| u^2, elementwise (equation 5): at tau -> 1 the largest value of `apart` is what remains."""
    return (tau - (apart < 0).to(apart.dtype)).abs() * apart.square()


def advantage_weight(apart: Tensor, beta: float, limit: float) -> Tensor:
    """exp(beta * (Q - V)), at most `limit`, without gradient (equation 7)."""
    return (beta * apart.detach()).exp().clamp(max=limit)


class IQL(TransitionObjective):
    """Implicit Q-learning. tau: the expectile; beta: inverse temperature of the policy; limit: largest weight.

    L_V = |tau - 1[u < 0]| u^2,  u = min(Q1', Q2')(s, a) - V(s)            (5), with the target's critics
    L_Q = sum_i (r + discount * V(s') - Qi(s, a))^2                        (6)
    L_pi = -min(exp(beta * u), limit) * log pi(a|s)                        (7)

    Values of actions that nobody took are never asked for. All steps count, the disturbed ones too.
    """

    def __init__(
        self,
        tau: float = 0.7,
        beta: float = 3.0,
        limit: float = 100.0,
        discount: float = 0.99,
        target_rate: float = 0.005,
        hidden_layers: Sequence[int] = (128,),
    ) -> None:
        super().__init__(discount, target_rate, hidden_layers, "elmur.objectives.iql.IQLHead")
        if not 0 < tau < 1:
            raise ValueError(f"tau must be between 0 and 1; found {tau}")
        if beta < 0 or limit <= 0:
            raise ValueError(f"beta must be 0 or more and limit above 0; found {beta} and {limit}")
        self.tau, self.beta, self.limit = tau, beta, limit

    def losses(self, model: SequenceModel, steps: Transitions) -> dict[str, Tensor]:
        head, target = model.head, self.target.head
        assert isinstance(head, IQLHead) and isinstance(target, IQLHead)
        with torch.no_grad():
            best = target.critics.of(steps.target_x, steps.action).amin(dim=0)
            backup = steps.backup(head.value(steps.next_x), self.discount)
        apart = best - head.value(steps.x)
        error = (head.critics.of(steps.x, steps.action) - backup).square().sum(dim=0)
        weight = advantage_weight(apart, self.beta, self.limit)
        return {
            "value_loss": steps.total(expectile_loss(apart, self.tau), steps.mask),
            "critic_loss": steps.total(error, steps.known),
            "actor_loss": steps.total(weight * head.actor.surprise(steps.x, steps.action), steps.mask),
        }
