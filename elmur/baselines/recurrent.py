"""Models whose step is their forward on one step, and torch's own two of them: their memory is the hidden state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elmur.batch import SegmentBatch
from elmur.dropout import Dropout
from elmur.encoders import ObservationEncoder
from elmur.heads import head_for
from elmur.sequence_model import Output
from elmur.spec import TaskSpec
from elmur.state import map_state
from elmur.token_model import TokenModel
from elmur.tokens import TokenFormat


@dataclass
class Stream:
    """An open segment: the state so far."""

    memory: Any


class RecurrentModel(TokenModel):
    """Tokens, a recurrence over them, head; a step costs the same however long the episode is.

    What a model adds is the recurrence, the state at the beginning, and its head once its layers are made. The
    recurrence maps tokens `[B, T, D]` and a state to as many outputs, of any width H, and the state after them, for
    any T: one step is a segment of one step. Whatever precision it computes in, its state keeps at least float32.
    """

    has_segments = False

    def __init__(
        self, spec: TaskSpec, d_model: int, dropout: float = 0.0, token_format: str | TokenFormat = "s"
    ) -> None:
        super().__init__(spec, d_model, token_format)
        self.dropout = Dropout(dropout)

    @abstractmethod
    def recur(self, x: Float[Tensor, "B T D"], memory: Any) -> tuple[Float[Tensor, "B T H"], Any]:
        """An output for every token, and the state after the last."""

    def forward(
        self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Any]:
        self.check_state(memory)
        x, memory = self.recur(self.dropout(self.tokens(batch)), memory)
        return Output(self.head(self.dropout(self.format.predicting(x)))), memory

    def open_segment(self, memory: Any, start: Int[Tensor, " B"], context_length: int) -> Stream:
        self.check_state(memory)
        return Stream(memory)

    def step(self, stream: Stream, now: SegmentBatch, before: SegmentBatch | None) -> Float[Tensor, "B A"]:
        x, stream.memory = self.recur(self.dropout(torch.cat(self.newest(now, before), dim=1)), stream.memory)
        return self.head(self.dropout(x[:, -1:]))[:, 0]

    def close_segment(self, stream: Stream, last: SegmentBatch) -> Any:
        if not self.format.after:
            return stream.memory
        return self.recur(self.dropout(torch.cat(self.ordered(last, self.format.after), dim=1)), stream.memory)[1]


class TorchRecurrence(RecurrentModel):
    """`n_layer` layers of a recurrent network of torch's, of width H, all of it in the precision of its state.

    d_model: width of the tokens, D. hidden: H, None for D. dropout: of tokens, between layers and of outputs.
    observation: builds the encoder from (fields, d_model), beside what `token_format` says.
    """

    kind: type[nn.GRU] | type[nn.LSTM]

    def __init__(
        self,
        spec: TaskSpec,
        d_model: int = 128,
        n_layer: int = 1,
        dropout: float = 0.0,
        observation: Callable[..., ObservationEncoder] | None = None,
        token_format: str | TokenFormat = "s",
        hidden: int | None = None,
    ) -> None:
        width = d_model if hidden is None else hidden
        if min(d_model, n_layer, width) < 1:
            raise ValueError(f"d_model, n_layer and hidden must be 1 or more; found {d_model}, {n_layer} and {width}")
        named = TokenFormat(token_format, observation) if isinstance(token_format, str) else token_format
        super().__init__(spec, d_model, dropout, named)
        net = self.kind(d_model, width, n_layer, batch_first=True, dropout=dropout if n_layer > 1 else 0.0)
        self.add_module(self.kind.__name__.lower(), net)
        self.head = head_for(spec, width)

    @property
    def net(self) -> nn.GRU | nn.LSTM:
        net = self.get_submodule(self.kind.__name__.lower())
        assert isinstance(net, nn.GRU | nn.LSTM)
        return net

    def zeros(self, batch_size: int) -> Float[Tensor, "B n_layer H"]:
        """A hidden state at the beginning."""
        return next(self.parameters()).new_zeros(batch_size, self.net.num_layers, self.net.hidden_size)

    def recur(self, x: Float[Tensor, "B T D"], memory: Any) -> tuple[Float[Tensor, "B T H"], Any]:
        hidden = map_state(lambda h: h.transpose(0, 1).contiguous(), memory)
        with torch.autocast(x.device.type, enabled=False):  # a state in half precision forgets
            x, hidden = self.net(x.to(next(self.net.parameters()).dtype), hidden)
        return x, map_state(lambda h: h.transpose(0, 1), hidden)


class GRU(TorchRecurrence):
    """Tokens, `n_layer` GRU layers, head. The state is the hidden state `[B, n_layer, H]`.

    Cho et al. 2014 (arXiv 1406.1078), as torch has it: the reset gate acts on the product with the state. With
    token_format=sra, d_model=64, hidden=128 it is the DGRU of the published baselines, whose random initial state is
    zeros here, and which drops tokens alone, not outputs.
    """

    kind = nn.GRU

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Float[Tensor, "B n_layer H"]:
        """Zeros."""
        return self.zeros(batch_size)


class LSTM(TorchRecurrence):
    """Tokens, `n_layer` LSTM layers, head. The state is (hidden, cell), each `[B, n_layer, H]`.

    Hochreiter and Schmidhuber 1997, with the forget gate of torch. With d_model=64, hidden=128 and token_format=s it is
    the BC-LSTM of the published baselines, with sra their DLSTM. Their random initial state is zeros here, and when
    acting, actions enter as they do in training, which the published code leaves out. The published BC-LSTM of one
    layer has no dropout, the DLSTM that of tokens alone.
    """

    kind = nn.LSTM

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Zeros, hidden and cell."""
        return self.zeros(batch_size), self.zeros(batch_size)
