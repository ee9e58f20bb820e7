"""One ELMUR layer: tokens attend to each other, read the slots, pass a feed-forward; then the slots write from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from elmur.attention import CrossAttention, KeyValue, KeyValueCache, SelfAttention
from elmur.dropout import Dropout
from elmur.memory import Memory, WriteRule, every_slot, rows
from elmur.memory_bias import MemoryBias, no_bias
from elmur.positional import Position
from elmur.residual import Residual


@dataclass
class Segment:
    """What all layers need to know of one segment.

    steps `[B, T]`: the step of each token; write_step `[B]`: the date of a write at its end; codes: what the
    positional scheme shares between layers.
    """

    steps: Int[Tensor, "B T"]
    write_step: Int[Tensor, " B"]
    codes: Tensor | None


@dataclass
class View:
    """What a segment's tokens see of a bank: the slots' keys and values, what is added to scores, -inf where hidden.

    sees_any: the lanes in which not all slots are hidden; None where none ever is.
    """

    slots: KeyValue
    bias: Float[Tensor, "B H T M"] | None
    sees_any: Bool[Tensor, " B"] | None


@dataclass
class LayerStream:
    """One layer's open segment: cached keys and values, what is seen of the bank, and the tokens that came out."""

    cache: KeyValueCache
    projected: Tensor | None
    view: View | None
    tokens: Float[Tensor, "B T D"]


@dataclass(frozen=True)
class Read:
    """How tokens read.

    sees: which slots, a mask `[B, M]` or None for all of them. joint: in their own attention, by its queries, keys and
    values and in its softmax, in the place of a cross-attention to the slots.
    """

    sees: Callable[[Memory], Bool[Tensor, "B M"] | None] = every_slot
    joint: bool = False


class Mean(nn.Module):
    """Writes tokens as they are: for each slot the mean of those that it sees, of all of them where `sees` is None."""

    def forward(self, x: Float[Tensor, "B T D"], sees: Bool[Tensor, "W T"] | None) -> Float[Tensor, "B W D"]:
        return self.shares(x, sees) @ x

    def shares(self, x: Float[Tensor, "B T D"], sees: Bool[Tensor, "W T"] | None) -> Float[Tensor, "W T"]:
        """What each slot takes of each token."""
        seen = x.new_ones(1, x.shape[1]) if sees is None else sees.to(x.dtype)
        return seen / seen.sum(dim=1, keepdim=True)


