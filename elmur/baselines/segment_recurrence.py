"""What trxl, gtrxl, rmt and rate share: a segment, the tokens and cached states that go on to the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elmur.baselines.memory_tokens import MemoryTokens
from elmur.baselines.transformer_xl import Stream, TransformerXL
from elmur.baselines.valve import Valve
from elmur.batch import SegmentBatch
from elmur.dropout import Dropout
from elmur.heads import head_for
from elmur.model import added
from elmur.sequence_model import OpenSegment, Output
from elmur.spec import TaskSpec
from elmur.token_model import TokenModel
from elmur.tokens import TokenFormat


@dataclass
class Carried:
    """What goes on to the next segment.

    tokens `[B, n, D]`: memory tokens. cached `[B, n_layer, mem_len, D]`: inputs of every layer, the newest last;
    filled `[B]`: how many of them there are yet. valve: the valve's own state. What a model does without is None.
    """

    tokens: Float[Tensor, "B n D"] | None
    cached: Float[Tensor, "B n_layer C D"] | None
    filled: Int[Tensor, " B"] | None
    valve: Any


@dataclass
class OpenStream:
    """An open segment: the state that it was opened with, the trunk's stream, and what has come out of the trunk."""

    memory: Carried
    trunk: Stream
    out: Float[Tensor, "B T D"]


class SegmentRecurrence(TokenModel):
    """A policy over segments that hands memory tokens, cached states, or both, to the next one.

    mem_len: cached states per layer, in tokens (a step is 1 to 3 of them, by `token_format`), memory tokens counted.
    No gradient passes through the cache. tokens, valve: the parts, built.
    """

    def __init__(
        self,
        spec: TaskSpec,
        trunk: TransformerXL,
        tokens: MemoryTokens | None,
        valve: Valve,
        mem_len: int,
        dropout: float,
        token_format: str | TokenFormat,
    ) -> None:
        if mem_len < 0:
            raise ValueError(f"mem_len must be 0 or more; found {mem_len}")
        super().__init__(spec, trunk.d_model, token_format)
        self.trunk, self.memory_tokens, self.valve, self.mem_len = trunk, tokens, valve, mem_len
        self.dropout = Dropout(dropout)
        self.head = head_for(spec, trunk.d_model)

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Carried:
        """The learned tokens, and an empty cache."""
        tokens = cached = filled = valve = None
        if self.memory_tokens is not None:
            tokens = self.memory_tokens.first.expand(batch_size, -1, -1)
            valve = self.valve.initial(tokens, generator)
        if self.mem_len:
            like = next(self.parameters())
            cached = like.new_zeros(batch_size, len(self.trunk.layers), self.mem_len, self.d_model)
            filled = torch.zeros(batch_size, dtype=torch.int64, device=like.device)
        return Carried(tokens, cached, filled, valve)

    def forward(
        self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Carried]:
        x = self.tokens(batch)
        stream = self.opened(memory, x.shape[1], x)
        prediction, balance = self.appended(stream, x)
        if not write:
            return Output(prediction, balance), memory
        with torch.set_grad_enabled(write_grad and torch.is_grad_enabled()):
            memory, more = self.handed_over(stream)
        return Output(prediction, added(balance, more)), memory

    def opened(self, memory: Any, num_tokens: int, like: Float[Tensor, "B _ D"]) -> OpenStream:
        """A stream for a segment of up to `num_tokens` tokens."""
        self.check_state(memory)
        lanes, width = like.shape[0], self.d_model
        read, cached = like.new_empty(lanes, 0, width), like.new_empty(lanes, len(self.trunk.layers), 0, width)
        absent, wraps = None, False
        if self.memory_tokens is not None and memory.tokens is not None:
            read, wraps = self.dropout(memory.tokens.to(like.dtype)), self.memory_tokens.wraps
            num_tokens += self.memory_tokens.at_end * read.shape[1]
        if memory.cached is not None and memory.filled is not None:
            cached, absent = memory.cached.to(like.dtype), self.mem_len - memory.filled
        return OpenStream(memory, self.trunk.open(read, cached, absent, num_tokens, wraps), like[:, :0])

    def appended(
        self, stream: OpenStream, x: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "B steps A"], Tensor | None]:
        """Predictions of those steps whose state is among the new tokens, and the balance loss."""
        before = stream.out.shape[1]
        out, balance = self.trunk.append(stream.trunk, self.dropout(x))
        stream.out = torch.cat([stream.out, self.dropout(out)], dim=1)
        first_state = (self.format.state_at - before) % self.format.tokens_per_step
        states = stream.out[:, before + first_state :: self.format.tokens_per_step]
        return self.head(states), balance

    def handed_over(self, stream: OpenStream) -> tuple[Carried, Tensor | None]:
        """The state after the segment, all of whose tokens have come in, and the balance loss of writing."""
        memory, balance = stream.memory, None
        tokens, cached, filled, valve = memory.tokens, memory.cached, memory.filled, memory.valve
        if self.memory_tokens is not None and tokens is not None:
            read = tokens.to(stream.out.dtype)
            if self.memory_tokens.at_end:
                written, balance = self.trunk.memory_tokens(stream.trunk, self.dropout(read))
                written = self.dropout(written)
            else:
                written = self.written_in_front(stream)
            new, valve = self.valve(read, written, valve)
            tokens = self.memory_tokens.handed_over(new).to(tokens.dtype)
        if cached is not None and filled is not None:
            rows = stream.trunk.layers[0].inputs.shape[1]
            cached = self.trunk.next_cache(stream.trunk).to(cached.dtype)
            filled = (filled + rows).clamp(max=self.mem_len)
        return Carried(tokens, cached, filled, valve), balance

    def written_in_front(self, stream: OpenStream) -> Float[Tensor, "B n D"]:
        """What the released code takes for written where no tokens stand behind the segment: the read tokens' outputs.

        A valve gets the last n of all outputs instead.
        """
        read = self.dropout(stream.trunk.read)
        if type(self.valve) is Valve:
            return read
        return torch.cat([read, stream.out], dim=1)[:, -read.shape[1] :]

    def open_segment(self, memory: Any, start: Int[Tensor, " B"], context_length: int) -> Any:
        if self.memory_tokens is not None and self.memory_tokens.wraps:
            return super().open_segment(memory, start, context_length)
        num_tokens = context_length * self.format.tokens_per_step
        return self.opened(memory, num_tokens, next(self.parameters()).new_empty(start.shape[0], 0, self.d_model))

    def step(self, stream: Any, now: SegmentBatch, before: SegmentBatch | None) -> Float[Tensor, "B A"]:
        if isinstance(stream, OpenSegment):
            stream.add(now, before)
            return self.without_last_action(stream)[1]
        return self.appended(stream, torch.cat(self.newest(now, before), dim=1))[0][:, -1]

    def close_segment(self, stream: Any, last: SegmentBatch) -> Carried:
        if isinstance(stream, OpenSegment):
            return self.handed_over(self.without_last_action(stream)[0])[0]
        if self.format.after:
            self.appended(stream, torch.cat(self.ordered(last, self.format.after), dim=1))
        return self.handed_over(stream)[0]

    def without_last_action(self, stream: OpenSegment) -> tuple[OpenStream, Float[Tensor, "B A"]]:
        """The window so far as the released code acts on it: up to the state of its last step."""
        x = self.tokens(stream.steps)
        x = x[:, : x.shape[1] - len(self.format.after)]
        opened = self.opened(stream.memory, x.shape[1], x)
        return opened, self.appended(opened, x)[0][:, -1]
