"""Observables computed from the properties of synthetic runs whose averages are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from aiida import orm

from aiida_mlfinetune.calculations.functions.thermodynamics import (
    crystal_enthalpy,
    density,
    extract_molecule,
    gas_enthalpy,
    sublimation_enthalpy,
)
from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError, MoleculesError
from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.science.crystals.crystals import carbon_dioxide, ice_xi

pytestmark = pytest.mark.usefixtures("aiida_profile")

N = 2000
RT = 8.314462618e-3 * 100.0

CRYSTAL_CONDITIONS = {"temperature_K": 100.0, "pressure_bar": 1.0, "ensemble": "npt-flexible", "n_steps": 10000}
GAS_CONDITIONS = {"temperature_K": 100.0, "pressure_bar": 1.0, "ensemble": "nvt"}


def correlated(mean: float, deviation: float, seed: int, n: int = N) -> np.ndarray:
    """Return a series of the given mean and deviation whose correlation time is 4.5 samples."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=n)
    series = np.empty(n)
    series[0] = noise[0]
    for i in range(1, n):
        series[i] = 0.8 * series[i - 1] + 0.6 * noise[i]
    return mean + deviation * series


def run(energy: float, volume: float | None, seed: int = 1, temperature: float = 100.0, n: int = N) -> orm.ArrayData:
    """Return properties in the layout of ``mlfinetune.dynamics``."""
    arrays = {
        "step": np.arange(n) * 5,
        "time_fs": np.arange(n) * 2.5,
        "potential_energy_eV": correlated(energy, 0.05, 10 * seed, n),
        "temperature_K": correlated(temperature, 12.0, 10 * seed + 1, n),
    }
    if volume is not None:
        arrays["volume_A3"] = correlated(volume, 2.0, 10 * seed + 2, n)
    return orm.ArrayData(arrays)


@pytest.fixture(scope="module")
def ice(aiida_profile):
    return orm.StructureData(ase=ice_xi())


@pytest.fixture(scope="module")
def crystal(ice):
    return crystal_enthalpy(run(-100.0, 256.0), ice, orm.Dict(CRYSTAL_CONDITIONS))


@pytest.fixture(scope="module")
def gas(ice):
    return gas_enthalpy(run(-11.9, None, seed=7), extract_molecule(ice), orm.Dict(GAS_CONDITIONS))


def test_the_gas_molecule_is_one_whole_molecule_without_a_cell(ice):
    molecule = extract_molecule(ice)
    assert molecule.is_stored
    assert molecule.pbc == (False, False, False)
    assert molecule.get_formula() == "H2O"
    assert molecule.get_ase().get_all_distances().max() < 1.7
    assert molecule.creator.inputs.structure.uuid == ice.uuid


def test_the_gas_molecule_of_a_bad_crystal_is_refused():
    broken = ice_xi()
    del broken[-1]
    with pytest.raises(MoleculesError, match="7 x H2O"):
        extract_molecule(orm.StructureData(ase=broken))
    flat = ice_xi()
    flat.pbc = [True, True, False]
    with pytest.raises(FramesError, match="periodic in all three"):
        extract_molecule(orm.StructureData(ase=flat))


def test_density_of_a_known_volume(ice):
    result = density(run(-100.0, 256.0), ice, orm.Dict(CRYSTAL_CONDITIONS))
    exact = 8 * 18.015 / 0.602214076 / 256.0
    assert (result.name, result.unit) == ("density", "g/cm^3")
    assert abs(result.value - exact) < 4 * result.error
    # the error of the mean volume: 2 A^3 with statistical inefficiency (1 + 0.8) / (1 - 0.8) = 9
    assert result.error == pytest.approx(exact * 2.0 / 256.0 * math.sqrt(9 / N), rel=0.3)
    assert result.n_independent == pytest.approx(N / 9, rel=0.5)
    assert result.conditions == {
        "temperature_K": 100.0,
        "pressure_bar": 1.0,
        "ensemble": "npt-flexible",
        "n_beads": 1,
    }
    assert result.details["correlation_time_fs"] == pytest.approx(4 * 2.5, rel=0.5)
    assert result.warnings == []
    assert result.arrays()["density"].shape == result.arrays()["time_fs"].shape == (N,)


def test_isotopes_change_the_density():
    heavy = ice_xi()
    heavy.set_masses(np.where(heavy.numbers == 1, 2.014, 15.999))
    conditions = orm.Dict(CRYSTAL_CONDITIONS)
    light = density(run(-1.0, 256.0), orm.StructureData(ase=ice_xi()), conditions)
    assert density(run(-1.0, 256.0), orm.StructureData(ase=heavy), conditions).value == pytest.approx(
        light.value * 20.027 / 18.015, rel=1e-5
    )


def test_a_fixed_cell_has_no_enthalpy(ice):
    for ensemble in ("nvt", "nve"):
        with pytest.raises(MlFinetuneError, match=f"run in '{ensemble}', where its pressure is what the cell makes it"):
            crystal_enthalpy(run(-100.0, 256.0), ice, orm.Dict({**CRYSTAL_CONDITIONS, "ensemble": ensemble}))


