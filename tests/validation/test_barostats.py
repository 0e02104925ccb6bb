"""The same model and crystal under two families of barostats: i-PI's flexible cell and ASE's full MTK cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import units
from ase.md.nose_hoover_chain import MTKNPT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from mace.calculators import MACECalculator

from aiida_mlfinetune.calculations.functions.thermodynamics import density
from aiida_mlfinetune.common.units import AMU_A3_G_CM3, BAR_EV_A3
from aiida_mlfinetune.data.foundations import FOUNDATIONS, load_foundation
from aiida_mlfinetune.science.averages.statistics import time_average
from aiida_mlfinetune.science.crystals.ices import IceSpec, build_ice
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain

TEMPERATURE_K, PRESSURE_BAR, TIMESTEP_FS = 100.0, 1.0, 0.5
N_STEPS = 60_000
THERMOSTAT_FS, BAROSTAT_FS = 100.0, 500.0
STRIDE = 20
N_SIGMA = 2.0


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_density_under_two_families_of_barostats(ipi_code, validated):
    """Thirty picoseconds of ice VIII each, which stays what it is; the densities agree within two standard errors."""
    crystal = build_ice(IceSpec("VIII", seed=1))
    parameters = {
        "n_steps": N_STEPS,
        "stride": STRIDE * 10,
        "properties_stride": STRIDE,
        "thermostat_tau_fs": THERMOSTAT_FS,
        "barostat_tau_fs": BAROSTAT_FS,
        "timestep_fs": TIMESTEP_FS,
    }
    builder = DynamicsWorkChain.get_builder_from_protocol(
        ipi_code,
        orm.StructureData(ase=crystal),
        load_foundation("ice-xtb"),
        "balanced",
        {"parameters": parameters},
        ensemble="npt-flexible",
        temperature_K=TEMPERATURE_K,
        pressure_bar=PRESSURE_BAR,
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    ours = density(outputs["properties"], builder.structure, builder.parameters)

    atoms = crystal.copy()
    atoms.calc = MACECalculator(FOUNDATIONS["ice-xtb"].path, device="cpu", default_dtype="float64")
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE_K, rng=np.random.RandomState(1))
    run = MTKNPT(
        atoms,
        timestep=TIMESTEP_FS * units.fs,
        temperature_K=TEMPERATURE_K,
        pressure_au=PRESSURE_BAR * BAR_EV_A3,
        tdamp=THERMOSTAT_FS * units.fs,
        pdamp=BAROSTAT_FS * units.fs,
    )
    volumes: list[float] = []
    run.attach(lambda: volumes.append(atoms.get_volume()), interval=STRIDE)
    run.run(N_STEPS)
    theirs = time_average(atoms.get_masses().sum() * AMU_A3_G_CM3 / np.array(volumes))

    error = math.hypot(ours.error, theirs.error)
    validated(
        "Density under two barostats",
        f"Ice VIII, 24 atoms, {TEMPERATURE_K:g} K, {PRESSURE_BAR:g} bar, {N_STEPS * TIMESTEP_FS / 1000:g} ps with "
        "ice-xtb: i-PI's flexible cell with Langevin thermostats, against ASE's MTKNPT.",
        {},
        {
            "quantity": "density, i-PI",
            "value": round(ours.value, 4),
            "unit": "g/cm³",
            "reference": round(theirs.mean, 4),
            "bound": round(N_SIGMA * error, 4),
            "source": "ASE, MTKNPT, the same model",
        },
        {"quantity": "standard error, i-PI", "value": round(ours.error, 5), "unit": "g/cm³"},
        {"quantity": "standard error, ASE", "value": round(theirs.error, 5), "unit": "g/cm³"},
    )
    assert error < 0.005
    assert abs(ours.value - theirs.mean) < N_SIGMA * error
