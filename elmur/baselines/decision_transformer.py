"""Decision transformer: the last steps as returns, states and actions, with the return that is wanted in front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elmur.baselines import transformer_xl
from elmur.baselines.transformer_xl import TransformerXL
from elmur.batch import SegmentBatch
from elmur.dropout import Dropout
from elmur.heads import head_for
from elmur.sequence_model import Output
from elmur.spec import TaskSpec
from elmur.token_model import TokenModel
from elmur.tokens import TokenFormat


@dataclass
class Window:
    """The steps before a segment that its first step still sees.

    tokens `[B, (window - 1) * tokens per step, D]`, the newest last. filled `[B]`: how many of them there are.
    """

    tokens: Float[Tensor, "B T D"]
    filled: Int[Tensor, " B"]


@dataclass
class OpenWindow:
    """An open segment.

    memory: the state that it was opened with. tokens: those of the state, then its own so far, of which `filled [B]`
    are real. trunk: the trunk's stream where nothing leaves the window before the segment's end, else None.
    """

    memory: Window
    tokens: Float[Tensor, "B T D"]
    filled: Int[Tensor, " B"]
    trunk: transformer_xl.Stream | None


class DecisionTransformer(TokenModel):
    """Decision Transformer (Chen et al., 2021): a causal transformer over the last `window` steps of each step.

    The window slides: what a step predicts is computed from its own `window` steps alone, in training as while acting,
    so a segment behind others costs one window per step, a segment that begins an episode one pass. A segment may not
    be longer than the window. Positions are relative distances, as in the released code of RATE; the paper's embedding
    of the time step is left out, since it ends where training ended. The return asked for while acting is
    `evaluation.target_return`. sizes: as for `TransformerXL`. All parameters are trained.
    """

    has_segments = False

    def __init__(
        self,
        spec: TaskSpec,
        window: int = 30,
        dropout: float = 0.1,
        token_format: str | TokenFormat = "sra",
        **sizes: Any,
    ) -> None:
        if window < 1:
            raise ValueError(f"window must be 1 step or more; found {window}")
        trunk = TransformerXL(dropout=dropout, **sizes)
        super().__init__(spec, trunk.d_model, token_format)
        self.trunk, self.window, self.dropout = trunk, window, Dropout(dropout)
        self.head = head_for(spec, trunk.d_model)

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Window:
        """No steps yet."""
        room = (self.window - 1) * self.format.tokens_per_step
        like = next(self.parameters())
        filled = torch.zeros(batch_size, dtype=torch.int64, device=like.device)
        return Window(like.new_zeros(batch_size, room, self.d_model), filled)

    def forward(
        self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Window]:
        self.check(memory, batch.num_steps)
        x, per_step = self.tokens(batch), self.format.tokens_per_step
        together = torch.cat([memory.tokens.to(x.dtype), x], dim=1)
        if not torch.compiler.is_exporting() and bool((memory.filled == 0).all()):  # in one pass
            stream = self.empty(x, x.shape[1])
            out, balance = self.trunk.append(stream, self.dropout(x))
            states = self.format.predicting(out)
        else:
            # Every step's own window: one row more per step.
            windows = together.unfold(1, self.window * per_step, per_step).transpose(2, 3).flatten(0, 1)
            moved = torch.arange(batch.num_steps, device=x.device) * per_step
            absent = (memory.tokens.shape[1] - memory.filled.unsqueeze(1) - moved).clamp(min=0)
            stream = self.empty(windows, windows.shape[1], absent.flatten())
            out, balance = self.trunk.append(stream, self.dropout(windows))
            states = torch.unflatten(self.format.predicting(out)[:, -1], 0, (x.shape[0], batch.num_steps))
        output = Output(self.head(self.dropout(states)), balance)
        return output, self.moved_on(together.to(memory.tokens), memory.filled + x.shape[1]) if write else memory

    def moved_on(self, tokens: Float[Tensor, "B T D"], filled: Int[Tensor, " B"]) -> Window:
        """The state after a segment, from all tokens up to its end."""
        room = (self.window - 1) * self.format.tokens_per_step
        return Window(tokens[:, tokens.shape[1] - room :], filled.clamp(max=room))

    def empty(self, like: Tensor, num_tokens: int, absent: Int[Tensor, " B"] | None = None) -> transformer_xl.Stream:
        """A stream of the trunk for `num_tokens` tokens, of which the first `absent` stand for nothing."""
        read = like.new_empty(like.shape[0], 0, self.d_model)
        return self.trunk.open(read, read.unsqueeze(1).expand(-1, len(self.trunk.layers), -1, -1), absent, num_tokens)

    def open_segment(self, memory: Any, start: Int[Tensor, " B"], context_length: int) -> OpenWindow:
        self.check(memory, context_length)
        per_step, fresh = self.format.tokens_per_step, bool((memory.filled == 0).all())
        trunk = self.empty(memory.tokens, context_length * per_step) if fresh else None
        return OpenWindow(memory, memory.tokens, memory.filled, trunk)

    def step(self, stream: OpenWindow, now: SegmentBatch, before: SegmentBatch | None) -> Float[Tensor, "B A"]:
        new = torch.cat(self.newest(now, before), dim=1)
        self.add(stream, new)
        if stream.trunk is not None:
            out = self.trunk.append(stream.trunk, new)[0]
        else:
            size = self.window * self.format.tokens_per_step - len(self.format.after)
            seen = stream.tokens[:, -size:].to(new)
            absent = (seen.shape[1] - stream.filled).clamp(min=0)
            out = self.trunk.append(self.empty(seen, seen.shape[1], absent), seen)[0]
        prediction: Tensor = self.head(out[:, -1:])
        return prediction[:, 0]

    def add(self, stream: OpenWindow, new: Float[Tensor, "B T D"]) -> None:
        """More tokens, behind those that a later step can still see."""
        most = self.window * self.format.tokens_per_step
        stream.tokens = torch.cat([stream.tokens, new.to(stream.tokens)], dim=1)[:, -most:]
        stream.filled = stream.filled + new.shape[1]

    def close_segment(self, stream: OpenWindow, last: SegmentBatch) -> Window:
        if self.format.after:
            self.add(stream, torch.cat(self.ordered(last, self.format.after), dim=1))
        return self.moved_on(stream.tokens, stream.filled)

    def check(self, memory: Any, num_steps: int) -> None:
        """Raises ValueError for a segment longer than the window, and for a state that is not one of this model."""
        if num_steps > self.window:
            raise ValueError(
                f"a segment of {num_steps} steps is longer than the decision transformer's window of {self.window}: "
                "raise model.window or lower module.context_length"
            )
        self.check_state(memory)