def test_crystal_enthalpy_per_molecule(crystal):
    assert (crystal.name, crystal.unit) == ("enthalpy_crystal", "kJ/mol")
    exact = -100.0 / 8 * EV_KJMOL + 4.5 * RT + 256.0 / 8 * 0.1 * 0.602214076e-3
    assert abs(crystal.value - exact) < 4 * crystal.error
    assert crystal.error == pytest.approx(0.05 / 8 * EV_KJMOL * math.sqrt(9 / N), rel=0.3)
    assert crystal.details["n_molecules"] == 8
    assert crystal.details["fixed_centre_of_mass_kJmol"] == pytest.approx(1.5 * RT / 8, rel=1e-6)


def test_gas_enthalpy_has_the_ideal_pv(gas):
    assert abs(gas.value - (-11.9 * EV_KJMOL + 5.5 * RT)) < 4 * gas.error
    assert gas.conditions["ensemble"] == "nvt"


def test_sublimation_enthalpy_is_positive_and_its_error_the_root_of_the_sum_of_squares(crystal, gas):
    result = sublimation_enthalpy(crystal, gas)
    assert (result.name, result.unit) == ("sublimation_enthalpy", "kJ/mol")
    assert result.value == pytest.approx(gas.value - crystal.value)
    assert abs(result.value - (0.6 * EV_KJMOL + RT)) < 4 * result.error + 0.01
    assert result.error == pytest.approx(math.hypot(gas.error, crystal.error))
    assert result.n_independent == min(gas.n_independent, crystal.n_independent)
    assert result.conditions["pressure_bar"] == 1.0
    assert result.creator.inputs.enthalpy_gas.uuid == gas.uuid


def test_warnings_of_crystal_and_gas_are_carried_on_with_their_origin(ice, crystal):
    short = gas_enthalpy(run(-11.9, None, temperature=200.0, n=40), extract_molecule(ice), orm.Dict(GAS_CONDITIONS))
    assert any("independent samples" in warning for warning in short.warnings)
    assert any("off the 100 K asked for" in warning for warning in short.warnings)
    result = sublimation_enthalpy(crystal, short)
    assert all(warning.startswith("enthalpy_gas: ") for warning in result.warnings)
    assert len(result.warnings) == len(short.warnings)


def test_a_run_too_short_for_an_error_gives_an_unknown_error_not_a_wrong_one(ice, crystal):
    short = gas_enthalpy(run(-11.9, None, n=5), extract_molecule(ice), orm.Dict(GAS_CONDITIONS))
    assert math.isinf(short.error)
    result = sublimation_enthalpy(crystal, short)
    assert math.isinf(result.error)
    assert any("too few for an error" in warning for warning in result.warnings)


def test_crystal_and_gas_must_match(ice, crystal, gas):
    dioxide = orm.StructureData(ase=carbon_dioxide())
    other = gas_enthalpy(run(-11.9, None), extract_molecule(dioxide), orm.Dict(GAS_CONDITIONS))
    with pytest.raises(MoleculesError, match="made of H2O, but the gas of CO2"):
        sublimation_enthalpy(crystal, other)
    warmer = gas_enthalpy(run(-11.9, None), extract_molecule(ice), orm.Dict({**GAS_CONDITIONS, "temperature_K": 101.0}))
    with pytest.raises(MlFinetuneError, match="different temperatures"):
        sublimation_enthalpy(crystal, warmer)
    with pytest.raises(MlFinetuneError, match="need the observable 'enthalpy_crystal'"):
        sublimation_enthalpy(gas, crystal)


def test_missing_arrays_and_conditions_are_named(ice):
    with pytest.raises(MlFinetuneError, match="lack the array 'volume_A3'"):
        density(run(-1.0, None), ice, orm.Dict(CRYSTAL_CONDITIONS))
    with pytest.raises(MlFinetuneError, match="lack 'temperature_K'"):
        density(run(-1.0, 256.0), ice, orm.Dict({"pressure_bar": 1.0}))


def test_steps_without_a_printed_volume_are_left_out(ice):
    arrays = {name: run(-1.0, 256.0).get_array(name) for name in run(-1.0, 256.0).get_arraynames()}
    arrays["volume_A3"] = np.where(np.arange(N) % 2 == 0, 256.0 + 0.01 * np.arange(N) % 3, np.nan)
    result = density(orm.ArrayData(arrays), ice, orm.Dict(CRYSTAL_CONDITIONS))
    assert result.arrays()["time_fs"].tolist() == (np.arange(0, N, 2) * 2.5).tolist()
    arrays["volume_A3"] = np.full(N, np.nan)
    with pytest.raises(MlFinetuneError, match="no volumes"):
        density(orm.ArrayData(arrays), ice, orm.Dict(CRYSTAL_CONDITIONS))


def test_equal_runs_give_equal_observables(ice):
    first = density(run(-1.0, 256.0), ice, orm.Dict(CRYSTAL_CONDITIONS))
    second = density(run(-1.0, 256.0), ice, orm.Dict(CRYSTAL_CONDITIONS))
    assert first.base.caching.get_hash() == second.base.caching.get_hash()
