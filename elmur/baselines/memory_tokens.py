"""Memory tokens: vectors at both ends of a segment, by which one segment tells the next (RMT, Bulatov et al., 2022).

Two kinds, and never one by accident: as they are meant to be trained, and as the released code of RATE has them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MemoryTokens(nn.Module):
    """Base: `num_mem_tokens` learned vectors that an episode begins with. Subclasses say how they are used.

    wraps: whether two memory tokens see each other's place as the published code computes it. at_end: whether they
    stand behind the segment too, to be written; if not, the read tokens are what was written, or what a valve gets
    instead (`SegmentRecurrence.written_in_front`).
    """

    wraps, at_end = False, True

    def __init__(self, d_model: int, num_mem_tokens: int) -> None:
        super().__init__()
        if num_mem_tokens < 1:
            raise ValueError(f"num_mem_tokens must be 1 or more; found {num_mem_tokens}")
        self.first = nn.Parameter(torch.randn(num_mem_tokens, d_model))

    def handed_over(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B n D"]:
        """Tokens as the next segment gets them."""
        return tokens


class Trained(MemoryTokens):
    """Tokens that differ from the beginning, with a gradient from segment to segment of a window.

    Two memory tokens see the signed distance between them, so that a segment cut short predicts what the whole one
    does, and a step costs no more than its own tokens.
    """

    def __init__(self, d_model: int, num_mem_tokens: int = 5) -> None:
        super().__init__(d_model, num_mem_tokens)


class AsPublished(MemoryTokens):
    """Tokens of the released code (RATE, commit 8b80e4e), to reproduce what it computes.

    All begin as one and the same vector. They are handed over detached: nothing trains what is written, nor a valve,
    and the learned vectors have a gradient from the first segment of an episode alone. Looking forward at each other,
    they see scores that depend on the length of the window (`forward_scores`).

    This model does not keep step = window, with any number of tokens: acting runs the growing window, the action of
    its last step not yet in it, so that what goes on to the next segment lacks the last action, as in the released
    code. With 3 tokens or more and 2 layers the predictions within a segment differ too: those of a window that still
    grows are not those of the full one. (That code also shifts the history of actions by one step. This is not
    repeated: each step has its own action.)

    at_end false: as published, the outputs of the read tokens are handed over, which know nothing of the segment; a
    valve takes the last outputs of read tokens and segment for the written memory.
    """

    wraps = True

    def __init__(self, d_model: int, num_mem_tokens: int = 5, at_end: bool = True) -> None:
        super().__init__(d_model, num_mem_tokens)
        self.at_end = at_end
        with torch.no_grad():
            self.first.copy_(self.first[:1].clone())

    def handed_over(self, tokens: Float[Tensor, "B n D"]) -> Float[Tensor, "B n D"]:
        return tokens.detach()
