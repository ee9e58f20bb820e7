"""A gated recurrent network: its memory is the hidden state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elmur.batch import SegmentBatch
from elmur.encoders import ObservationEncoder
from elmur.heads import head_for
from elmur.sequence_model import Output, SequenceModel
from elmur.spec import TaskSpec


@dataclass
class Stream:
    """An open segment: the hidden state so far."""

    memory: Tensor


class GRU(SequenceModel):
    """Observation encoder, `n_layer` GRU layers, head. The state is the hidden state `[B, n_layer, D]`."""

    def __init__(
        self,
        spec: TaskSpec,
        d_model: int = 128,
        n_layer: int = 1,
        dropout: float = 0.0,
        observation: Callable[..., ObservationEncoder] | None = None,
    ) -> None:
        super().__init__()
        if min(d_model, n_layer) < 1:
            raise ValueError(f"d_model and n_layer must be 1 or more; found {d_model} and {n_layer}")
        self.spec = spec
        self.observation = (observation or ObservationEncoder)(spec.observation, d_model)
        self.gru = nn.GRU(d_model, d_model, n_layer, batch_first=True, dropout=dropout if n_layer > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = head_for(spec, d_model)

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Float[Tensor, "B n_layer D"]:
        """Zeros."""
        return next(self.parameters()).new_zeros(batch_size, self.gru.num_layers, self.gru.hidden_size)

    def forward(
        self, batch: SegmentBatch, memory: Tensor, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Tensor]:
        x = self.dropout(self.observation(batch.observation))
        with torch.autocast(x.device.type, enabled=False):  # a state in half precision forgets
            x, hidden = self.gru(x.to(memory.dtype), memory.transpose(0, 1).contiguous())
        return Output(self.head(self.dropout(x))), hidden.transpose(0, 1)

    def open_segment(self, memory: Tensor, start: Int[Tensor, " B"], context_length: int) -> Stream:
        return Stream(memory)

    def step(self, stream: Stream, now: SegmentBatch, before: SegmentBatch | None) -> Float[Tensor, "B A"]:
        output, stream.memory = self(now, stream.memory)
        prediction: Tensor = output.prediction[:, 0]
        return prediction

    def close_segment(self, stream: Stream, last: SegmentBatch) -> Tensor:
        return stream.memory
