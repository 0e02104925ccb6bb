"""Path integrals and thermostats of ``mlfinetune.ipi`` with real i-PI, on oscillators whose averages are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from aiida import orm
from ase.build import molecule

from aiida_mlfinetune.calculations.functions.thermodynamics import gas_enthalpy
from aiida_mlfinetune.common.units import ATOMIC_TIME_FS, HARTREE_EV, KB_EV
from aiida_mlfinetune.science.averages.statistics import time_average
from tests.calculations.test_ipi import ice_cell, run_ipi  # noqa: F401 - a fixture
from tests.calculations.test_ipi_input import GLE, piglet
from tests.fixtures import harmonic_driver

TEMPERATURE_K = 300.0
PERIOD_FS = 40.0
FREQUENCY_PER_FS = 2 * np.pi / PERIOD_FS
"""h nu / k T is about 4: classical nuclei are far off, and few beads are too few."""


def oscillator_energies(n_beads: int) -> tuple[float, float]:
    """Return potential and kinetic energy (eV) of one oscillator with ``n_beads``, exactly.

    With omega_k = 2 (P / beta hbar) sin(k pi / P), normal mode k has <V> = k T / 2 w^2 / (w^2 + omega_k^2); the
    centroid-virial kinetic energy is k T / 2 and the sum of the same without the centroid (k = 0).
    """
    thermal = KB_EV * TEMPERATURE_K
    quantum = FREQUENCY_PER_FS * ATOMIC_TIME_FS * HARTREE_EV
    modes = 2 * n_beads * thermal * np.sin(np.arange(n_beads) * np.pi / n_beads)
    terms = quantum**2 / (quantum**2 + modes**2)
    return 0.5 * thermal * terms.sum(), 0.5 * thermal * (1 + terms[1:].sum())


def test_the_formula_has_both_limits():
    thermal, quantum = KB_EV * TEMPERATURE_K, FREQUENCY_PER_FS * ATOMIC_TIME_FS * HARTREE_EV
    assert oscillator_energies(1) == pytest.approx((thermal / 2, thermal / 2))
    exact = 0.25 * quantum / np.tanh(0.5 * quantum / thermal)
    assert oscillator_energies(2000) == pytest.approx((exact, exact), rel=1e-5)


@pytest.fixture
def run_oscillators(run_ipi, tiny_model, monkeypatch):  # noqa: F811
    """Return a function that runs a water molecule whose atoms are oscillators, through the same calculation."""
    text = Path(harmonic_driver.__file__).read_text()
    text = text.replace("FREQUENCY_PER_FS = 0.0", f"FREQUENCY_PER_FS = {FREQUENCY_PER_FS!r}")
    monkeypatch.setattr("aiida_mlfinetune.calculations.ipi.program_text", lambda name: text)

    def run(**changes):
        base = {
            "ensemble": "nvt",
            "temperature_K": TEMPERATURE_K,
            "timestep_fs": 0.5,
            "n_steps": 6000,
            "stride": 600,
            "properties_stride": 10,
            "thermostat_tau_fs": 20.0,
        }
        results, node = run_ipi(tiny_model, molecule("H2O"), **{**base, **changes})
        assert node.is_finished_ok, node.exit_message
        return results

    return run


N_MODES = 6
START = 40
"""Rows that are left out at the start, where all beads lie at one place."""


def within(series, expected: float, n_sigma: float = 4.0) -> None:
    average = time_average(np.asarray(series)[START:])
    assert average.error < 0.1 * expected
    assert abs(average.mean - expected) < n_sigma * average.error, (average.mean, average.error, expected)


@pytest.mark.parametrize(
    ("n_beads", "changes"),
    [
        (1, {"thermostat": "gle", "gle": GLE}),
        (2, {"thermostat": "pile-l"}),
        pytest.param(4, {"thermostat": "gle", "gle": GLE, "batch_size": 2}, marks=pytest.mark.long),
        pytest.param(8, {"thermostat": "pile-g"}, marks=pytest.mark.long),
        (4, {"thermostat": "piglet", "gle": piglet(4, TEMPERATURE_K)}),
    ],
    ids=["1-gle", "2-pile-l", "4-gle-two-batches", "8-pile-g", "4-piglet"],
)
def test_energies_of_oscillators(run_oscillators, n_beads, changes):
    """Potential and centroid-virial kinetic energy within four standard errors of the exact ones for the beads."""
    results = run_oscillators(n_beads=n_beads, **changes)
    arrays = {name: results["properties"].get_array(name) for name in results["properties"].get_arraynames()}
    potential, kinetic = oscillator_energies(n_beads)
    within(arrays["potential_energy_eV"], N_MODES * potential)
    within(arrays["temperature_K"], TEMPERATURE_K)
    frames = results["trajectory"].frames
    assert frames.steps.tolist() == np.repeat(np.arange(0, 6001, 600), n_beads).tolist()
    assert ("kinetic_cv_eV" in arrays) == (n_beads > 1)
    if n_beads == 1:
        return
    centre = 1.5 * KB_EV * TEMPERATURE_K  # the centre of mass, as the estimator counts it
    within(arrays["kinetic_cv_eV"], N_MODES * kinetic + centre)
    beads = arrays["bead_potentials_eV"]
    assert beads.shape == (len(arrays["step"]), n_beads)
    np.testing.assert_allclose(beads.mean(1), arrays["potential_energy_eV"], atol=1e-12)
    (labels,) = frames.labels_by_level.values()
    np.testing.assert_allclose(labels.energy, beads[::60].ravel(), atol=1e-12)
    conditions = orm.Dict({"temperature_K": TEMPERATURE_K, "n_beads": n_beads, "ensemble": "nvt"})
    enthalpy = gas_enthalpy(results["properties"], orm.StructureData(ase=molecule("H2O")), conditions)
    exact = (N_MODES * (potential + kinetic) + centre + KB_EV * TEMPERATURE_K) * 96.48533
    assert abs(enthalpy.value - exact) < 4 * enthalpy.error
    assert f"{n_beads} beads, centroid-virial" in enthalpy.method


@pytest.mark.long
def test_beads_of_a_crystal_with_flexible_cell_and_gle_on_both(run_ipi, tiny_model):  # noqa: F811
    """With the model: every bead is a frame with the energy that the model has for it, and a restart goes on."""
    changes = {
        "n_beads": 4,
        "thermostat": "pile-g",
        "cell_thermostat": "gle",
        "gle": GLE,
        "print_forces": True,
        "stride": 4,
    }
    whole, _ = run_ipi(tiny_model, ice_cell(), **changes)
    first, node = run_ipi(tiny_model, ice_cell(), n_steps=8, **changes)
    second, rest = run_ipi(tiny_model, ice_cell(), parent=node.outputs.remote_folder, **changes)
    assert rest.is_finished_ok, rest.exit_message
    frames = whole["trajectory"].frames
    assert frames.steps.tolist() == np.repeat([0, 4, 8, 12, 16, 20], 4).tolist()
    (labels,) = frames.labels_by_level.values()
    assert labels.has_energy.all()
    assert labels.has_forces.all()
    assert not labels.has_stress.any()
    at_end = frames.positions.reshape(-1, 4, 6, 3)[-1]
    assert np.abs(at_end - at_end.mean(0)).max() > 1e-3  # the beads have spread
    joined = np.concatenate([first["trajectory"].frames.positions, second["trajectory"].frames.positions])
    np.testing.assert_allclose(joined, frames.positions, atol=1e-8)
    assert np.isfinite(whole["properties"].get_array("pressure_bar")).all()
    assert np.ptp(whole["properties"].get_array("volume_A3")) > 0
