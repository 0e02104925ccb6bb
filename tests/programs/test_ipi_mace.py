"""The potential that i-PI calls, against MACE's own calculator."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from ase.build import molecule
from ase.neighborlist import neighbor_list
from mace.calculators import MACECalculator

from aiida_mlfinetune.data.foundations import FOUNDATIONS
from aiida_mlfinetune.programs import ipi_mace
from aiida_mlfinetune.programs.ipi_mace import MaceDriver, MacePotential, PairList
from tests.calculations.test_ipi import ice_cell
from tests.fixtures.models import make_tiny_model


@pytest.fixture(autouse=True)
def default_dtype():
    import torch

    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def path(atoms: Atoms, n: int, seed: int = 0):
    """Yield a random walk of positions and cell, atoms scattered over many images."""
    rng = np.random.default_rng(seed)
    image = atoms.copy()
    image.positions += rng.integers(-3, 4, (len(image), 3)) @ image.cell.array
    for _ in range(n):
        image.set_cell(image.cell.array @ (np.eye(3) + rng.normal(scale=0.004, size=(3, 3))), scale_atoms=True)
        image.positions += rng.normal(scale=0.02, size=image.positions.shape)
        yield image.copy()


@pytest.mark.parametrize("by_edges", [True, False])
def test_equals_mace_along_a_path_with_changing_cell(tiny_model_file, by_edges):
    atoms = ice_cell()
    potential = MacePotential(str(tiny_model_file), atoms.numbers.tolist(), [True] * 3)
    assert potential.by_edges
    potential.by_edges = by_edges
    calculator = MACECalculator(tiny_model_file, device="cpu", default_dtype="float64")
    n = 25
    for image in path(atoms, n):
        energies, forces, virials = potential.compute([image.cell.array], [image.positions])
        image.calc = calculator
        assert energies[0] == pytest.approx(image.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(forces[0], image.get_forces(), atol=1e-10)
        np.testing.assert_allclose(virials[0], -image.get_stress(voigt=False) * image.get_volume(), atol=1e-10)
    assert 1 < potential.lists[0].n_searches < n


@pytest.mark.parametrize("shipped", [True, False])
def test_forces_are_the_same_to_the_bit_wherever_a_run_was_restarted(tiny_model_file, shipped):
    atoms = ice_cell()
    file = str(FOUNDATIONS["ice-xtb"].path if shipped else tiny_model_file)
    images = list(path(atoms, 25))
    results = []
    for start in (0, 9, 20):
        potential = MacePotential(file, atoms.numbers.tolist(), [True] * 3)
        found = [potential.compute([image.cell.array], [image.positions]) for image in images[start:]]
        results.append(found[20 - start :])
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_beads_in_one_pass_equal_one_by_one(tiny_model_file):
    atoms = ice_cell()
    potential = MacePotential(str(tiny_model_file), atoms.numbers.tolist(), [True] * 3)
    images = list(path(atoms, 3))
    cells, positions = [i.cell.array for i in images], [i.positions for i in images]
    together = potential.compute(cells, positions)
    for i in range(3):
        for one, all_ in zip(potential.compute(cells[i : i + 1], positions[i : i + 1]), together, strict=True):
            np.testing.assert_allclose(one[0], all_[i], atol=1e-10)


def test_single_precision_far_from_the_origin(tiny_model_file):
    atoms = ice_cell()
    exact = MacePotential(str(tiny_model_file), atoms.numbers.tolist(), [True] * 3)
    reference = exact.compute([atoms.cell.array], [atoms.positions])
    single = MacePotential(str(tiny_model_file), atoms.numbers.tolist(), [True] * 3, dtype="float32")
    energies, forces, virials = single.compute([atoms.cell.array], [atoms.positions + 1000.0])
    np.testing.assert_allclose(energies, reference[0], rtol=1e-6)
    np.testing.assert_allclose(forces, reference[1], atol=1e-5)
    np.testing.assert_allclose(virials, reference[2], atol=1e-5)


@pytest.mark.parametrize("atoms", [molecule("H2O"), Atoms("O"), Atoms("OH", [[0, 0, 0], [0, 0, 50]])])
def test_without_a_cell(tiny_model_file, atoms):
    potential = MacePotential(str(tiny_model_file), atoms.numbers.tolist(), [False] * 3)
    energies, forces, _ = potential.compute([np.eye(3) * 1000], [atoms.positions])
    atoms.calc = MACECalculator(tiny_model_file, device="cpu", default_dtype="float64")
    assert energies[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    np.testing.assert_allclose(forces[0], atoms.get_forces(), atol=1e-10)


def test_head_is_chosen_by_name(tmp_path):
    file = make_tiny_model(tmp_path / "two.model", ("H", "O"), heads=("low", "high"))
    atoms = ice_cell()
    numbers = atoms.numbers.tolist()
    energies = {}
    for head in ("low", "high"):
        potential = MacePotential(str(file), numbers, [True] * 3, head=head)
        energies[head] = potential.compute([atoms.cell.array], [atoms.positions])[0][0]
        atoms.calc = MACECalculator(file, device="cpu", default_dtype="float64", head=head)
        assert energies[head] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    assert energies["low"] != energies["high"]
    for head in (None, "middle"):
        with pytest.raises(ValueError, match="choose one of \\['low', 'high'\\]"):
            MacePotential(str(file), numbers, [True] * 3, head=head)


def test_unknown_element(tiny_model_file):
    with pytest.raises(ValueError, match="does not know the atomic numbers \\[6\\]"):
        MacePotential(str(tiny_model_file), [6, 8, 8], [False] * 3)


@pytest.mark.parametrize("skin", [0.0, 0.3, 1.5])
def test_no_pair_is_ever_missed(skin):
    """Cells that shear and shrink quickly, smaller than the cutoff: the same pairs as from a fresh search."""
    rng = np.random.default_rng(1)
    atoms = Atoms("H5", rng.uniform(0, 3, (5, 3)), cell=np.eye(3) * 3 + rng.normal(scale=0.2, size=(3, 3)), pbc=True)
    pairs = PairList(3.5, skin, (True, True, True))
    for image in path(atoms, 40):
        index, _, vectors, lengths = pairs.edges(image.positions, image.cell.array)
        i, j, distance = neighbor_list("ijD", image, 3.5)
        found = sorted((a, b, *np.round(d, 6)) for a, b, d in zip(*index, vectors, strict=True))
        assert found == sorted((a, b, *np.round(d, 6)) for a, b, d in zip(i, j, distance, strict=True))
        np.testing.assert_allclose(lengths, np.linalg.norm(vectors, axis=1))
    assert pairs.n_searches == 40 if skin == 0 else pairs.n_searches < 40


@pytest.fixture
def make_driver(tmp_path, monkeypatch, tiny_model_file):
    """Return a function that makes a driver; i-PI's exit raises ``SystemExit`` alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ipi_mace.softexit, "trigger", lambda status, message: (_ for _ in ()).throw(SystemExit(status)))

    def make(atoms, **changes):
        settings = {
            "model": str(tiny_model_file),
            "numbers": atoms.numbers.tolist(),
            "pbc": atoms.pbc.tolist(),
            "head": "Default",
            "dtype": "float64",
            "device": "cpu",
            "skin_A": 0.5,
            "min_distance_A": 0.4,
            "max_force_eV_A": 200.0,
            "max_displacement_A": 0.5,
            "reference_volume_A3": atoms.get_volume(),
            "volume_factor_limits": [0.4, 2.5],
        }
        (tmp_path / "driver.json").write_text(json.dumps({**settings, **changes}))
        return MaceDriver("driver.json")

    return make


