"""Molecules are found in any crystal, made whole, and refused where they are not of one kind."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_mlfinetune.common.errors import FramesError, MoleculesError
from aiida_mlfinetune.science.crystals.crystals import ammonia, carbon_dioxide, ice_xi
from aiida_mlfinetune.science.crystals.molecules import (
    centres_of_mass,
    gas_molecule,
    perceive_crystal,
    perceive_molecules,
    scale_rigid,
)


def packed(names: list[str], spacing: float = 6.0) -> Atoms:
    """Return molecules side by side along x in a periodic cell, rotated, wrapped so that the cell cuts them."""
    crystal = Atoms(cell=[spacing * len(names), 7.0, 7.5], pbc=True)
    for number, name in enumerate(names):
        unit = molecule(name)
        unit.rotate(40 * number + 10, (1, 2, 3), center="COM")
        unit.positions += [spacing * number, 0.1, 0.2] - unit.get_center_of_mass()
        crystal += unit
    crystal.wrap()
    return crystal


def high_pressure_ice(o_o: float, o_h: float) -> Atoms:
    """Return one of the two networks of ice VIII: oxygen on a diamond lattice, every hydrogen bond pointing up."""
    oxygen = bulk("O", "diamond", a=o_o * 4 / np.sqrt(3), cubic=True)
    ice = Atoms("O8", positions=oxygen.positions, cell=oxygen.cell, pbc=True)
    for i in range(8):
        vectors = oxygen.get_distances(i, range(8), mic=True, vector=True)
        near = [v for v in vectors if 0.1 < np.linalg.norm(v) < o_o * 1.01]
        for v in (v for v in near if v[2] > 0):
            ice += Atoms("H", positions=[ice.positions[i] + o_h * v / np.linalg.norm(v)])
    return ice


@pytest.mark.parametrize("o_o", [2.88, 2.5, 2.35, 2.25])
def test_hydrogen_bonds_are_not_covalent_even_at_high_pressure(o_o):
    found = perceive_molecules(high_pressure_ice(o_o, 1.05))
    assert (found.n_molecules, found.formula, found.atoms_per_molecule) == (8, "H2O", 3)


@pytest.mark.parametrize(
    "name", ["C6H6", "H2", "F2", "Cl2", "N2", "CO2", "NH3", "SO2", "CH3CN", "C2H6", "H2O2", "Si2H6", "CH3OH"]
)
def test_molecules_cut_by_the_cell_are_made_whole(name):
    unit = molecule(name)
    crystal = packed([name, name])
    found = perceive_molecules(crystal)
    assert found.n_molecules == 2
    assert found.atoms_per_molecule == len(unit)
    whole = gas_molecule(crystal)
    assert not whole.pbc.any()
    assert not whole.cell.any()
    assert whole.get_center_of_mass() == pytest.approx(np.zeros(3), abs=1e-10)
    expected, got = np.sort(unit.get_all_distances().ravel()), np.sort(whole.get_all_distances().ravel())
    assert got == pytest.approx(expected, abs=1e-8)


def test_diborane_keeps_its_bridges():
    diborane = Atoms(
        "B2H6",
        positions=[
            [0, 0, 0.886], [0, 0, -0.886], [0, 0.973, 0], [0, -0.973, 0],
            [1.038, 0, 1.457], [-1.038, 0, 1.457], [1.038, 0, -1.457], [-1.038, 0, -1.457],
        ],
        cell=[6, 6, 7], pbc=True,
    )  # fmt: skip
    assert perceive_molecules(diborane).formula == "H6B2"


def test_index_follows_the_order_of_the_atoms_not_of_the_molecules():
    crystal = carbon_dioxide()
    found = perceive_molecules(crystal)
    assert found.index.tolist()[:4] == [0, 1, 2, 3]
    assert np.bincount(found.index).tolist() == [3, 3, 3, 3]
    shifts = crystal.cell.scaled_positions(found.positions - crystal.positions)
    assert shifts == pytest.approx(np.round(shifts), abs=1e-9)


@pytest.mark.parametrize(
    "atoms", [bulk("C", "diamond", a=3.57, cubic=True), bulk("Cu"), bulk("NaCl", "rocksalt", a=5.64)]
)
def test_a_network_is_not_a_molecular_crystal(atoms):
    with pytest.raises(MoleculesError, match="to its own periodic image"):
        perceive_molecules(atoms)


def test_molecules_of_two_kinds_are_named():
    with pytest.raises(MoleculesError, match=r"differ: 2 x H2O, but 1 x CO2 \(such as atoms \[3, 4, 5\]\)"):
        perceive_molecules(packed(["H2O", "CO2", "H2O"]))


def test_isomers_are_told_apart():
    with pytest.raises(MoleculesError, match=r"all have the formula C2H6O.*bonded differently"):
        perceive_molecules(packed(["CH3CH2OH", "CH3OCH3", "CH3CH2OH"], spacing=7.0))


def test_a_missing_atom_is_found():
    crystal = ice_xi()
    del crystal[-1]
    with pytest.raises(MoleculesError, match=r"7 x H2O, but 1 x HO"):
        perceive_molecules(crystal)


def test_a_molecule_cut_by_a_cell_that_is_not_periodic_is_found():
    crystal = carbon_dioxide()
    crystal.wrap()
    crystal.pbc = False
    with pytest.raises(MoleculesError, match="cut by a cell that is not periodic"):
        perceive_molecules(crystal)


def test_a_fraction_of_every_molecule_is_recognised_by_its_odd_electrons():
    crystal = ice_xi()
    hydrogens = [next(i for i in range(8, 24) if crystal.get_distance(o, i, mic=True) < 1.1) for o in range(8)]
    del crystal[hydrogens]
    with pytest.raises(MoleculesError, match="odd number of electrons"):
        perceive_molecules(crystal)


def test_overlapping_atoms_are_refused_first():
    crystal = carbon_dioxide()
    crystal += Atoms("C", positions=[[0.1, 0, 0]])
    with pytest.raises(FramesError, match=r"0\.100 angstrom"):
        perceive_molecules(crystal)


@pytest.mark.parametrize("build", [ice_xi, carbon_dioxide, ammonia])
@pytest.mark.parametrize("scale", [0.9, 1.2])
def test_scaling_keeps_molecules_rigid_and_scales_their_centres(build, scale):
    crystal = build()
    crystal.wrap()
    found = perceive_molecules(crystal)
    scaled = scale_rigid(crystal, found, scale * crystal.get_volume())
    assert scaled.get_volume() == pytest.approx(scale * crystal.get_volume())
    after = perceive_molecules(scaled)
    masses = crystal.get_masses()
    centres = centres_of_mass(found.positions, masses, found.index)
    moved = centres_of_mass(scaled.positions, masses, found.index)
    assert moved == pytest.approx(centres * scale ** (1 / 3))
    inside = after.positions - moved[found.index]
    assert inside == pytest.approx(found.positions - centres[found.index], abs=1e-9)


def test_scaling_follows_a_later_frame_whose_atoms_were_wrapped():
    crystal = ice_xi()
    found = perceive_molecules(crystal)
    later = crystal.copy()
    later.positions += np.random.default_rng(3).normal(scale=0.03, size=(24, 3))
    later.translate([1.0, 2.0, 3.0])
    later.wrap()
    scaled = scale_rigid(later, found, 1.1 * later.get_volume())
    assert perceive_molecules(scaled).n_molecules == 8


def test_scaling_refuses_a_volume_or_frame_that_does_not_fit():
    crystal = carbon_dioxide()
    found = perceive_molecules(crystal)
    with pytest.raises(MoleculesError, match="positive volume"):
        scale_rigid(crystal, found, -1.0)
    with pytest.raises(MoleculesError, match="12 atoms do not fit a frame of 24 atoms"):
        scale_rigid(ice_xi(), found, 100.0)


def test_a_crystal_must_be_periodic_and_have_a_volume():
    crystal = carbon_dioxide()
    crystal.pbc = [True, True, False]
    with pytest.raises(FramesError, match=r"pbc is \[True, True, False\]"):
        perceive_crystal(crystal)
    crystal.pbc = True
    crystal.cell = [[5, 0, 0], [0, 5, 0], [5, 5, 0]]
    with pytest.raises(FramesError, match="no volume"):
        perceive_crystal(crystal)


def test_isotopes_stay():
    crystal = ice_xi()
    crystal.set_masses(np.where(crystal.numbers == 1, 2.014, 15.999))
    assert gas_molecule(crystal).get_masses().tolist() == [15.999, 2.014, 2.014]
    scaled = scale_rigid(crystal, perceive_molecules(crystal), 200.0)
    assert scaled.get_masses().tolist() == crystal.get_masses().tolist()
