"""Conservative Q-learning, CQL(H): Bellman errors, and values pushed down where the data do not go.

Kumar, Zhou, Tucker, Levine 2020, "Conservative Q-Learning for Offline Reinforcement Learning", equation 4:
alpha * (log sum_a exp Q(s, a) - Q(s, a of the data)) + 1/2 (Q - B Q')^2. For chosen actions B is the optimality
operator and the policy the best action; for continuous ones B follows a squashed gaussian actor, trained as in soft
actor-critic, and the sum over actions is an integral that sampled actions estimate (appendix F).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from elmur.draws import Draws
from elmur.heads import exact, middle_and_reach
from elmur.objectives.critics import LOG_STD, ChoiceCritics, VectorCritics, chosen
from elmur.objectives.transitions import FeatureHead, TransitionObjective, Transitions
from elmur.sequence_model import SequenceModel
from elmur.spec import Discrete, TaskSpec, Vector

NUM_ACTIONS = 10  # that are drawn from the policy, and as many uniformly, for one integral


class ChoiceHead(FeatureHead):
    """Twin critics of chosen actions; the policy takes the action whose smaller value is the largest."""

    def __init__(self, spec: TaskSpec, d_model: int, hidden_layers: Sequence[int]) -> None:
        super().__init__(d_model)
        assert isinstance(spec.action, Discrete)
        self.critics = ChoiceCritics(d_model, spec.action, hidden_layers)

    def act(self, prediction: Float[Tensor, "B D"], draws: Draws | None) -> Int[Tensor, " B"]:
        """The best action; with random numbers, one drawn from the softmax of the smaller values."""
        values: Tensor = self.critics(prediction).amin(dim=0)
        return values.argmax(dim=-1) if draws is None else draws.choice(values)

    def score(self, prediction: Tensor, action: Tensor, mask: Tensor) -> Int[Tensor, ""]:
        """How many of the masked steps' actions are the policy's."""
        best: Tensor = self.critics(prediction).amin(dim=0).argmax(dim=-1)
        return ((best == action) & mask).sum()

    def next_value(self, target: ChoiceHead, steps: Transitions) -> Float[Tensor, "B T"]:
        """max_a min_i Qi'(s', a)."""
        return target.critics(steps.target_next_x).amin(dim=0).amax(dim=-1)

    def losses(self, steps: Transitions, backup: Tensor, alpha: float) -> dict[str, Tensor]:
        values = self.critics(steps.x)
        taken = chosen(values, steps.action)
        gap = values.logsumexp(dim=-1) - taken
        return {
            "critic_loss": steps.total(0.5 * (taken - backup).square().sum(dim=0), steps.known),
            "conservative_loss": alpha * steps.total(gap.sum(dim=0), steps.mask),
        }


class SquashedGaussian(nn.Module):
    """The actor: middle + reach * tanh(u), u normal with mean and deviation linear in the features."""

    def __init__(self, d_model: int, action: Vector) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, 2 * action.size)
        self.middle, self.reach = middle_and_reach(action)

    def parameters_of(self, x: Float[Tensor, "*steps D"]) -> tuple[Tensor, Tensor]:
        """Mean and log deviation of u."""
        mean, log_std = exact(self.linear(x)).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD)

    def likeliest(self, x: Float[Tensor, "*steps D"]) -> Float[Tensor, "*steps A"]:
        """The action at the mean of u."""
        return self.middle + self.reach * torch.tanh(self.parameters_of(x)[0])

    def draw(
        self, x: Float[Tensor, "*steps D"], draws: Draws | None = None
    ) -> tuple[Float[Tensor, "*steps A"], Float[Tensor, "*steps"]]:
        """An action and its log density, both with gradient; without `draws` by the global generator."""
        mean, log_std = self.parameters_of(x)
        noise = torch.randn_like(mean) if draws is None else draws.normal(mean)
        u = mean + log_std.exp() * noise
        # log(1 - tanh(u)^2) without cancellation
        squash = 2 * (math.log(2) - u - F.softplus(-2 * u))
        density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi) - squash - self.reach.log()
        return self.middle + self.reach * torch.tanh(u), density.sum(dim=-1)


class ActorCriticHead(FeatureHead):
    """Twin critics and an actor of continuous actions, with a temperature that holds its entropy up.

    The actor's loss trains the actor alone; the trunk learns from the critics.
    """

    def __init__(self, spec: TaskSpec, d_model: int, hidden_layers: Sequence[int]) -> None:
        super().__init__(d_model)
        action = spec.action
        assert isinstance(action, Vector)
        if action.low is None or action.high is None:
            raise ValueError(
                f"CQL draws uniform actions, so that they must be bounded; task {spec.name!r} gives no bounds: "
                "use module=iql or module=imitation"
            )
        self.actor, self.critics = SquashedGaussian(d_model, action), VectorCritics(d_model, action, hidden_layers)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        reach = [(high - low) / 2 for low, high in zip(action.low, action.high, strict=True)]
        self.entropy = sum(math.log(half) - 1 for half in reach)  # -A, of actions that are brought to -1 .. 1

    def act(self, prediction: Float[Tensor, "B D"], draws: Draws | None) -> Float[Tensor, "B A"]:
        """The likeliest action; with random numbers, one drawn."""
        if draws is None:
            return self.actor.likeliest(prediction).float()
        return self.actor.draw(prediction, draws)[0].float()

    def score(self, prediction: Tensor, action: Tensor, mask: Tensor) -> Float[Tensor, ""]:
        """Minus the absolute error of the likeliest action, mean over dimensions, summed over the masked steps."""
        return -((self.actor.likeliest(prediction) - action).abs().mean(dim=-1) * mask).sum()

    def next_value(self, target: ActorCriticHead, steps: Transitions) -> Float[Tensor, "B T"]:
        """min_i Qi'(s', a') of an action that the actor draws."""
        action, _ = self.actor.draw(steps.next_x)
        return target.critics(steps.target_next_x, action).amin(dim=0)

    def losses(self, steps: Transitions, backup: Tensor, alpha: float) -> dict[str, Tensor]:
        taken = self.critics(steps.x, steps.action)
        gap = self.log_integral(steps.x) - taken
        still = steps.x.detach()
        action, density = self.actor.draw(still)
        frozen = {name: parameter.detach() for name, parameter in self.critics.named_parameters()}
        value = functional_call(self.critics, frozen, (still, action)).amin(dim=0)
        temperature = self.log_temperature.exp()
        missing = (density.detach() + self.entropy).mul(-self.log_temperature)
        return {
            "critic_loss": steps.total(0.5 * (taken - backup).square().sum(dim=0), steps.known),
            "conservative_loss": alpha * steps.total(gap.sum(dim=0), steps.mask),
            "actor_loss": steps.total(temperature.detach() * density - value, steps.mask),
            "temperature_loss": steps.total(missing, steps.mask),
        }

    def log_integral(self, x: Float[Tensor, "*steps D"]) -> Float[Tensor, "twins ..."]:
        """The logarithm of the integral of exp Q over all actions, by importance sampling."""
        repeated = x.unsqueeze(0).expand(NUM_ACTIONS, *x.shape)
        with torch.no_grad():
            drawn, density = self.actor.draw(repeated)
            place = 2 * torch.rand_like(drawn) - 1
            uniform = self.actor.middle + self.actor.reach * place
            even = -(2 * self.actor.reach).log().sum().to(density.dtype).expand(density.shape)
        values = self.critics(torch.cat([repeated, repeated]), torch.cat([drawn, uniform]))
        weighed: Tensor = values - torch.cat([density, even])
        return weighed.logsumexp(dim=1) - math.log(2 * NUM_ACTIONS)


