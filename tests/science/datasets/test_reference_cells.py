"""How far cells are from each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aiida_mlfinetune.science.datasets.reference_cells import (
    LARGEST_STRAIN,
    joined_references,
    strains,
    with_references,
)

CELL = np.array([[6.0, 0.0, 0.0], [1.0, 5.0, 0.0], [0.5, -0.4, 7.0]])


@pytest.mark.parametrize("stretch", [0.9, 1.0, 1.07])
def test_a_cell_is_stretched_by_as_much_however_it_is_turned(stretch):
    turned = CELL @ Rotation.from_euler("xyz", [0.3, -1.0, 2.0]).as_matrix() * stretch
    np.testing.assert_allclose(strains([CELL, 2 * CELL], turned), [abs(stretch - 1), abs(stretch / 2 - 1)], atol=1e-12)


def test_shear_counts():
    sheared = CELL @ np.array([[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert 0.04 < strains([CELL], sheared)[0] < 0.06


def test_the_first_cell_of_every_crystal_is_its_reference():
    other = np.diag([4.0, 9.0, 8.0])
    near, far = CELL * (1 + 0.9 * LARGEST_STRAIN), CELL * (1 + 1.1 * LARGEST_STRAIN)
    found = with_references({}, ["H16O8"] * 4, [CELL, near, other, 1.1 * CELL])
    assert found == {"H16O8": [CELL.tolist(), other.tolist()]}
    assert with_references({"H16O8": [other]}, ["H16O8"] * 2, [near, far]) == {
        "H16O8": [other.tolist(), near.round(6).tolist()]
    }
    assert with_references({}, [], np.zeros((0, 3, 3))) == {}


def test_crystals_of_different_composition_have_their_own():
    near = (1.01 * CELL).round(6)
    found = with_references({"H16O8": [CELL]}, ["H24O12", "H16O8"], [near, near])
    assert found == {"H16O8": [CELL.tolist()], "H24O12": [near.tolist()]}


def test_reference_cells_are_joined_if_each_crystal_has_one():
    near, other = 1.01 * CELL, 2.0 * CELL
    mine = {"H16O8": [CELL]}
    assert joined_references(mine, mine) == joined_references(mine, {}) == {"H16O8": [CELL.tolist()]}
    assert joined_references(mine, {"H16O8": [near]}) is None
    assert joined_references(mine, {"H16O8": [other]}) == {"H16O8": [CELL.tolist(), other.tolist()]}
    assert joined_references(mine, {"H24O12": [near]}) == {"H16O8": [CELL.tolist()], "H24O12": [near.tolist()]}
