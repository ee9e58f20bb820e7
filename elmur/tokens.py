"""Token formats: how the steps of a segment become the sequence that attention sees.

| format | tokens of one step          | read-out |
|--------|-----------------------------|----------|
| s      | state                       | state    |
| sa     | state, action               | state    |
| sr     | state, return-to-go         | state    |
| sra    | return-to-go, state, action | state    |

The action of a step is predicted from its state token; what stands behind that token is seen by later steps only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from elmur.encoders import ActionEncoder, ObservationEncoder

ORDERS = {"s": "s", "sa": "sa", "sr": "sr", "sra": "rsa"}


class TokenFormat:
    """The order of the tokens of one step, and what makes a token of an observation and of an action.

    name: one of s, sa, sr, sra. observation: builds the encoder from (fields, d_model); None is the plain sum of parts.
    action: builds the encoder from (spec, d_model).
    """

    def __init__(
        self,
        name: str,
        observation: Callable[..., ObservationEncoder] | None = None,
        action: Callable[..., ActionEncoder] = ActionEncoder,
    ) -> None:
        if not isinstance(name, str) or name not in ORDERS:
            raise ValueError(f"token_format must be one of {', '.join(ORDERS)}; found {name!r}")
        self.order = ORDERS[name]
        self.encoder, self.action_encoder = observation or ObservationEncoder, action
        self.tokens_per_step = len(self.order)
        self.state_at = self.order.index("s")

    @property
    def with_action(self) -> bool:
        return "a" in self.order

    @property
    def with_return(self) -> bool:
        return "r" in self.order

    def sequence(self, parts: dict[str, Tensor]) -> Float[Tensor, "B T D"]:
        """Tokens of whole steps in order, from `parts[letter]` of shape `[B, steps, D]`."""
        return torch.stack([parts[letter] for letter in self.order], dim=2).flatten(1, 2)

    def predicting(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B steps D"]:
        """The tokens from which actions are predicted."""
        return tokens[:, self.state_at :: self.tokens_per_step]

    @property
    def before(self) -> str:
        """The letters of a step up to its state, all known when its action is chosen."""
        return self.order[: self.state_at + 1]

    @property
    def after(self) -> str:
        """The letters of a step behind its state; streaming adds them once the action is known."""
        return self.order[self.state_at + 1 :]
