"""Structures that cannot be computed are refused with a message that helps."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.crystals import carbon_dioxide
from aiida_mlfinetune.science.structures import check_cell, check_crystal, check_distances


def test_a_good_crystal_passes():
    check_crystal(carbon_dioxide())


def test_the_closest_pair_is_named():
    atoms = carbon_dioxide()
    atoms += Atoms("O", positions=[atoms.positions[5] + [0.0, 0.0, 0.2]])
    with pytest.raises(FramesError, match=r"atoms 5 \(O\) and 12 \(O\) are 0.200 angstrom apart"):
        check_crystal(atoms)


def test_copies_on_two_faces_of_the_cell_are_too_close():
    atoms = carbon_dioxide()
    atoms += Atoms("C", positions=[atoms.cell[0]])
    with pytest.raises(FramesError, match=r"atoms 0 \(C\) and 12 \(C\) are 0.000 angstrom"):
        check_distances(atoms)


def test_an_atom_too_close_to_its_own_image_is_refused():
    with pytest.raises(FramesError, match=r"atoms 0 \(He\) and 0 \(He\)"):
        check_distances(Atoms("He", cell=[0.3, 5, 5], pbc=True))


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), [[5, 0, 0], [0, 5, 0], [5, 5, 0]]])
def test_a_cell_without_volume_is_refused(cell):
    atoms = carbon_dioxide()
    atoms.cell = cell
    with pytest.raises(FramesError, match="no volume"):
        check_crystal(atoms)


def test_a_crystal_must_be_periodic():
    atoms = carbon_dioxide()
    atoms.pbc = [True, True, False]
    with pytest.raises(FramesError, match=r"pbc is \[True, True, False\]"):
        check_cell(atoms)


def test_no_atoms_and_positions_that_are_not_numbers_are_refused():
    with pytest.raises(FramesError, match="no atoms"):
        check_distances(Atoms())
    with pytest.raises(FramesError, match=r"atoms \[1\] are not finite"):
        check_distances(Atoms("H2", positions=[[0, 0, 0], [0, 0, np.nan]]))
