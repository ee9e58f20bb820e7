"""The board encoder says, besides the plain sum, what a player counts and sees under the finger."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elmur.build import BuildError, build
from elmur.encoders import BoardEncoder, ObservationEncoder
from elmur.spec import Discrete, Field, TaskSpec, Vector

CELLS, VALUES, D = 6, 3, 8
FIELDS: dict[str, Field] = {"observation": Discrete((VALUES,) * CELLS), "previous_action": Discrete((CELLS + 1,))}


def test_counts_and_the_chosen_cell_are_added_to_the_sum() -> None:
    torch.manual_seed(0)
    encoder = BoardEncoder(FIELDS, D)
    cells, choice = torch.randint(VALUES, (2, 5, CELLS)), torch.randint(CELLS + 1, (2, 5, 1))
    choice[0, 0] = 0
    found = encoder({"observation": cells, "previous_action": choice})
    weights = encoder.state_dict()
    counts = weights["counts.table.weight"].unflatten(0, (VALUES, CELLS + 1))
    for b in range(2):
        for t in range(5):
            board, chosen = cells[b, t].tolist(), int(choice[b, t])
            expected = weights["parts.previous_action.table.weight"][chosen]
            expected = expected + weights["chosen.weight"][0 if chosen == 0 else 1 + board[chosen - 1]]
            for cell, value in enumerate(board):
                expected = expected + weights["parts.observation.table.weight"][cell * VALUES + value]
            for value in range(VALUES):
                expected = expected + counts[value, board.count(value)]
            torch.testing.assert_close(found[b, t], expected)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"observation": Discrete((3, 4))},
            "part 'observation': expected a board of cells with the same values, found",
        ),
        ({"observation": Discrete((3,))}, "part 'observation': expected a board"),
        ({"observation": Vector(6)}, "part 'observation': expected a board"),
        ({"previous_action": Discrete((6,))}, "part 'previous_action': expected none or one of 6 cells, found"),
        ({"previous_action": Vector(1)}, "part 'previous_action': expected none or one of 6 cells, found"),
    ],
)
def test_what_is_no_board_is_refused(changed: dict[str, Field], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        BoardEncoder({**FIELDS, **changed}, D)


def test_a_part_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"part 'previous_action': .* found None"):
        BoardEncoder({"observation": FIELDS["observation"]}, D)


BOARD = {"_target_": "elmur.encoders.BoardEncoder", "_partial_": True}


@pytest.mark.parametrize(
    ("model", "key", "plain", "with_board"),
    [
        (
            "elmur.model.ELMUR",
            "token_format",
            "s",
            {"_target_": "elmur.tokens.TokenFormat", "name": "s", "observation": BOARD},
        ),
        ("elmur.baselines.recurrent.GRU", "observation", None, BOARD),
    ],
)
def test_every_model_takes_it_from_its_configuration(model: str, key: str, plain: Any, with_board: Any) -> None:
    config = {"_target_": model, "d_model": 8}
    spec = TaskSpec("cards", FIELDS, Discrete((CELLS,)), horizon=9)
    assert isinstance(build({**config, key: with_board}, spec=spec).observation, BoardEncoder)
    assert type(build({**config, key: plain}, spec=spec).observation) is ObservationEncoder
    with pytest.raises(BuildError, match="expected a board of cells"):
        build({**config, key: with_board}, spec=TaskSpec("t", {"observation": Vector(2)}, Discrete((2,)), horizon=9))
