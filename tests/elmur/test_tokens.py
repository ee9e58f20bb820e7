"""Token formats against sequences written by hand."""

from __future__ import annotations

import pytest
import torch

from elmur.tokens import TokenFormat

# Two steps. Letter of a token -> its number: state 1, action 2, return 3, plus 10 per step.
SEQUENCES = {
    "s": ([1, 11], [1, 11]),
    "sa": ([1, 2, 11, 12], [1, 11]),
    "sr": ([1, 3, 11, 13], [1, 11]),
    "sra": ([3, 1, 2, 13, 11, 12], [1, 11]),
}
BEFORE_AND_AFTER = {"s": ("s", ""), "sa": ("s", "a"), "sr": ("s", "r"), "sra": ("rs", "a")}


def parts(lanes: int) -> dict[str, torch.Tensor]:
    steps = torch.tensor([0.0, 10.0]).view(1, 2, 1).expand(lanes, 2, 3)
    return {letter: steps + number for letter, number in (("s", 1.0), ("a", 2.0), ("r", 3.0))}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequence_and_read_out(name: str) -> None:
    fmt, (sequence, states) = TokenFormat(name), SEQUENCES[name]
    tokens = fmt.sequence(parts(2))
    assert tokens.shape == (2, len(sequence), 3)
    assert tokens[1, :, 2].tolist() == sequence
    assert fmt.predicting(tokens)[1, :, 0].tolist() == states
    assert fmt.tokens_per_step == len(name)
    assert (fmt.with_action, fmt.with_return) == ("a" in name, "r" in name)


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_is_known_when_the_action_is_chosen(name: str) -> None:
    fmt = TokenFormat(name)
    assert (fmt.before, fmt.after) == BEFORE_AND_AFTER[name]


@pytest.mark.parametrize("name", ["", "S", "a", "rsa", "ars"])
def test_other_formats_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="token_format must be one of s, sa, sr, sra"):
        TokenFormat(name)
