"""Heat capacity, temperature, histograms and cells against distributions that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.common.units import BAR_EV_A3, KB_EV
from aiida_mlfinetune.science.observables.cell import average_cell, cell_parameters
from aiida_mlfinetune.science.observables.heat_capacity import heat_capacity
from aiida_mlfinetune.science.observables.histograms import histogram
from aiida_mlfinetune.science.observables.temperature import check_temperature
from tests.science.averages.test_statistics import ar1

T = 150.0
KT = KB_EV * T


def oscillators(n: int, n_modes: int, tau: float, rng: np.random.Generator) -> np.ndarray:
    """Return the potential (or kinetic) energies (n,) in eV of classical harmonic oscillators at T."""
    return 0.5 * KT * sum(ar1(n, tau, rng) ** 2 for _ in range(n_modes))


@pytest.mark.parametrize("tau", [0.3, 5.0])
def test_harmonic_oscillators_have_k_each_within_the_error(tau):
    rng = np.random.default_rng(3)
    n_modes, n_runs = 9, 60
    results = [heat_capacity(oscillators(2000, n_modes, tau, rng), T, n_modes) for _ in range(n_runs)]
    z = np.array([(result.value - n_modes * KB_EV) / result.error for result in results])
    assert abs(z.mean()) < 4 * z.std() / math.sqrt(n_runs) + 0.1
    assert 0.8 < z.std() < 1.3
    assert results[0].value - results[0].fluctuations == pytest.approx(0.5 * n_modes * KB_EV)


def test_an_ideal_gas_at_constant_pressure_has_the_heat_capacity_of_its_volume():
    # V^N exp(-p V / kT): p V has a gamma distribution of shape N + 1, so C_p = 3/2 N k + (N + 1) k
    rng = np.random.default_rng(6)
    n, pressure = 20, 1000.0
    z = []
    for _ in range(60):
        volumes = rng.gamma(n + 1, KT / (pressure * BAR_EV_A3), size=3000)
        result = heat_capacity(np.zeros(3000), T, 3 * n, volumes, pressure)
        z.append((result.value - (1.5 * n + n + 1) * KB_EV) / result.error)
    assert abs(np.mean(z)) < 4 / math.sqrt(60)
    assert 0.7 < np.std(z) < 1.35


def test_heat_capacities_that_cannot_be_are_refused():
    with pytest.raises(MlFinetuneError, match="positive temperature"):
        heat_capacity(np.ones(20), 0.0, 3)
    with pytest.raises(MlFinetuneError, match="20 energies do not go with 3 volumes"):
        heat_capacity(np.ones(20), T, 3, np.ones(3))


def test_a_canonical_run_passes_and_its_parts_are_in_equilibrium():
    rng = np.random.default_rng(8)
    failed, z = 0, []
    for _ in range(40):
        check = check_temperature(
            {"atoms": (oscillators(1500, 12, 3.0, rng), 12), "cell": (oscillators(1500, 6, 3.0, rng), 6)}, T
        )
        failed += not check.passed
        z += [(part.temperature - T) / part.temperature_error for part in check.parts]
        z += [(part.variance_ratio - 1) / part.variance_ratio_error for part in check.parts]
    assert failed <= 2
    assert 0.85 < np.std(z) < 1.25


def test_rescaled_velocities_have_the_wrong_variance():
    kinetic = oscillators(3000, 12, 3.0, np.random.default_rng(1))
    mean = 6 * KT
    rescaled = mean + 0.5 * (kinetic - kinetic.mean())
    check = check_temperature({"atoms": (rescaled, 12)}, T)
    assert check.parts[0].variance_ratio == pytest.approx(0.25, abs=0.05)
    assert not check.passed
    assert len(check.problems) == 1
    assert "not canonical" in check.problems[0]


def test_a_cold_cell_is_found_though_the_atoms_are_right():
    rng = np.random.default_rng(2)
    atoms, cell = oscillators(3000, 30, 3.0, rng), 0.6 * oscillators(3000, 6, 3.0, rng)
    problems = check_temperature({"atoms": (atoms, 30), "cell": (cell, 6)}, T).problems
    assert any(problem.startswith("no equipartition: atoms") for problem in problems)
    assert not any(problem.startswith("atoms:") for problem in problems)
    hot = check_temperature({"atoms": (1.2 * atoms, 30)}, T).problems
    assert "off the 150 K asked for" in hot[0]


def test_impossible_temperature_checks_are_refused():
    with pytest.raises(MlFinetuneError, match="degrees of freedom"):
        check_temperature({"atoms": (np.ones(20), 0)}, T)
    with pytest.raises(MlFinetuneError, match="positive temperature"):
        check_temperature({}, T)


@pytest.mark.parametrize("tau", [0.2, 4.0])
def test_bins_of_a_histogram_are_within_their_errors(tau):
    rng = np.random.default_rng(4)
    edges = np.linspace(-1.5, 1.5, 7)
    exact = np.diff(norm.cdf(edges)) / np.diff(edges)
    z = []
    for _ in range(100):
        found = histogram(ar1(1500, tau, rng), edges)
        z.append((found.density - exact) / found.error)
    assert abs(np.mean(z)) < 0.2
    assert 0.85 < np.std(z) < 1.25


def test_a_histogram_integrates_to_the_samples_within_its_edges():
    series = np.arange(100.0)
    whole = histogram(series, 10, equilibration=0)
    assert (whole.density * np.diff(whole.edges)).sum() == pytest.approx(1.0)
    np.testing.assert_allclose(whole.centres, np.arange(10) * 9.9 + 4.95)
    half = histogram(series, [-0.5, 24.5, 49.5], equilibration=0)
    np.testing.assert_allclose(half.density * 25, [0.25, 0.25])
    with pytest.raises(MlFinetuneError, match="must increase"):
        histogram(series, [1.0, 0.0])
    with pytest.raises(MlFinetuneError, match="at least one bin"):
        histogram(series, 0)


def test_cell_vectors_and_angles():
    hexagonal = np.array([[4.0, 0, 0], [-2.0, 2 * math.sqrt(3), 0], [0, 0, 7.0]])
    found = {name: series[0] for name, series in cell_parameters(hexagonal[None]).items()}
    assert found == pytest.approx({"a": 4, "b": 4, "c": 7, "alpha": 90, "beta": 90, "gamma": 120})
    noisy = hexagonal * (1 + 0.01 * ar1(1000, 3.0, np.random.default_rng(0)))[:, None, None]
    averages = average_cell(noisy)
    assert abs(averages["c"].mean - 7.0) < 4 * averages["c"].error
    assert averages["gamma"].error < 1e-9
    with pytest.raises(MlFinetuneError, match="no cell"):
        average_cell(np.full((20, 3, 3), np.nan))
