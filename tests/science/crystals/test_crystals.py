"""The crystals that come with the package are what they claim to be."""

from __future__ import annotations

import numpy as np
import pytest
import spglib

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.common.units import AMU_A3_G_CM3
from aiida_mlfinetune.science.crystals.crystals import CRYSTALS, build_crystal
from aiida_mlfinetune.science.crystals.molecules import gas_molecule, perceive_crystal


@pytest.mark.parametrize(
    ("name", "formula", "n_molecules", "density", "space_group"),
    [
        ("ice-xi", "H2O", 8, 0.935, 36),
        ("ice-ic", "H2O", 8, 0.931, 109),
        ("carbon-dioxide", "CO2", 4, 1.643, 205),
        ("ammonia", "H3N", 4, 0.838, 198),
    ],
)
def test_crystal_has_the_published_composition_density_and_symmetry(name, formula, n_molecules, density, space_group):
    atoms = build_crystal(name)
    molecules = perceive_crystal(atoms)
    assert (molecules.formula, molecules.n_molecules) == (formula, n_molecules)
    assert atoms.get_masses().sum() / atoms.get_volume() * AMU_A3_G_CM3 == pytest.approx(density, abs=2e-3)
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    assert spglib.get_symmetry_dataset(cell, symprec=1e-3).number == space_group


@pytest.mark.parametrize(
    ("name", "bond", "angle"),
    [("ice-xi", 0.985, 109.5), ("ice-ic", 0.985, 109.5), ("carbon-dioxide", 1.154, 180.0), ("ammonia", 0.99, 107.0)],
)
def test_molecule_has_a_sensible_geometry(name, bond, angle):
    molecule = gas_molecule(build_crystal(name))
    centre = int(np.argmin(np.linalg.norm(molecule.positions, axis=1)))
    arms = [i for i in range(len(molecule)) if i != centre]
    assert molecule.get_distances(centre, arms) == pytest.approx(bond, abs=0.005)
    assert molecule.get_angle(arms[0], centre, arms[1]) == pytest.approx(angle, abs=1.5)


@pytest.mark.parametrize("name", ["ice-xi", "ice-ic"])
def test_every_oxygen_donates_two_bonds_and_accepts_two(name):
    atoms = build_crystal(name)
    oxygen, hydrogen = np.flatnonzero(atoms.numbers == 8), np.flatnonzero(atoms.numbers == 1)
    distances = np.array([atoms.get_distances(h, oxygen, mic=True) for h in hydrogen])
    assert ((distances < 1.0).sum(axis=0) == 2).all()
    assert (((distances > 1.0) & (distances < 2.0)).sum(axis=0) == 2).all()


def test_an_unknown_crystal_is_refused_with_the_known_names():
    with pytest.raises(StudyError, match=r"ice-xii.*ice-xi"):
        build_crystal("ice-xii")
    assert set(CRYSTALS) == {"ice-xi", "ice-ic", "carbon-dioxide", "ammonia"}
