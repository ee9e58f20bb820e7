"""Fast and forgetful memory: a sum of what was seen, fading and turning at rates of its own."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from elmur.baselines.scan import scan
from elmur.baselines.stack import Mixer, Stack
from elmur.spec import TaskSpec
from elmur.tokens import TokenFormat

FORGOTTEN = 0.01  # what is left of an input when it counts as forgotten
SHORTEST = 7  # steps after which the fastest traces have forgotten, as in the published code


class FadingTrace(Mixer):
    """The cell of Morad et al. 2023 (arXiv 2310.04128, equations 4 to 9), m traces in c contexts:

        S_t = exp(-|a| + i w) * S_{t-1} + (W_1 x * sigmoid(W_2 x)) 1^T     a: [m], w: [c]
        z = W_3 [Re S, Im S];  out = norm(z) * sigmoid(W_4 x) + W_5 x * (1 - sigmoid(W_4 x))

    The state holds real and imaginary parts, `[B, m, c, 2]`. Decays begin evenly spread so that a hundredth is left
    after 7 to `max_period` steps, periods evenly from 1 to `max_period`. The published code sums inputs divided by
    their decay, in float64 and with the decay limited; the scan here needs neither.
    """

    def __init__(self, d_model: int, memory_size: int = 32, context_size: int = 4, max_period: int = 1024) -> None:
        super().__init__()
        self.sizes = (memory_size, d_model, memory_size, d_model)
        self.into = nn.Linear(d_model, sum(self.sizes))
        slowest, fastest = (-math.log(FORGOTTEN) / steps for steps in (max_period, SHORTEST))
        self.rate = nn.Parameter(torch.linspace(fastest, slowest, memory_size))
        self.angle = nn.Parameter(2 * math.pi / torch.linspace(1, max_period, context_size))
        self.out = nn.Linear(2 * memory_size * context_size, d_model)

    def initial(self, like: Tensor, batch_size: int) -> Float[Tensor, "B m c 2"]:
        return like.new_zeros(batch_size, len(self.rate), len(self.angle), 2)

    def forward(
        self, x: Float[Tensor, "B T D"], state: Float[Tensor, "B m c 2"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B m c 2"]]:
        value, through, gate_in, gate_out = self.into(x).split(self.sizes, dim=-1)
        seen = (value * torch.sigmoid(gate_in)).to(state.dtype)
        gate = torch.sigmoid(gate_out)
        traces = torch.view_as_real(self.traces(seen, torch.view_as_complex(state)))
        z = F.layer_norm(self.out(traces.flatten(2)), (x.shape[-1],))
        return z * gate + through * (1 - gate), traces[:, -1]

    def traces(self, seen: Float[Tensor, "B T m"], state: Tensor) -> Tensor:
        """The trace after every step, complex `[B, T, m, c]`."""
        length = torch.exp(-self.rate.abs()).to(seen.dtype)
        decay = torch.polar(length.unsqueeze(1).expand(-1, len(self.angle)), self.angle.expand(len(length), -1))
        shape = (*seen.shape, len(self.angle))
        update = torch.complex(seen, torch.zeros_like(seen)).unsqueeze(-1).expand(shape)
        return scan(decay.expand(shape), update, state)


class FFM(Stack):
    """Tokens, one layer of fast and forgetful memory, head; the state is its traces `[B, m, c, 2]`.

    memory_size: traces (m). context_size: periods that each of them turns with (c). max_period: the longest of these,
    and the steps after which the slowest trace has forgotten, at the beginning of training.
    """

    def __init__(
        self,
        spec: TaskSpec,
        d_model: int = 128,
        memory_size: int = 32,
        context_size: int = 8,
        max_period: int = 1024,
        dropout: float = 0.0,
        token_format: str | TokenFormat = "s",
    ) -> None:
        if min(d_model, memory_size, context_size, max_period) < 1:
            raise ValueError(
                "d_model, memory_size, context_size and max_period must be 1 or more; "
                f"found {d_model}, {memory_size}, {context_size} and {max_period}"
            )
        layer = FadingTrace(d_model, memory_size, context_size, max_period)
        super().__init__(spec, d_model, [layer], nn.Identity(), dropout, token_format)
