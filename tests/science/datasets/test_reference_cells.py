"""How far cells are from each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aiida_mlfinetune.science.datasets.reference_cells import LARGEST_STRAIN, strains, with_references

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
    assert with_references([], [CELL, near, other, 1.1 * CELL]) == [CELL.tolist(), other.tolist()]
    assert with_references([other], [near, far]) == [other.tolist(), near.round(6).tolist()]
    assert with_references([], np.zeros((0, 3, 3))) == []