class ELMURLayer(nn.Module):
    """attend -> read -> transform -> write (paper, figure 2 and §3.2).

    bias: distance bias shared by reading and writing, None for the ablation without. write_rule: which slots are
    written and how; None for the ablation that never writes. read: None for the ablation that never reads.
    """

    def __init__(
        self,
        attention: SelfAttention,
        cross: Callable[[], CrossAttention],
        feedforward: Callable[[], nn.Module],
        residual: Callable[[], Residual],
        bias: MemoryBias | None,
        write_rule: WriteRule | None,
        read: Read | None = Read(),
        memory_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention, self.attention_residual = attention, residual()
        self.read_rule, self.joint = read, read is not None and read.joint
        self.reader: CrossAttention | None = cross() if read and not read.joint else None
        self.read_residual: Residual | None = residual() if read and not read.joint else None
        self.feedforward, self.feedforward_residual = feedforward(), residual()
        self.write_rule, self.copies = write_rule, write_rule is not None and write_rule.copies
        if write_rule is not None:
            self.writer: CrossAttention | Mean = Mean() if self.copies else cross()
            self.memory_dropout = Dropout(memory_dropout)
        if write_rule is not None and not self.copies:
            self.write_residual = residual()
            self.memory_feedforward, self.memory_residual = feedforward(), residual()
        self.bias = bias if read or write_rule is not None else None

    def forward(
        self, x: Float[Tensor, "B T D"], memory: Memory | None, segment: Segment, position: Position
    ) -> tuple[Float[Tensor, "B T D"], Tensor | None]:
        """Tokens after attend, read and transform, and the balance loss; `write` is called apart, where needed."""
        view = self.view(memory, segment.steps)
        x = self.attend(x, position, position.project(segment.codes, self.attention.position_part), view)
        if view is not None and not self.joint:
            x = self.read(x, view)
        return self.transform(x)

    def view(self, memory: Memory | None, steps: Int[Tensor, "B T"]) -> View | None:
        """What tokens of these steps see of the bank; None where they read nothing."""
        if self.read_rule is None or memory is None:
            return None
        slots, bias = self.project(memory.slots), self.distance_bias(steps, memory.written_at)
        seen = self.read_rule.sees(memory)
        if seen is None:
            return View(slots, bias, None)
        sees_any = seen.any(dim=1)
        # Where nothing is seen nothing is hidden, since a row of -inf has no softmax; joint, a token sees itself.
        hidden = ~seen if self.joint else ~seen & sees_any.unsqueeze(1)
        if bias is None:
            bias = slots[0].new_zeros(1, 1, steps.shape[1], 1)
        return View(slots, bias.masked_fill(hidden[:, None, None], -torch.inf), sees_any)

    def project(self, slots: Float[Tensor, "B M D"]) -> KeyValue:
        """Keys and values of the slots, for whoever reads them."""
        if self.reader is not None:
            return self.reader.project(slots)
        return self.attention.project(self.attention_residual.cached(slots))

    def attend(
        self,
        x: Float[Tensor, "B Q D"],
        position: Position,
        projected: Tensor | None,
        view: View | None,
        first: int = 0,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """1. Tokens attend to each other, causally; where reading is joint, to the slots as well."""
        beside = (view.slots, part_of(view.bias, first, x.shape[1])) if view is not None and self.joint else None
        return self.attention_residual(x, lambda y: self.attention(y, position, projected, first, cache, beside))

    def read(self, x: Float[Tensor, "B Q D"], view: View, first: int = 0) -> Tensor:
        """2. The tokens `first .. first + Q - 1` attend to the slots."""
        reader, bias = self.reader, part_of(view.bias, first, x.shape[1])
        assert reader is not None and self.read_residual is not None
        return self.read_residual(x, lambda y: reader(y, view.slots, bias, view.sees_any))

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """3. Every token passes the feed-forward."""
        return self.feedforward_residual(x, self.feedforward)

    def write(self, memory: Memory, x: Float[Tensor, "B T D"], segment: Segment) -> tuple[Memory, Tensor | None]:
        """4. The chosen slots attend to the tokens, pass a feed-forward of their own, and are blended in.

        x: the tokens as the layer gave them, or where they are copied as it was given them.
        """
        assert self.write_rule is not None
        plan = self.write_rule.plan(memory, segment.steps, segment.write_step)
        if isinstance(self.writer, Mean):
            return self.write_rule.commit(memory, self.memory_dropout(self.writer(x, plan.sees)), plan), None
        slots, dates = memory.slots.to(x.dtype), memory.written_at
        if plan.index is not None:
            slots, dates = rows(slots, plan.index), dates.gather(1, plan.index)
        bias = self.distance_bias(dates, segment.steps)
        if plan.sees is not None:
            bias = torch.where(plan.sees, x.new_zeros(()) if bias is None else bias, -torch.inf)
        tokens = self.writer.project(x)
        candidate = self.write_residual(slots, lambda y: self.writer(y, tokens, bias))
        candidate, balance = self.memory_residual(candidate, self.memory_feedforward)
        return self.write_rule.commit(memory, self.memory_dropout(candidate), plan), balance

    def distance_bias(self, query_steps: Tensor, key_steps: Tensor) -> Tensor | None:
        """Scores `[B, H, Q, K]` for the distances between steps, or None."""
        return (self.bias or no_bias)(query_steps, key_steps)

    def open(
        self, memory: Memory | None, segment: Segment, position: Position, x: Float[Tensor, "B T D"]
    ) -> LayerStream:
        """Everything about a segment that does not change while its tokens come in; `x` tells size and number type."""
        return LayerStream(
            cache=self.attention.empty_cache(x.shape[0], x.shape[1], x),
            projected=position.project(segment.codes, self.attention.position_part),
            view=self.view(memory, segment.steps),
            tokens=x.new_empty(x.shape),
        )

    def step(self, x: Float[Tensor, "B Q D"], stream: LayerStream, position: Position, first: int) -> Tensor:
        """`forward` for the tokens `first .. first + Q - 1` alone; they are kept in the stream."""
        end = first + x.shape[1]
        given = x
        x = self.attend(x, position, stream.projected, stream.view, first, stream.cache)
        if stream.view is not None and not self.joint:
            x = self.read(x, stream.view, first)
        x, _ = self.transform(x)
        stream.tokens[:, first:end] = given if self.copies else x
        return x


def part_of(bias: Float[Tensor, "B H T M"] | None, first: int, count: int) -> Tensor | None:
    """The bias of the tokens `first .. first + count - 1`."""
    return None if bias is None else bias[:, :, first : first + count]
