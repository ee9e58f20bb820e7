"""ELMUR: a transformer whose layers each own a bank of memory slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elmur.attention import CrossAttention, SelfAttention
from elmur.batch import SegmentBatch
from elmur.clock import Chronological, EpisodeClock, StepRule
from elmur.dropout import Dropout
from elmur.feedforward import MLP
from elmur.heads import head_for
from elmur.layer import ELMURLayer, LayerStream, Read, Segment
from elmur.memory import LRU, Memory, WriteRule, every_slot, written_slots
from elmur.memory_bias import MemoryBias
from elmur.moe import MixtureOfExperts
from elmur.positional import Position, Relative
from elmur.residual import PostNorm, Residual
from elmur.sequence_model import Output
from elmur.spec import TaskSpec
from elmur.token_model import TokenModel
from elmur.tokens import TokenFormat

Banks = tuple[Memory, ...]


@dataclass
class MemoryDesign:
    """How the memory of a model is built.

    memory_size: slots per bank (M). memory_init_std: spread of the noise in a new bank. memory_dropout: dropout on
    candidates. read, write: what a segment does with it (`write=None`: nothing). read_unwritten: whether tokens see
    the slots that were never written; without them a bank in which nothing is written adds exactly nothing. bias:
    builds the distance bias from the number of heads, None for none. steps: how tokens and writes are dated. clock:
    built from the width, tells tokens, and through them the slots, the step of the episode; None where it must not
    matter. shared: one bank goes through all layers instead of one bank per layer. joint: the slots that were written
    are read in the attention to the segment, in one softmax, instead of in a cross-attention.
    """

    memory_size: int = 2
    memory_init_std: float = 0.001
    memory_dropout: float = 0.0
    read: bool = True
    read_unwritten: bool = True
    write: WriteRule | None = field(default_factory=LRU)
    bias: Callable[[int], MemoryBias] | None = MemoryBias
    steps: StepRule = field(default_factory=Chronological)
    clock: Callable[[int], EpisodeClock] | None = None
    shared: bool = False
    joint: bool = False

    def __post_init__(self) -> None:
        if self.memory_size < 1:
            raise ValueError(f"memory_size must be 1 or more; found {self.memory_size}")
        if self.write is not None and self.write.slots_per_write > self.memory_size:
            raise ValueError(
                f"slots_per_write={self.write.slots_per_write} is more than memory_size={self.memory_size}"
            )


@dataclass
class Stream:
    """A model's open segment: `length` tokens have come in so far, with the step in the making."""

    layers: tuple[LayerStream, ...]
    segment: Segment
    memory: Banks
    length: int


