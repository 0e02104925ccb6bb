"""Thermodynamics against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.science.averages.thermodynamics import (
    Estimate,
    classical_kinetic_energy,
    crystal_enthalpy,
    density,
    fixed_centre_of_mass_energy,
    gas_enthalpy,
    sublimation_enthalpy,
    temperature_warning,
)

RT_100K = 8.314462618e-3 * 100  # kJ/mol


def test_density_of_water_molecules():
    # 8 molecules of 18.015 g/mol in 256 cubic angstrom: 8 * 18.015 / 6.02214076e23 / 256e-24
    assert density(8 * 18.015, [256.0, 512.0]) == pytest.approx([0.934827, 0.467414], rel=1e-5)


def test_kinetic_energy_is_three_halves_rt_per_atom():
    assert classical_kinetic_energy(3, 100.0) * EV_KJMOL == pytest.approx(4.5 * RT_100K, rel=1e-6)
    assert fixed_centre_of_mass_energy(8, 100.0) * EV_KJMOL == pytest.approx(1.5 * RT_100K / 8, rel=1e-6)


def test_crystal_enthalpy_per_molecule():
    # two molecules of three atoms: (-2 eV + K + p V) / 2; 1 GPa * 160.2176634 A^3 = 1 eV
    enthalpy = crystal_enthalpy([-2.0], [160.2176634], n_atoms=6, n_molecules=2, temperature=100.0, pressure=1e4)
    assert enthalpy[0] * EV_KJMOL == pytest.approx((-2 + 1) / 2 * 96.48533212 + 4.5 * RT_100K, rel=1e-6)


def test_gas_enthalpy_holds_kt():
    assert gas_enthalpy([-1.0], 3, 100.0)[0] * EV_KJMOL == pytest.approx(-96.48533212 + 5.5 * RT_100K, rel=1e-6)


def test_sublimation_enthalpy_is_positive_for_a_stable_crystal_and_kinetic_energy_cancels():
    crystal = crystal_enthalpy([-1.2], [0.0], n_atoms=3, n_molecules=1, temperature=100.0, pressure=0.0)[0]
    gas = gas_enthalpy([-0.6], 3, 100.0)[0]
    result = sublimation_enthalpy(Estimate(gas, 0.003), Estimate(crystal, 0.004))
    assert result.value * EV_KJMOL == pytest.approx(0.6 * 96.48533212 + RT_100K, rel=1e-6)
    assert result.error == pytest.approx(0.005)
    assert math.isinf(sublimation_enthalpy(Estimate(gas, math.inf), Estimate(crystal, 0.1)).error)


def test_temperature_off_the_target_is_marked():
    temperatures = 100.0 + 10 * np.random.default_rng(0).normal(size=1000)
    assert temperature_warning(temperatures, 100.0) is None
    assert "off the 105 K asked for" in temperature_warning(temperatures, 105.0)


def test_impossible_input_is_refused():
    with pytest.raises(MlFinetuneError, match="must be positive, got -5"):
        gas_enthalpy([-1.0], 3, -5.0)
    with pytest.raises(MlFinetuneError, match="positive volumes"):
        density(18.0, [100.0, math.nan])
    with pytest.raises(MlFinetuneError, match="2 energies do not go with 1 volumes"):
        crystal_enthalpy([1.0, 2.0], [1.0], 3, 1, 100.0, 1.0)
    with pytest.raises(MlFinetuneError, match="needs molecules"):
        crystal_enthalpy([1.0], [1.0], 3, 0, 100.0, 1.0)