def bohr(driver, atoms):
    return atoms.cell.array.T * driver.length, (atoms.positions * driver.length).ravel()


def test_units_of_ipi(make_driver, tiny_model_file):
    from ase import units

    atoms = ice_cell()
    driver = make_driver(atoms)
    energy, forces, virial, _ = driver(*bohr(driver, atoms))
    atoms.calc = MACECalculator(tiny_model_file, device="cpu", default_dtype="float64")
    assert energy == pytest.approx(atoms.get_potential_energy() / units.Hartree, rel=1e-12)
    np.testing.assert_allclose(forces, atoms.get_forces() * units.Bohr / units.Hartree, atol=1e-12)
    stress = atoms.get_stress(voigt=False) * atoms.get_volume()
    np.testing.assert_allclose(virial, -stress / units.Hartree, atol=1e-12)


def test_batches_of_beads_keep_their_own_pairs_and_displacements(make_driver):
    """Beads that are 0.6 A apart, in batches of two, with a limit of 0.5 A a step: the same as all four at once."""
    beads = [ice_cell() for _ in range(4)]
    for bead, shift in zip(beads, (0.0, 0.2, 0.6, 0.8), strict=True):
        bead.positions += shift
    together, halves = make_driver(beads[0]), make_driver(beads[0], n_batches=2)
    for _ in range(3):
        for bead in beads:
            bead.positions[0] += 0.01
        inputs = [bohr(halves, bead) for bead in beads]
        expected = together([cell for cell, _ in inputs], [q for _, q in inputs])
        found = [one for pair in (inputs[:2], inputs[2:]) for one in halves([c for c, _ in pair], [q for _, q in pair])]
        for one, other in zip(found, expected, strict=True):
            assert one[0] == pytest.approx(other[0], abs=1e-12)
            np.testing.assert_allclose(one[1], other[1], atol=1e-12)
    assert [pairs.n_searches for pairs in halves.potential.lists] == [1] * 4


