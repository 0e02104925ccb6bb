"""The same model and crystal under two families of barostats: i-PI's flexible cell and ASE's full MTK cell."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import units
from ase.md.nose_hoover_chain import MTKNPT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from mace.calculators import MACECalculator

from aiida_mlfinetune.calculations.functions import observables, thermodynamics
from aiida_mlfinetune.common.units import AMU_A3_G_CM3, BAR_EV_A3
from aiida_mlfinetune.data.foundations import FOUNDATIONS, load_foundation
from aiida_mlfinetune.science.averages.statistics import time_average
from aiida_mlfinetune.science.crystals.ices import IceSpec, build_ice
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain

TEMPERATURE_K, PRESSURE_BAR, TIMESTEP_FS = 100.0, 1.0, 0.5
N_STEPS, N_STEPS_ASE = 100_000, 60_000
THERMOSTAT_FS, BAROSTAT_FS = 100.0, 500.0
STRIDE = 20
N_SIGMA = 2.0
RUN_MINUTES, ANALYSIS_SECONDS = 60.0, 60.0


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_density_under_two_families_of_barostats(ipi_code, validated):
    """50 ps of ice VIII by i-PI and 30 ps by ASE; densities agree within two standard errors.

    The work chain of the former has an hour, and the analysis a minute of it.
    """
    crystal = build_ice(IceSpec("VIII", seed=1))
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
    run.run(N_STEPS_ASE)
    theirs = time_average(atoms.get_masses().sum() * AMU_A3_G_CM3 / np.array(volumes))

    parameters = {
        "n_steps": N_STEPS,
        "stride": STRIDE,
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
    began = time.monotonic()
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    ran = time.monotonic()
    ours = analysed(outputs, node)
    run_minutes, analysis_seconds = (ran - began) / 60, time.monotonic() - ran

    error = math.hypot(ours.error, theirs.error)
    validated(
        "Density under two barostats",
        f"Ice VIII, 24 atoms, {TEMPERATURE_K:g} K, {PRESSURE_BAR:g} bar, {N_STEPS * TIMESTEP_FS / 1000:g} ps with "
        f"ice-xtb: i-PI's flexible cell with Langevin thermostats, against {N_STEPS_ASE * TIMESTEP_FS / 1000:g} ps of "
        "ASE's MTKNPT. The analysis is that of averages, fluctuations, distribution functions, diffusion and "
        f"coordination, of {N_STEPS // STRIDE + 1} frames.",
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
        {
            "quantity": f"work chain of {N_STEPS * TIMESTEP_FS / 1000:g} ps, one thread",
            "value": round(run_minutes, 1),
            "unit": "min",
            "bound": RUN_MINUTES,
        },
        {
            "quantity": "its analysis",
            "value": round(analysis_seconds, 1),
            "unit": "s",
            "bound": ANALYSIS_SECONDS,
        },
    )
    assert error < 0.005
    assert abs(ours.value - theirs.mean) < N_SIGMA * error
    assert run_minutes + analysis_seconds / 60 < RUN_MINUTES
    assert analysis_seconds < ANALYSIS_SECONDS


def analysed(outputs, node):
    """Make every observable that there is for a run of a crystal, and return the density."""
    frames, properties = outputs["trajectory"], outputs["properties"]
    structure, conditions = node.inputs.structure, node.inputs.parameters
    pairs = orm.Dict({"pairs": [["O", "O"], ["O", "H"], ["H", "H"]], "r_max_A": 3.0})
    neighbours = orm.Dict({"centre": "O", "neighbour": "H", "r_min_A": 1.5})
    observables.radial_distribution(frames, properties, conditions, pairs)
    observables.mean_squared_displacement(frames, properties, conditions, orm.Dict({"element": "O"}))
    observables.coordination_number(frames, properties, conditions, neighbours)
    observables.cell_vectors(properties, conditions)
    for function in (
        observables.potential_energy,
        observables.heat_capacity,
        observables.temperature_check,
        observables.density_histogram,
        thermodynamics.crystal_enthalpy,
    ):
        function(properties, structure, conditions)
    return thermodynamics.density(properties, structure, conditions)
