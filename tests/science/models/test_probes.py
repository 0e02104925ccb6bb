"""The frames that a model is asked about are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import atomic_numbers, covalent_radii

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.crystals.crystals import build_crystal
from aiida_mlfinetune.science.datasets.distances import smallest_distances
from aiida_mlfinetune.science.models.probes import Probe, ProbeKind, Probes, ProbeSettings, make_probes

R_MAX = 4.0
SETTINGS = ProbeSettings(n_volumes=7, n_dissociation=10, n_distances=6)


@pytest.fixture(scope="module")
def ice() -> Probes:
    return make_probes(build_crystal("ice-xi"), ["H", "O"], R_MAX, SETTINGS)


def of_kind(probes: Probes, kind: ProbeKind) -> dict[str, Probe]:
    return {probe.name: probe for probe in probes.series if probe.kind is kind}


def test_every_frame_belongs_to_one_series(ice):
    assert [index for probe in ice.series for index in probe.indices] == list(range(len(ice.frames)))
    assert ice.left_out == {}
    for probe in ice.series:
        assert len(probe.coordinates) in (0, probe.n_frames)
        assert Probe.from_dict(probe.to_dict()) == probe


def test_volumes_cover_the_range_with_rigid_molecules(ice):
    (probe,) = of_kind(ice, ProbeKind.VOLUME).values()
    start = build_crystal("ice-xi")
    volumes = ice.frames.volumes[list(probe.indices)]
    np.testing.assert_allclose(volumes, probe.coordinates)
    np.testing.assert_allclose(volumes[[0, -1]] / start.get_volume(), SETTINGS.volume_range)
    bonds = smallest_distances(ice.frames.select(list(probe.indices)))
    np.testing.assert_allclose(bonds.values[:, bonds.pairs.index("H-O")], 0.985, atol=1e-6)


def test_atoms_are_alone(ice):
    probes = of_kind(ice, ProbeKind.ATOM)
    assert set(probes) == {"H", "O"}
    for element, probe in probes.items():
        assert ice.frames.atoms(probe.first).get_chemical_symbols() == [element]


def test_a_molecule_dissociates_beyond_the_cutoff(ice):
    (probe,) = of_kind(ice, ProbeKind.DISSOCIATION).values()
    last = ice.frames.atoms(probe.indices[-1])
    assert min(last.get_distance(i, j) for i, j in ((0, 1), (0, 2), (1, 2))) > R_MAX
    assert not last.pbc.any()
    assert probe.coordinates[0] == pytest.approx(0.9)
    assert np.all(np.diff(probe.coordinates) > 0)


@pytest.mark.parametrize("name", ["H-H", "H-O", "O-O"])
def test_molecules_are_brought_together_at_the_pair_that_is_named(ice, name):
    probe = of_kind(ice, ProbeKind.DISTANCE)[name]
    one, two = name.split("-")
    bond = covalent_radii[[atomic_numbers[one], atomic_numbers[two]]].sum()
    assert probe.coordinates[-1] == pytest.approx(bond)
    assert np.all(np.diff(probe.coordinates) < 0)
    for index, distance in zip(probe.indices, probe.coordinates, strict=True):
        image = ice.frames.atoms(index)
        between = image.get_all_distances()[:3, 3:]
        place = np.unravel_index(between.argmin(), between.shape)
        assert between.min() == pytest.approx(distance)
        symbols = image.get_chemical_symbols()
        assert {symbols[place[0]], symbols[3 + place[1]]} == {one, two}
        for own in (image[:3], image[3:]):
            assert own.get_distance(0, 1) == pytest.approx(0.985, abs=1e-6)


def test_bare_atoms_come_closer_than_a_bond(ice):
    probes = of_kind(ice, ProbeKind.DIATOMIC)
    assert set(probes) == {"H-H", "H-O", "O-O"}
    probe = probes["O-O"]
    assert [ice.frames.atoms(index).get_distance(0, 1) for index in probe.indices] == pytest.approx(probe.coordinates)
    assert probe.coordinates[0] / probe.coordinates[-1] == pytest.approx(1 / 0.6)


def test_an_atom_in_the_middle_of_its_molecule_is_reached_from_the_side():
    dry_ice = make_probes(build_crystal("carbon-dioxide"), ["C", "O"], R_MAX, SETTINGS)
    probe = of_kind(dry_ice, ProbeKind.DISTANCE)["C-C"]
    for index, distance in zip(probe.indices, probe.coordinates, strict=True):
        between = dry_ice.frames.atoms(index).get_all_distances()[:3, 3:]
        assert between.min() == pytest.approx(distance)


def test_what_cannot_be_made_is_left_out_with_its_reason():
    gas = make_probes(molecule("H2O"), ["H", "O"], R_MAX, SETTINGS)
    assert set(gas.left_out) == {"volume"}
    assert not of_kind(gas, ProbeKind.VOLUME)
    assert of_kind(gas, ProbeKind.DISSOCIATION)
    salt = make_probes(bulk("NaCl", "rocksalt", a=5.64, cubic=True), ["Na", "Cl"], R_MAX, SETTINGS)
    assert "network" in salt.left_out["molecules"]
    assert not of_kind(salt, ProbeKind.DISTANCE)
    (probe,) = of_kind(salt, ProbeKind.VOLUME).values()
    np.testing.assert_allclose(salt.frames.volumes[list(probe.indices)], probe.coordinates)
    assert set(of_kind(salt, ProbeKind.DIATOMIC)) == {"Na-Na", "Na-Cl", "Cl-Cl"}


def test_a_single_atom_is_no_molecule_that_dissociates():
    argon = Atoms("Ar2", positions=[[0, 0, 0], [2.5, 2.5, 2.5]], cell=[5.0, 5.0, 5.0], pbc=True)
    probes = make_probes(argon, ["Ar"], R_MAX, SETTINGS)
    assert not of_kind(probes, ProbeKind.DISSOCIATION)
    assert set(of_kind(probes, ProbeKind.DISTANCE)) == {"Ar-Ar"}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"volume_range": [1.1, 1.3]}, "own volume"),
        ({"volume_range": [0.9]}, "two positive numbers"),
        ({"n_volumes": 3}, "at least 7"),
        ({"n_distances": 2.5}, "whole number"),
        ({"bare_fractions": [0.5, 0.8]}, "far, close"),
        ({"dissociation_start": 1.2}, "below 1"),
        ({"contact_fraction": -1}, "positive number"),
        ({"n_volume": 9}, "unknown entries"),
    ],
)
def test_impossible_settings_are_refused(values, reason):
    with pytest.raises(StudyError, match=reason):
        ProbeSettings.from_dict(values)


def test_settings_survive_json():
    assert ProbeSettings.from_dict(SETTINGS.to_dict()) == SETTINGS
