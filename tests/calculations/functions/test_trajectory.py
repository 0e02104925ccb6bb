"""Pieces of one trajectory, joined."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune.calculations.functions.trajectory import _of_the_last_piece


@pytest.mark.parametrize(
    ("pieces", "kept"),
    [
        ([[0, 4, 8], [8, 12]], [0, 1, 3, 4]),
        ([[0, 0, 4, 4], [4, 4, 8, 8]], [0, 1, 4, 5, 6, 7]),
        ([[0, 4, 8, 12], [8], [4, 8]], [0, 5, 6, 3]),
    ],
    ids=["one frame a step", "two beads a step", "a piece that lies within others"],
)
def test_a_step_is_taken_from_the_last_piece_that_holds_it_with_all_its_beads(pieces, kept):
    steps = np.concatenate([np.array(piece) for piece in pieces])
    numbers = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    assert _of_the_last_piece(steps, numbers).tolist() == kept
