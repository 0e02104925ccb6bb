"""Observables of synthetic runs whose own are known, through the nodes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from aiida import orm
from ase import Atoms

from aiida_mlfinetune.calculations.functions import observables
from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError
from aiida_mlfinetune.common.units import AMU_A3_G_CM3, EV_KJMOL, KB_EV
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.crystals.crystals import ice_xi
from aiida_mlfinetune.science.datasets.frames import Frames

pytestmark = pytest.mark.usefixtures("aiida_profile")

T = 120.0
KT = KB_EV * T
STRIDE = 5
ROWS_PER_FRAME = 5
R = 8.314462618
N_FRAMES = 300
DROPPED = 15
ARGON = Atoms(
    "Ar12Ne4", positions=10 / 3 * np.indices((3, 3, 3)).reshape(3, -1).T[:16], cell=np.eye(3) * 10.0, pbc=True
)


@pytest.fixture(scope="module")
def conditions(aiida_profile):
    return orm.Dict(
        {"temperature_K": T, "pressure_bar": 1.0, "ensemble": "npt-flexible", "timestep_fs": 2.0, "stride": STRIDE}
    )


@pytest.fixture(scope="module")
def gas(aiida_profile):
    """A gas that walks at random in a breathing cell; its first 15 frames are not equilibrated."""
    rng = np.random.default_rng(1)
    cells = np.eye(3) * (10.0 + 0.01 * rng.normal(size=(N_FRAMES, 1, 1)))
    walk = rng.uniform(size=(16, 3)) * 10 + np.cumsum(rng.normal(size=(N_FRAMES, 16, 3)) * 0.4, axis=0)
    images = [Atoms(ARGON.numbers, positions=p, cell=c, pbc=True) for p, c in zip(walk, cells, strict=True)]
    return DatasetData(Frames.from_atoms(images, steps=[i * STRIDE for i in range(N_FRAMES)]))


@pytest.fixture(scope="module")
def properties(aiida_profile):
    rng = np.random.default_rng(2)
    n = N_FRAMES * ROWS_PER_FRAME
    energies = 0.5 * KT * rng.chisquare(45, size=n) - 3.0
    energies[: DROPPED * ROWS_PER_FRAME] += 1.0
    lengths = 10.0 + 0.01 * rng.normal(size=n)
    kinetic = 0.5 * KT * rng.chisquare(45, size=n)
    return orm.ArrayData(
        {
            "step": np.arange(n),
            "time_fs": np.arange(n) * 2.0,
            "potential_energy_eV": energies,
            "kinetic_energy_eV": kinetic,
            "temperature_K": kinetic / (24 * KB_EV),
            "volume_A3": lengths**3,
            "cell_A": np.eye(3) * lengths[:, None, None],
        }
    )


@pytest.fixture(scope="module")
def structure(aiida_profile):
    return orm.StructureData(ase=ARGON)


def test_radial_distribution_of_a_gas(gas, properties, conditions):
    settings = orm.Dict({"pairs": [["Ar", "Ar"], ["Ar", "Ne"]], "r_max_A": 4.5, "n_bins": 9})
    found = observables.radial_distribution(gas, properties, conditions, settings)
    assert sorted(found) == ["Ar_Ar", "Ar_Ne"]
    for name, exact in (("Ar_Ar", 1 - 1 / 12), ("Ar_Ne", 1.0)):
        arrays = found[name].arrays()
        used = arrays["r_A"] > 1.5
        z = (arrays["g"][used] - exact) / arrays["g_error"][used]
        assert np.abs(z).max() < 5
        assert found[name].details["n_frames"] == N_FRAMES - DROPPED  # without the equilibration of the energy
        assert found[name].creator.inputs.trajectory.uuid == gas.uuid
        assert found[name].conditions["temperature_K"] == T


def test_a_distribution_is_compared_with_a_reference(gas, properties, conditions):
    settings = orm.Dict({"pairs": [["Ar", "Ar"]], "r_max_A": 4.5, "n_bins": 9})
    found = observables.radial_distribution(gas, properties, conditions, settings)["Ar_Ar"]
    reference = orm.ArrayData({"r_A": np.linspace(2.0, 5.0, 30), "g": np.full(30, 1 - 1 / 12)})
    same = observables.compare_radial_distribution(found, reference)
    assert same.details["chi_squared"] < 4
    assert same.details["n_bins"] == 5
    other = observables.compare_radial_distribution(
        found, orm.ArrayData({"r_A": reference.get_array("r_A"), "g": np.full(30, 3.0)})
    )
    assert other.value == pytest.approx(0.53, abs=0.05)
    assert other.details["chi_squared"] > 50
    with pytest.raises(MlFinetuneError, match=r"lacks the arrays \['g'\]"):
        observables.compare_radial_distribution(found, orm.ArrayData({"r_A": np.ones(3)}))
    with pytest.raises(MlFinetuneError, match="got the observable 'radial_distribution_difference'"):
        observables.compare_radial_distribution(same, reference)


def test_diffusion_of_one_element(gas, properties, conditions):
    found = observables.mean_squared_displacement(gas, properties, conditions, orm.Dict({"element": "Ar"}))
    exact = 0.4**2 / (2 * STRIDE * 2.0) * 1000.0
    assert (found.name, found.unit) == ("diffusion_coefficient", "angstrom^2/ps")
    assert abs(found.value - exact) < 4 * found.error
    assert found.error < 0.3 * exact
    assert found.arrays()["lag_ps"][1] == pytest.approx(STRIDE * 2.0 / 1000)
    limited = orm.Dict({"element": "Ne", "max_lag_ps": 0.1})
    assert observables.mean_squared_displacement(gas, properties, conditions, limited).arrays()["msd_A2"].shape == (11,)


def test_a_subset_of_a_run_is_read_too(gas, properties, conditions):
    gas.store()
    half = DatasetData.subset(gas, np.arange(0, N_FRAMES, 2)).store()
    found = observables.mean_squared_displacement(half, properties, conditions, orm.Dict({"element": "Ar"}))
    assert found.details["n_frames"] == (N_FRAMES - DROPPED) // 2
    assert found.arrays()["lag_ps"][1] == pytest.approx(2 * STRIDE * 2.0 / 1000)


def test_coordination_number_of_a_gas(gas, properties, conditions):
    settings = orm.Dict({"centre": "Ne", "neighbour": "Ar", "r_min_A": 3.0})
    found = observables.coordination_number(gas, properties, conditions, settings)
    exact = 12 * 4 / 3 * math.pi * 27 / 1000
    assert abs(found.value - exact) < 4 * found.error + 0.03 * exact  # the edge at r_min is soft
    arrays = found.arrays()
    assert arrays["numbers"].shape == (N_FRAMES - DROPPED, 4)
    assert np.nanmin(arrays["free_energy_kJmol"]) == 0.0
    assert found.details["most_stable"] == arrays["coordination"][np.nanargmin(arrays["free_energy_kJmol"])]


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        ("radial_distribution", {"pairs": [["Ar", "O"]], "r_max_A": 4.0}, "no element 'O'"),
        ("radial_distribution", {"pairs": [["Ar", "Ar"]], "r_max_A": 16.0}, "ask for at most 14.959 angstrom"),
        ("radial_distribution", {"pairs": ["Ar"], "r_max_A": 4.0}, "list such as"),
        ("radial_distribution", {"pairs": [["Ar", "Ar"]], "rmax": 4.0}, r"unknown settings \['rmax'\]"),
        ("mean_squared_displacement", {"element": "Ca"}, "no element 'Ca'"),
        ("mean_squared_displacement", {}, r"lack \['element'\]"),
        ("coordination_number", {"centre": "Ca", "neighbour": "Ar", "r_min_A": 3.0}, "no element 'Ca'"),
        ("coordination_number", {"centre": "Ne", "neighbour": "Ar"}, "either r_min_A, or r_max_A"),
    ],
)
def test_what_cannot_be_asked_is_refused(gas, properties, conditions, function, settings, message):
    with pytest.raises(MlFinetuneError, match=message):
        getattr(observables, function)(gas, properties, conditions, orm.Dict(settings))


def test_too_few_frames_are_refused(properties, conditions, gas):
    few = DatasetData(gas.frames.select(np.arange(20)))
    with pytest.raises(FramesError, match="5 frames are left after equilibration"):
        observables.mean_squared_displacement(few, properties, conditions, orm.Dict({"element": "Ar"}))


def test_heat_capacity_at_constant_pressure_and_volume(properties, structure, conditions):
    at_pressure = observables.heat_capacity(properties, structure, conditions)
    units = 4  # Ar3Ne
    assert at_pressure.name == "heat_capacity_cp"
    assert at_pressure.details["units_per_cell"] == units
    assert abs(at_pressure.value - 45 * R / units) < 4 * at_pressure.error
    at_volume = observables.heat_capacity(properties, structure, orm.Dict({**conditions.get_dict(), "ensemble": "nvt"}))
    assert at_volume.name == "heat_capacity_cv"
    assert abs(at_volume.value - 45 * R / units) < 4 * at_volume.error
    for change, message in (({"ensemble": "nve"}, "NVT or NPT"), ({"n_beads": 8}, "8 beads")):
        with pytest.raises(MlFinetuneError, match=message):
            observables.heat_capacity(properties, structure, orm.Dict({**conditions.get_dict(), **change}))


def test_heat_capacity_of_ice_is_per_molecule(properties, conditions):
    found = observables.heat_capacity(properties, orm.StructureData(ase=ice_xi()), conditions)
    assert (found.details["per"], found.details["units_per_cell"]) == ("H2O", 8)


def test_temperature_of_atoms_and_cell(properties, structure, conditions):
    good = observables.temperature_check(properties, structure, conditions)
    assert abs(good.value - T) < 4 * good.error
    assert good.details["canonical"] is True
    assert good.warnings == []
    arrays = {name: properties.get_array(name) for name in properties.get_arraynames()}
    cold = 0.5 * KT * 0.5 * np.random.default_rng(5).chisquare(6, size=N_FRAMES * ROWS_PER_FRAME)
    both = orm.ArrayData({**arrays, "cell_kinetic_energy_eV": cold})
    bad = observables.temperature_check(both, structure, conditions)
    assert bad.details["parts"]["cell"]["temperature_K"] == pytest.approx(T / 2, rel=0.1)
    assert any("no equipartition" in warning for warning in bad.warnings)
    free = observables.temperature_check(both, structure, orm.Dict({**conditions.get_dict(), "ensemble": "nve"}))
    assert free.details["canonical"] is None
    assert free.warnings == []


def test_cell_vectors(properties, conditions):
    found = observables.cell_vectors(properties, conditions)
    assert sorted(found) == ["a", "alpha", "b", "beta", "c", "gamma"]
    assert abs(found["a"].value - 10.0) < 4 * found["a"].error
    assert found["a"].error == pytest.approx(0.01 / math.sqrt(N_FRAMES * ROWS_PER_FRAME), rel=0.2)
    assert (found["gamma"].value, found["gamma"].unit) == (pytest.approx(90.0), "degree")


def test_histograms_of_energy_and_density(properties, structure, conditions):
    energy = observables.potential_energy(properties, structure, conditions)
    assert abs(energy.value - (22.5 * KT - 3.0) * EV_KJMOL / 4) < 4 * energy.error
    density = observables.density_histogram(properties, structure, conditions)
    exact = ARGON.get_masses().sum() * AMU_A3_G_CM3 / 1000
    assert density.value == pytest.approx(exact, rel=1e-3)
    for found, axis in ((energy, "energy_kJmol"), (density, "density_g_cm3")):
        arrays = found.arrays()
        width = arrays[axis][1] - arrays[axis][0]
        assert arrays["probability_density"].sum() * width == pytest.approx(1.0)
        assert (arrays["probability_density_error"] > 0).all()


def test_a_molecule_has_no_cell_and_no_density(structure, conditions):
    arrays = {name: np.ones(20) for name in ("time_fs", "temperature_K", "potential_energy_eV")}
    molecule = orm.ArrayData({**arrays, "volume_A3": np.full(20, np.nan), "cell_A": np.full((20, 3, 3), np.nan)})
    with pytest.raises(MlFinetuneError, match="no volumes"):
        observables.cell_vectors(molecule, conditions)
    with pytest.raises(MlFinetuneError, match="no volumes"):
        observables.density_histogram(molecule, structure, conditions)


def test_beads_of_a_path_integral_are_one_sample_a_step(gas, properties, conditions):
    """Two equal beads a step give what one gives, with the equilibration left out at the same step."""
    beads = DatasetData(gas.frames.select(np.repeat(np.arange(N_FRAMES), 2)))
    quantum = orm.Dict({**conditions.get_dict(), "n_beads": 2})
    settings = orm.Dict({"pairs": [["Ar", "Ne"]], "r_max_A": 4.5, "n_bins": 9})
    one = observables.radial_distribution(gas, properties, conditions, settings)["Ar_Ne"]
    two = observables.radial_distribution(beads, properties, quantum, settings)["Ar_Ne"]
    for name in ("g", "g_error", "coordination"):
        np.testing.assert_allclose(two.arrays()[name], one.arrays()[name])
    assert two.details["n_frames"] == one.details["n_frames"]
    element = orm.Dict({"element": "Ne"})
    moved = observables.mean_squared_displacement(gas, properties, conditions, element)
    centroids = observables.mean_squared_displacement(beads, properties, quantum, element)
    np.testing.assert_allclose(centroids.arrays()["msd_A2"], moved.arrays()["msd_A2"])
    np.testing.assert_allclose(centroids.arrays()["lag_ps"], moved.arrays()["lag_ps"])
    wrong = orm.Dict({**conditions.get_dict(), "n_beads": 7})
    with pytest.raises(FramesError, match="groups of 7 of one step"):
        observables.radial_distribution(beads, properties, wrong, settings)