class ELMUR(TokenModel):
    """The ELMUR policy for one task: `model(segment, memory) -> output, memory`.

    position, feedforward and residual build their parts from (d_model, n_head, dropout), (d_model, dropout) and
    (d_model). token_format: its name, or one that says more than that. `memory=None` leaves memory out: a plain causal
    transformer over its window.
    """

    def __init__(
        self,
        spec: TaskSpec,
        d_model: int = 128,
        n_layer: int = 2,
        n_head: int = 2,
        dropout: float = 0.1,
        dropatt: float = 0.1,
        token_format: str | TokenFormat = "s",
        position: Callable[..., Position] = Relative,
        feedforward: Callable[..., nn.Module] = MLP,
        residual: Callable[..., Residual] = PostNorm,
        memory: MemoryDesign | None = MemoryDesign(),  # noqa: B008 - a value, never changed
    ) -> None:
        check_sizes(d_model, n_layer, n_head)
        super().__init__(spec, d_model, token_format)
        self.design = memory
        self.clock = memory.clock(d_model) if memory and memory.clock else None
        self.dropout = Dropout(dropout)
        self.position = position(d_model, n_head, dropout)
        self.steps: StepRule = memory.steps if memory else Chronological()
        write = memory.write if memory else None
        sees = written_slots if memory and (memory.joint or not memory.read_unwritten) else every_slot
        layers = nn.ModuleList(
            ELMURLayer(
                attention=SelfAttention(d_model, n_head, self.position, dropout, dropatt),
                cross=partial(CrossAttention, d_model, n_head, dropout, dropatt),
                feedforward=partial(feedforward, d_model, dropout),
                residual=partial(residual, d_model),
                bias=memory.bias(n_head) if memory and memory.bias and (memory.read or write) else None,
                write_rule=write,
                read=Read(sees, memory.joint) if memory and memory.read else None,
                memory_dropout=memory.memory_dropout if memory else 0.0,
            )
            for _ in range(n_layer)
        )
        self.layers = cast("Sequence[ELMURLayer]", layers)  # a ModuleList does not tell what it holds
        self.head = head_for(spec, d_model)

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Banks:
        """A bank per layer (one in all where memory is shared), on the model's device."""
        if self.design is None:
            return ()
        like = next(self.parameters())
        size, std = self.design.memory_size, self.design.memory_init_std
        banks = 1 if self.design.shared else len(self.layers)
        sizes = batch_size, size, self.d_model
        return tuple(Memory.initial(*sizes, std, generator, like.device).to(like) for _ in range(banks))

    def forward(
        self, batch: SegmentBatch, memory: Banks, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Banks]:
        """Predictions for a segment `[B, T steps]`, and every bank after the segment was written to it.

        write: false where nothing will read the result. write_grad: false where its gradient is not used.
        """
        self.check_state(memory)
        steps = self.steps.token_steps(batch.start, batch.num_steps, self.format.tokens_per_step)
        x = self.placed(self.tokens(batch), steps, 0)
        segment = self.segment(batch.start, batch.num_steps, x)
        tokens: list[Tensor] = []
        balances: list[Tensor | None] = []
        for layer, bank in zip(self.layers, self.bank_per_layer(memory), strict=True):
            given = x
            x, balance = layer(x, bank, segment, self.position)
            tokens.append(given if layer.copies else x)
            balances.append(balance)
        if write:
            with torch.set_grad_enabled(write_grad and torch.is_grad_enabled()):
                memory, more = self.write(memory, tokens, segment)
            balances = [added(*pair) for pair in zip(balances, more, strict=True)]
        return Output(self.head(self.format.predicting(x)), reduce(added, balances)), memory

    def write(self, memory: Banks, tokens: list[Tensor], segment: Segment) -> tuple[Banks, list[Tensor | None]]:
        """The banks after every layer wrote its own tokens, and the balance losses of writing.

        A shared bank is written by one layer after the other, once all of them have read it: a layer that read what
        the layer below wrote from this very segment would see its future.
        """
        banks = list(memory)
        balances: list[Tensor | None] = [None] * len(self.layers)
        for depth, (layer, x) in enumerate(zip(self.layers, tokens, strict=True)):
            bank = depth if len(banks) > 1 else 0
            if banks and layer.write_rule is not None:
                banks[bank], balances[depth] = layer.write(banks[bank], x, segment)
        return tuple(banks), balances

    def bank_per_layer(self, memory: Banks) -> tuple[Memory | None, ...]:
        """The bank that each layer reads."""
        if not memory:
            return (None,) * len(self.layers)
        return memory if len(memory) == len(self.layers) else memory * len(self.layers)

    @property
    def write_has_loss(self) -> bool:
        """Whether writing adds a loss of its own that has a gradient (the balance of routers that pick several)."""
        experts = [module for module in self.modules() if isinstance(module, MixtureOfExperts)]
        return any(expert.routed_per_token > 1 and expert.balance_coef > 0 for expert in experts)

    def open_segment(self, memory: Banks, start: Int[Tensor, " B"], context_length: int) -> Stream:
        self.check_state(memory)
        num_tokens = context_length * self.format.tokens_per_step
        like = next(self.parameters()).new_empty(start.shape[0], num_tokens, self.d_model)
        segment = self.segment(start, context_length, like)
        banks = self.bank_per_layer(memory)
        layers = (
            layer.open(bank, segment, self.position, like) for layer, bank in zip(self.layers, banks, strict=True)
        )
        return Stream(tuple(layers), segment, memory, 0)

    def step(self, stream: Stream, now: SegmentBatch, before: SegmentBatch | None) -> Float[Tensor, "B A"]:
        out: Tensor = self.head(self.append(stream, self.newest(now, before))[:, -1:])
        return out[:, 0]

    def close_segment(self, stream: Stream, last: SegmentBatch) -> Banks:
        if self.format.after:
            self.append(stream, self.ordered(last, self.format.after))
        return self.write(stream.memory, [layer.tokens for layer in stream.layers], stream.segment)[0]

    def append(self, stream: Stream, tokens: list[Float[Tensor, "B 1 D"]]) -> Float[Tensor, "B Q D"]:
        """The new tokens after all layers; the stream is the longer by them."""
        x = tokens[0] if len(tokens) == 1 else torch.cat(tokens, dim=1)
        last = stream.length + x.shape[1]
        x = self.placed(x, stream.segment.steps[:, stream.length : last], stream.length)
        for layer, layer_stream in zip(self.layers, stream.layers, strict=True):
            x = layer.step(x, layer_stream, self.position, stream.length)
        stream.length += x.shape[1]
        return x

    def placed(self, x: Float[Tensor, "B Q D"], steps: Int[Tensor, "B Q"], first: int) -> Float[Tensor, "B Q D"]:
        """Tokens `first .. first + Q - 1` of a segment with their step and position added, and dropout."""
        if self.clock is not None:
            x = x + self.clock(steps)
        return self.dropout(self.position.embed(x, first))

    def segment(self, start: Int[Tensor, " B"], num_steps: int, x: Float[Tensor, "B T D"]) -> Segment:
        """Steps, dates and codes of the segment of `num_steps` steps that begins at `start`."""
        per_step = self.format.tokens_per_step
        return Segment(
            steps=self.steps.token_steps(start, num_steps, per_step),
            write_step=self.steps.write_step(start, num_steps, per_step),
            codes=self.position.codes(num_steps * per_step, start * per_step, x),
        )


def added(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    """The sum of two losses either of which may be absent."""
    return right if left is None else left if right is None else left + right


def check_sizes(d_model: int, n_layer: int, n_head: int) -> None:
    """Raises ValueError where the sizes cannot make a transformer."""
    if min(d_model, n_layer, n_head) < 1:
        raise ValueError(f"d_model, n_layer and n_head must be 1 or more; found {d_model}, {n_layer} and {n_head}")
    if d_model % n_head:
        raise ValueError(f"n_head must divide d_model; found n_head={n_head} and d_model={d_model}")
    if d_model % 2:
        raise ValueError(f"d_model must be even; found {d_model}")
