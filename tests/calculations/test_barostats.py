"""The barostats of ``mlfinetune.ipi``: an ideal gas, whose averages are known, and the other family of barostats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from aiida import orm
from ase import Atoms
from ase.units import Hartree

from aiida_mlfinetune.calculations.functions.observables import temperature_check
from aiida_mlfinetune.calculations.functions.thermodynamics import density
from aiida_mlfinetune.common.units import AMU_A3_G_CM3, BAR_EV_A3, KB_EV
from aiida_mlfinetune.science.averages.statistics import time_average
from aiida_mlfinetune.science.averages.thermodynamics import crystal_enthalpy
from tests.calculations.test_ipi import run_ipi  # noqa: F401 - a fixture
from tests.fixtures import ideal_gas_driver

TEMPERATURE_K = 300.0
N_ATOMS = 8
EDGE_A = 10.0
PRESSURE_BAR = N_ATOMS * KB_EV * TEMPERATURE_K / EDGE_A**3 / BAR_EV_A3
START = 50
"""Rows that are left out at the start."""


def mean_shape_energy(thermal: float) -> float:
    """Return the mean in eV of c [tr(h h^T) / V^(2/3) - 3] over the shapes of a flexible cell, by quadrature.

    In the elements of the triangular h, whose measure is flat, the three off the diagonal are harmonic, k T / 2 each.
    The diagonal is exp(x, y, -x - y) V^(1/3), with the flat measure in x and y.
    """
    stiffness = ideal_gas_driver.STIFFNESS * Hartree
    x, y = np.meshgrid(*2 * [np.linspace(-2.0, 2.0, 801)])
    energy = stiffness * (np.exp(2 * x) + np.exp(2 * y) + np.exp(-2 * (x + y)) - 3)
    return float(1.5 * thermal + np.average(energy, weights=np.exp(-energy / thermal)))


@pytest.mark.parametrize(("ensemble", "n_effective", "n_cell"), [("npt-isotropic", 8, 1), ("npt-flexible", 9, 6)])
def test_an_ideal_gas(run_ipi, tiny_model, monkeypatch, ensemble, n_effective, n_cell):  # noqa: F811
    """Volume, density and the motion of the cell within four standard errors of the exact ones.

    With the centre of mass at rest the virial theorem gives p <V> = (N - 1) k T from the atoms, and k T more under an
    isotropic barostat, 2 k T under the flexible one, from the measures of their cells. Under the isotropic one the
    volume has a gamma distribution, for which <1/V> = p / (N - 1) k T. The enthalpy is 3/2 N k T + p <V>, and what the
    potential that holds the shape of a flexible cell has on average.
    """
    text = Path(ideal_gas_driver.__file__).read_text()
    monkeypatch.setattr("aiida_mlfinetune.calculations.ipi.program_text", lambda name: text)
    grid = np.indices((2, 2, 2)).reshape(3, -1).T * EDGE_A / 2 + 1.0
    atoms = Atoms(f"H{N_ATOMS}", positions=grid, cell=np.eye(3) * EDGE_A, pbc=True)
    results, node = run_ipi(
        tiny_model,
        atoms,
        ensemble=ensemble,
        temperature_K=TEMPERATURE_K,
        pressure_bar=PRESSURE_BAR,
        timestep_fs=4.0,
        allow_large_timestep=True,
        n_steps=6000,
        stride=600,
        properties_stride=5,
        thermostat_tau_fs=20.0,
        barostat_tau_fs=40.0,
        volume_factor_limits=[0.001, 1000.0],
    )
    assert node.is_finished_ok, node.exit_message
    arrays = {name: results["properties"].get_array(name) for name in results["properties"].get_arraynames()}
    thermal = KB_EV * TEMPERATURE_K
    work = time_average(PRESSURE_BAR * BAR_EV_A3 * arrays["volume_A3"][START:] / thermal, equilibration=0)
    assert work.error < 0.05 * N_ATOMS
    assert abs(work.mean - n_effective) < 4 * work.error, work
    cell = arrays["cell_kinetic_energy_eV"]
    assert np.isnan(cell[0])
    motion = time_average(cell[START:] / (0.5 * thermal), equilibration=0)
    assert abs(motion.mean - n_cell) < 4 * motion.error, motion
    conditions = orm.Dict({"temperature_K": TEMPERATURE_K, "ensemble": ensemble})
    structure = orm.StructureData(ase=atoms)
    check = temperature_check(results["properties"], structure, conditions)
    assert check.details["parts"]["cell"]["n_degrees"] == n_cell
    assert check.details["canonical"], check.warnings
    exact = (1.5 * N_ATOMS + n_effective) * thermal + (mean_shape_energy(thermal) if n_cell > 1 else 0.0)
    series = crystal_enthalpy(
        arrays["potential_energy_eV"], arrays["volume_A3"], N_ATOMS, N_ATOMS, TEMPERATURE_K, PRESSURE_BAR
    )
    enthalpy = time_average(series[START:], equilibration=0)
    assert abs(enthalpy.mean - exact / N_ATOMS) < 4 * enthalpy.error, (enthalpy, exact / N_ATOMS)
    if ensemble == "npt-isotropic":
        np.testing.assert_allclose(arrays["potential_energy_eV"], 0.0, atol=1e-9)
        found = density(results["properties"], structure, conditions)
        exact = atoms.get_masses().sum() * AMU_A3_G_CM3 * PRESSURE_BAR * BAR_EV_A3 / ((N_ATOMS - 1) * thermal)
        assert abs(found.value - exact) < 4 * found.error