def test_temperature_of_the_centroids(make_driver, tmp_path):
    """Beads that move apart have cold centroids; atoms that all move at the speed of a temperature have it."""
    from ase import units

    atoms, masses, limit = ice_cell(), ice_cell().get_masses(), 1000.0
    changes = {"masses": masses.tolist(), "timestep_fs": 0.5, "max_temperature_K": limit, "n_batches": 2}
    driver = make_driver(atoms, **changes)
    for step in range(3):
        for sign in (-1, 1):
            bead = atoms.copy()
            bead.positions += 0.1 * sign * step
            driver(*bohr(driver, bead))
    assert not (tmp_path / "driver_stop.json").exists()
    speed = np.sqrt(3 * units.kB * 1.05 * limit / masses)[:, None] * [1.0, 0.0, 0.0]
    for step in (2, 3):
        bead = atoms.copy()
        bead.positions += (step - 2) * speed * 0.5 * units.fs
        if step == 2:
            driver(*bohr(driver, bead)), driver(*bohr(driver, bead))
    driver(*bohr(driver, bead))
    with pytest.raises(SystemExit):
        driver(*bohr(driver, bead))
    stop = json.loads((tmp_path / "driver_stop.json").read_text())
    assert stop["reason"] == "temperature"
    assert "1050 K" in stop["message"]


def test_a_moving_cell_heats_no_atoms(make_driver, tmp_path):
    """A small cell under a fast barostat carries its atoms along, here as fast as those of 1000 K are on average."""
    from ase import units

    atoms, limit = ice_cell(), 500.0
    atoms.positions -= atoms.cell.array.sum(axis=0)  # away from the origin, as i-PI does not wrap
    masses = atoms.get_masses()
    driver = make_driver(atoms, masses=masses.tolist(), timestep_fs=0.5, max_temperature_K=limit)
    strain = np.array([[0.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [2.0, 1.0, -1.0]])
    carried = 3 * len(atoms) * units.kB * 1000.0 / (masses[:, None] * (atoms.positions @ strain) ** 2).sum()
    strain *= np.sqrt(carried) * 0.5 * units.fs
    for _ in range(3):
        driver(*bohr(driver, atoms))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    assert not (tmp_path / "driver_stop.json").exists()
    atoms.positions += np.sqrt(3 * units.kB * 600.0 / masses)[:, None] * [0.0, 0.0, 0.5 * units.fs]
    with pytest.raises(SystemExit):
        driver(*bohr(driver, atoms))
    assert "600 K" in json.loads((tmp_path / "driver_stop.json").read_text())["message"]


@pytest.mark.parametrize("reason", ["distance", "force", "displacement", "volume", "not_finite"])
def test_what_stops_a_run(make_driver, tmp_path, reason):
    atoms = ice_cell()
    driver = make_driver(atoms, **({"max_force_eV_A": 1e-9} if reason == "force" else {}))
    if reason != "force":
        driver(*bohr(driver, atoms))
    if reason == "distance":
        atoms.positions[1] = atoms.positions[0] + [0, 0, 0.39]
        driver.previous.clear()
    elif reason == "displacement":
        atoms.positions[0, 0] += 0.6
    elif reason == "volume":
        atoms.set_cell(atoms.cell.array * 3)
    elif reason == "not_finite":
        atoms.positions[0, 0] = np.nan
    with pytest.raises(SystemExit, match="bad"):
        driver(*bohr(driver, atoms))
    assert json.loads((tmp_path / "driver_stop.json").read_text())["reason"] == reason


@pytest.mark.parametrize(("isotropic", "n_modes", "mass_factor"), [(True, 1, 3), (False, 6, 1)])
def test_kinetic_energy_of_the_cell(tmp_path, monkeypatch, isotropic, n_modes, mass_factor):
    """Rates drawn from the distribution at 300 K give k T / 2 a degree of freedom, at the steps that are printed."""
    monkeypatch.chdir(tmp_path)
    dt, tau, n_atoms, thermal = 0.5, 200.0, 24, 8.617333e-5 * 300.0
    motion = ipi_mace.CellMotion(10, 2, dt, tau, 300.0, n_atoms, isotropic)
    rng = np.random.default_rng(0)
    cell = np.triu(np.array([[6.0, 0.5, 0.2], [0, 7.0, -0.4], [0, 0, 6.5]]))  # columns are vectors
    exact, rates = [], np.zeros((1, 1))
    for step in range(10, 811):
        motion.add(cell.T)
        if step % 2 == 0 and step > 10:
            exact.append(0.5 * mass_factor * n_atoms * tau**2 * thermal * (rates**2).sum())
        spread = 1 / np.sqrt(mass_factor * n_atoms * tau**2)
        rates = rng.normal() * spread * np.eye(1) if isotropic else np.triu(rng.normal(size=(3, 3))) * spread
        cell = scipy.linalg.expm((rates[0, 0] * np.eye(3) if isotropic else rates) * dt) @ cell
    written = np.loadtxt(tmp_path / "driver_cell.txt")
    assert written[:, 0].tolist() == list(range(12, 811, 2))
    np.testing.assert_allclose(written[:, 1], exact, rtol=1e-5)
    error = 0.5 * thermal * np.sqrt(2 * n_modes / len(written))
    assert abs(written[:, 1].mean() - n_modes * thermal / 2) < 4 * error
