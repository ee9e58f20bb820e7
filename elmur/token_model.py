"""A SequenceModel whose steps become tokens: observations, actions and returns-to-go as vectors, in order."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from elmur.batch import SegmentBatch
from elmur.encoders import ReturnEncoder
from elmur.sequence_model import SequenceModel
from elmur.spec import TaskSpec
from elmur.tokens import TokenFormat


class TokenModel(SequenceModel):
    """What all models share that see a segment as tokens of width D; what becomes of the tokens is each model's own.

    token_format: its name, or one that says more than that.
    """

    def __init__(self, spec: TaskSpec, d_model: int, token_format: str | TokenFormat = "s") -> None:
        super().__init__()
        self.spec, self.d_model = spec, d_model
        self.format = token_format if isinstance(token_format, TokenFormat) else TokenFormat(token_format)
        self.observation = self.format.encoder(spec.observation, d_model)
        self.action = self.format.action_encoder(spec, d_model) if self.format.with_action else None
        self.returns = ReturnEncoder(d_model) if self.format.with_return else None

    @property
    def asks_for_return(self) -> bool:
        return self.format.with_return

    def tokens(self, batch: SegmentBatch) -> Float[Tensor, "B T D"]:
        """The segment as a token sequence, `T = steps * tokens_per_step`."""
        return self.format.sequence(self.parts(batch, self.format.order))

    def newest(self, now: SegmentBatch, before: SegmentBatch | None) -> list[Float[Tensor, "B 1 D"]]:
        """The tokens that have become known since the last step: what followed its state, then this step's own."""
        known = self.ordered(now, self.format.before)
        if not self.format.after or before is None:
            return known
        return self.ordered(before, self.format.after) + known

    def ordered(self, batch: SegmentBatch, letters: str) -> list[Tensor]:
        """Embeddings of the tokens named by `letters`, in that order."""
        parts = self.parts(batch, letters)
        return [parts[letter] for letter in letters]

    def parts(self, batch: SegmentBatch, letters: str) -> dict[str, Tensor]:
        """Embeddings `[B, steps, D]` of the kinds of tokens named by `letters`."""
        parts = {}
        if "s" in letters:
            parts["s"] = self.observation(batch.observation)
        if "a" in letters and self.action is not None:
            parts["a"] = self.action(batch.action, batch.mask)
        if "r" in letters and self.returns is not None:
            parts["r"] = self.returns(batch.return_to_go)
        return parts
