"""Ices by name: every one is whole molecules under the ice rules, at its density, and equal specs make equal cells."""

from __future__ import annotations

import random

import numpy as np
import pytest
from ase.neighborlist import neighbor_list

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.common.units import AMU_A3_G_CM3
from aiida_mlfinetune.science.crystals.ices import IceSpec, build_ice
from aiida_mlfinetune.science.crystals.molecules import perceive_crystal

DENSITIES = {"Ih": 0.92, "IX": 1.16, "VI": 1.37, "VIII": 1.63}
"""In g/cm^3, of the lattices."""


@pytest.mark.parametrize("name", DENSITIES)
def test_an_ice_is_whole_molecules_at_its_density(name: str):
    atoms = build_ice(IceSpec(name))
    assert perceive_crystal(atoms).formula == "H2O"
    assert atoms.get_masses().sum() * AMU_A3_G_CM3 / atoms.get_volume() == pytest.approx(DENSITIES[name], rel=0.02)
    distances = neighbor_list("d", atoms, {("O", "O"): 3.2})
    assert distances.min() > 2.5


def test_every_hydrogen_bond_of_ice_ih_holds_one_hydrogen():
    atoms = build_ice(IceSpec("Ih", seed=3))
    first, second = neighbor_list("ij", atoms, {("O", "O"): 3.0})
    assert len(first) == 4 * (len(atoms) // 3)
    donor, _ = neighbor_list("ij", atoms, {("O", "H"): 2.2})
    assert np.bincount(donor)[atoms.numbers == 8].tolist() == [4] * (len(atoms) // 3)
    assert set(second) == set(first)


def test_equal_specs_make_equal_cells_and_leave_the_generators_alone():
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    one, two, other = (build_ice(IceSpec("Ic", (2, 1, 1), seed)) for seed in (1, 1, 2))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    np.testing.assert_array_equal(one.positions, two.positions)
    assert np.abs(one.positions - other.positions).max() > 0.5
    assert len(one) == 48


@pytest.mark.parametrize(
    ("name", "repeat", "molecules"),
    [
        ("Ih", (2, 2, 2), 128),
        ("II", (2, 2, 2), 96),
        ("VI", (2, 2, 2), 80),
        ("VIII", [[2, 1, 0], [-1, 2, 0], [0, 0, 2]], 80),
    ],
)
def test_the_cells_of_kaur_have_edges_over_ten_angstrom(name, repeat, molecules):
    atoms = build_ice(IceSpec(name, repeat))
    assert len(atoms) == 3 * molecules
    assert atoms.cell.lengths().min() > 10.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ice": "Ij"}, "there is no ice 'Ij'"),
        ({"ice": "Ih", "seed": -1}, "the seed of ice Ih is -1"),
        ({"ice": "Ih", "repeat": [1, 1]}, "give three positive numbers"),
        ({"ice": "Ih", "repeat": [1, 1, 1.5]}, "give three positive numbers"),
        ({"ice": "Ih", "repeat": [[1, 0, 0], [1, 0, 0], [0, 0, 1]]}, "make no cell"),
        ({"ice": "Ih", "supercell": [1, 1, 1]}, "unknown entries of an ice"),
    ],
)
def test_what_cannot_be_built_is_refused(values, message):
    with pytest.raises(StudyError, match=message):
        IceSpec.from_dict(values)


def test_too_many_molecules_are_refused():
    with pytest.raises(StudyError, match="too many: repeat the cell less often"):
        build_ice(IceSpec("VIII", (7, 7, 7)))