def cql_head(spec: TaskSpec, d_model: int, hidden_layers: Sequence[int]) -> ChoiceHead | ActorCriticHead:
    """The head that fits the task's action."""
    kind = ChoiceHead if isinstance(spec.action, Discrete) else ActorCriticHead
    return kind(spec, d_model, hidden_layers)


class CQL(TransitionObjective):
    """CQL(H) with twin critics: sum_i alpha (log sum_a exp Qi(s, a) - Qi(s, a of the data)) + 1/2 (Qi - y)^2.

    y = r + discount * V'(s'), the target's value of the policy's action; all steps count, the disturbed ones too.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        discount: float = 0.99,
        target_rate: float = 0.005,
        hidden_layers: Sequence[int] = (128,),
    ) -> None:
        super().__init__(discount, target_rate, hidden_layers, "elmur.objectives.cql.cql_head")
        if alpha < 0:
            raise ValueError(f"alpha must be 0 or more; found {alpha}")
        self.alpha = alpha

    def losses(self, model: SequenceModel, steps: Transitions) -> dict[str, Tensor]:
        head, target = model.head, self.target.head
        with torch.no_grad():
            backup = steps.backup(head.next_value(target, steps), self.discount)  # type: ignore[operator]
        return head.losses(steps, backup, self.alpha)  # type: ignore[operator]
