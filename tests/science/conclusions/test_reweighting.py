"""Reweighting against what is known exactly: two harmonic wells with different centres and stiffness."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.common.units import KB_EV
from aiida_mlfinetune.science.conclusions.reweighting import reweight, reweighting_weights
from tests.science.averages.test_statistics import ar1

TEMPERATURE = 100.0
KT = KB_EV * TEMPERATURE
CENTRE, STIFFNESS = 0.5, 1.3
"""Of the reference's well, where that of the run has 0 and 1: lengths in the run's deviation, energies in kT."""
N_SEEDS = 300


def energies(x, centre=CENTRE, stiffness=STIFFNESS):
    """Return the energies (eV) of run and reference at positions x."""
    return 0.5 * KT * x**2, 0.5 * KT * stiffness * (x - centre) ** 2


def weigh(x, **well):
    return reweighting_weights(*energies(x, **well), TEMPERATURE)


def test_averages_of_the_reference_are_exact_within_their_errors():
    x = np.random.default_rng(1).normal(size=20000)
    run, reference = energies(x)
    weights = weigh(x)
    assert weights.reliable
    position = reweight(x, weights)
    square = reweight(x**2, weights)
    energy = reweight(run, weights, reference)
    for result, raw, exact, most in (
        (position, 0.0, CENTRE, 0.02),
        (square, 1.0, CENTRE**2 + 1 / STIFFNESS, 0.03),
        (energy, KT / 2, KT / 2, 0.02 * KT),
    ):
        assert abs(result.raw.value - raw) < 3 * result.raw.error
        assert abs(result.reweighted.value - exact) < 3 * result.reweighted.error
        assert 0 < result.reweighted.error < most
        np.testing.assert_allclose(result.shift.value, result.reweighted.value - result.raw.value, atol=1e-15)
    assert position.shift_sigma > 20
    assert "run and reference differ" in position.verdict


def test_effective_sample_size_and_overlap_are_the_known_ones():
    """Wells of equal stiffness: N_eff / n is exp(-s^2), and the overlap that of Gaussians s deviations apart."""
    x = np.random.default_rng(2).normal(size=100000)
    for shift in (0.0, 0.5, 1.0):
        weights = weigh(x, centre=shift, stiffness=1.0)
        assert weights.n_effective / len(x) == pytest.approx(math.exp(-(shift**2)), rel=0.1)
        assert weights.overlap == pytest.approx(math.erfc(shift / 2 / math.sqrt(2)), abs=0.01)
        assert weights.spread == pytest.approx(shift, rel=0.02, abs=1e-12)
        assert weights.weights.sum() == pytest.approx(1.0)


def test_equal_potentials_change_nothing():
    x = np.random.default_rng(3).normal(size=200)
    energy = energies(x)[0]
    weights = reweighting_weights(energy, energy + 12.5, TEMPERATURE)
    assert weights.mean_difference == pytest.approx(12.5)
    assert weights.n_effective == pytest.approx(200)
    assert weights.overlap == pytest.approx(1.0)
    result = reweight(x, weights)
    assert result.reweighted.value == pytest.approx(float(x.mean()))
    assert result.cumulant.value == pytest.approx(float(x.mean()))
    assert result.shift_sigma == 0
    assert result.notes == ()


def test_weights_of_enormous_differences_are_finite():
    energy = np.linspace(0.0, 1e4, 50)
    weights = reweighting_weights(np.zeros(50), energy, TEMPERATURE)
    assert np.isfinite(weights.weights).all()
    assert weights.n_effective == pytest.approx(1.0)


@pytest.mark.parametrize(("n", "tau"), [(100, None), (400, 2.0), (1000, 5.0)])
def test_errors_are_as_large_as_the_spread_of_the_estimates(n, tau):
    """Many runs: standard deviation of the estimates against the mean of the errors quoted, within 20 %."""
    rng = np.random.default_rng(4)
    found = []
    for seed in range(N_SEEDS):
        x = rng.normal(size=n) if tau is None else ar1(n, tau, rng)
        weights = weigh(x)
        run, reference = energies(x)
        for result in (
            reweight(x, weights, n_bootstrap=100, seed=seed),
            reweight(run, weights, reference, n_bootstrap=100, seed=seed),
        ):
            averages = (result.raw, result.reweighted, result.cumulant, result.shift)
            found.append([[float(average.value), float(average.error)] for average in averages])
    values = np.array(found).reshape(N_SEEDS, 2, 4, 2)
    spread = values[..., 0].std(axis=0, ddof=1)
    quoted = np.sqrt((values[..., 1] ** 2).mean(axis=0))
    assert (np.abs(quoted / spread - 1) < 0.2).all(), quoted / spread
    z = (values[:, 0, 1, 0] - CENTRE) / values[:, 0, 1, 1]
    assert np.mean(np.abs(z) < 2) > 0.88


def test_cumulant_is_exact_for_gaussian_differences():
    """Equal stiffness makes the difference linear in x, and so Gaussian; it is better than the weights far away."""
    x = np.random.default_rng(5).normal(size=3000)
    far = 3.0
    result = reweight(x, weigh(x, centre=far, stiffness=1.0))
    assert result.cumulant.value == pytest.approx(far, abs=3 * float(result.cumulant.error))
    assert result.cumulant.error < 0.15
    assert abs(result.reweighted.value - far) > abs(result.cumulant.value - far)
    assert not result.weights.reliable


@pytest.mark.parametrize("n", [30, 100, 1000, 5000])
@pytest.mark.parametrize("well", [{"centre": 5.0}, {"centre": 4.0, "stiffness": 1.0}, {"stiffness": 200.0}])
def test_hopeless_overlap_is_unreliable_always(n, well):
    for seed in range(20):
        weights = weigh(np.random.default_rng(seed).normal(size=n), **well)
        assert not weights.reliable, weights
    result = reweight(np.ones(n), weights)
    assert result.verdict.startswith("UNRELIABLE (N_eff ")
    assert "overlap" in result.verdict


def test_good_overlap_is_reliable_always():
    for seed in range(50):
        assert weigh(np.random.default_rng(seed).normal(size=100), centre=0.5, stiffness=1.2).reliable


def test_distribution_functions_are_reweighted_with_error_bands():
    edges = np.linspace(-4, 4, 33)
    x = np.random.default_rng(6).normal(size=5000)
    indicator = (np.digitize(x, edges)[:, None] - 1 == np.arange(32)) / np.diff(edges)
    result = reweight(indicator, weigh(x))
    assert result.reweighted.value.shape == result.reweighted.error.shape == (32,)
    middle = (edges[1:] + edges[:-1]) / 2
    exact = np.sqrt(STIFFNESS / (2 * np.pi)) * np.exp(-0.5 * STIFFNESS * (middle - CENTRE) ** 2)
    seen = exact > 0.02
    z = ((result.reweighted.value - exact) / np.maximum(result.reweighted.error, 1e-12))[seen]
    assert np.sqrt((z**2).mean()) < 1.6
    assert (result.reweighted.value @ np.diff(edges)) == pytest.approx(1.0, abs=0.01)
    assert "root mean square over 32 values" in result.verdict
    # values of any shape, each as if it were alone
    pair = reweight(np.stack([x, 2 * x], axis=1).reshape(-1, 2, 1), weigh(x))
    assert pair.reweighted.value.shape == (2, 1)
    np.testing.assert_allclose(pair.reweighted.value[1], 2 * pair.reweighted.value[0])
    np.testing.assert_allclose(pair.reweighted.value[0, 0], reweight(x, weigh(x)).reweighted.value)


def test_a_large_constant_costs_no_digits():
    x = np.random.default_rng(7).normal(size=300)
    weights = weigh(x)
    plain, far = reweight(x, weights), reweight(x + 1e7, weights)
    assert far.reweighted.value - 1e7 == pytest.approx(float(plain.reweighted.value), abs=1e-7)
    assert far.reweighted.error == pytest.approx(float(plain.reweighted.error), rel=1e-6)


def test_what_cannot_be_reweighted_is_refused():
    x = np.random.default_rng(8).normal(size=20)
    run, reference = energies(x)
    weights = weigh(x)
    for call, message in (
        (lambda: reweighting_weights(run[:9], reference[:9], TEMPERATURE), "9 frames are too few"),
        (lambda: reweighting_weights(run, reference[:-1], TEMPERATURE), "20 energies of the run do not go with 19"),
        (lambda: reweighting_weights(run, np.where(x > 0, np.nan, x), TEMPERATURE), "without an energy at both levels"),
        (lambda: reweighting_weights(run, reference, 0.0), "temperature must be positive"),
        (lambda: reweight(x[:-1], weights), "do not go with 20 weights"),
        (lambda: reweight(np.full(20, np.inf), weights), "not all finite"),
        (lambda: reweight(x, weights, np.ones((20, 2))), "do not go with values of shape"),
        (lambda: reweight(x, weights, n_bootstrap=10), "at least 50"),
    ):
        with pytest.raises(MlFinetuneError, match=message):
            call()


def test_equal_potentials_are_reliable_whatever_their_rounding_looks_like():
    """Twelve frames whose energies differ by a slow drift of 1e-8 kT: that is no correlation in time."""
    own = np.random.default_rng(9).normal(size=12)
    weights = reweighting_weights(own, own + 1e-8 * KT * np.arange(12), TEMPERATURE)
    assert weights.inefficiency == 1.0
    assert weights.reliable
    assert not reweighting_weights(own, own + 0.05 * KT * np.arange(12), TEMPERATURE).reliable
