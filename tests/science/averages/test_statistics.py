"""Errors of time averages are right on series whose correlation time is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pymbar import timeseries
from scipy.signal import lfilter

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.statistics import (
    block_error,
    block_means,
    detect_equilibration,
    statistical_inefficiency,
    time_average,
)


def ar1(n: int, tau: float, rng: np.random.Generator) -> np.ndarray:
    """Return a stationary Gaussian series of zero mean, unit variance and autocorrelation exp(-t / tau)."""
    a = math.exp(-1 / tau)
    noise = rng.normal(size=n) * math.sqrt(1 - a * a)
    noise[0] /= math.sqrt(1 - a * a)
    return lfilter([1.0], [1.0, -a], noise)


def exact_inefficiency(tau: float) -> float:
    """Return 1 + 2 sum_t exp(-t / tau)."""
    return (1 + math.exp(-1 / tau)) / (1 - math.exp(-1 / tau))


@pytest.mark.parametrize(
    ("n", "tau", "widest"), [(4000, 5.0, 1.1), (1000, 5.0, 1.15), (400, 5.0, 1.25), (5000, 50.0, 1.25)]
)
def test_errors_cover_the_true_mean_as_often_as_they_should(n, tau, widest):
    rng = np.random.default_rng(11)
    n_series = 400
    z = np.array([(average := time_average(ar1(n, tau, rng))).mean / average.error for _ in range(n_series)])
    noise = 1 / math.sqrt(2 * n_series)  # standard error of a standard deviation, relative
    assert 1 - 3 * noise < z.std() < widest
    assert abs(z.mean()) < 4 / math.sqrt(n_series)
    assert np.mean(np.abs(z) < 2) > 0.90


@pytest.mark.parametrize("tau", [0.5, 3.0, 20.0])
def test_inefficiency_of_a_long_series_is_the_known_one(tau):
    estimates = [statistical_inefficiency(ar1(20000, tau, np.random.default_rng(seed))) for seed in range(10)]
    error = np.std(estimates, ddof=1) / math.sqrt(10)
    assert abs(np.mean(estimates) - exact_inefficiency(tau)) < 4 * error + 0.05 * exact_inefficiency(tau)


def test_inefficiency_agrees_with_pymbar():
    series = ar1(20000, 10.0, np.random.default_rng(2))
    assert statistical_inefficiency(series) == pytest.approx(timeseries.statistical_inefficiency(series), rel=0.1)


@pytest.mark.parametrize("tau", [2.0, 20.0])
def test_block_error_is_that_of_the_known_correlation_time(tau):
    n, n_blocks = 50000, 50
    errors = [block_error(ar1(n, tau, np.random.default_rng(seed)), n_blocks) for seed in range(20)]
    expected = math.sqrt(exact_inefficiency(tau) / n)
    spread = expected / math.sqrt(2 * n_blocks * 20)
    assert abs(np.mean(errors) - expected) < 4 * spread


def test_average_reports_correlation_time_and_independent_samples():
    average = time_average(5.0 + 2.0 * ar1(20000, 10.0, np.random.default_rng(4)))
    assert average.correlation_time == pytest.approx((exact_inefficiency(10.0) - 1) / 2, rel=0.15)
    assert average.n_independent == pytest.approx(average.n_samples / (1 + 2 * average.correlation_time))
    assert average.standard_deviation == pytest.approx(2.0, rel=0.1)
    assert average.block_error == pytest.approx(average.error, rel=0.4)
    assert abs(average.mean - 5.0) < 4 * average.error
    assert average.warnings == ()


def test_uncorrelated_samples_have_the_textbook_error():
    series = np.random.default_rng(1).normal(size=10000)
    average = time_average(series, equilibration=0)
    assert average.error == pytest.approx(series.std(ddof=1) / 100, rel=0.06)


def test_relaxation_at_the_start_is_dropped():
    rng = np.random.default_rng(8)
    z, starts = [], []
    for _ in range(100):
        series = ar1(2000, 5.0, rng) + 8.0 * np.exp(-np.arange(2000) / 80.0)
        average = time_average(series)
        starts.append(average.equilibration)
        z.append(average.mean / average.error)
    assert 100 <= np.mean(starts) <= 500
    assert np.sqrt(np.mean(np.square(z))) < 1.35
    kept = np.mean([detect_equilibration(ar1(2000, 5.0, rng)) for _ in range(100)])
    assert kept < 50  # nothing to drop from a stationary series


def test_a_run_that_settles_late_is_marked():
    series = np.random.default_rng(0).normal(size=400) + np.where(np.arange(400) < 198, 10.0, 0.0)
    average = time_average(series)
    assert average.equilibration == 200
    assert any("half of the run" in warning for warning in average.warnings)


def test_a_run_that_never_settles_has_few_independent_samples_and_a_large_error():
    average = time_average(np.linspace(0.0, 1.0, 400) + 0.01 * np.random.default_rng(0).normal(size=400))
    assert average.error > 0.1
    assert any("independent samples" in warning for warning in average.warnings)


def test_drift_is_marked():
    series = np.random.default_rng(0).normal(size=4000) + np.where(np.arange(4000) < 2000, 0.0, 0.12)
    assert any("drift" in warning for warning in time_average(series, equilibration=0).warnings)


def test_few_independent_samples_are_marked():
    average = time_average(ar1(100, 15.0, np.random.default_rng(3)))
    assert average.n_independent < 10
    assert any("independent samples" in warning for warning in average.warnings)


def test_few_samples_have_no_error():
    average = time_average([1.0, 2.0, 3.0])
    assert (average.mean, average.error) == (2.0, math.inf)
    assert "only 3 samples" in average.warnings[0]


def test_a_constant_series_says_so():
    average = time_average(np.full(50, -1234.5))
    assert (average.mean, average.error, average.warnings) == (-1234.5, 0.0, ("the series is constant",))


def test_units_scale_all_that_has_a_unit():
    average = time_average(ar1(500, 2.0, np.random.default_rng(5)))
    other = average.scaled(-3.0)
    assert (other.mean, other.error) == pytest.approx((-3 * average.mean, 3 * average.error))
    assert other.correlation_time == average.correlation_time


def test_block_means_use_the_end_of_the_series():
    assert block_means([9.0, 1.0, 3.0, 5.0, 7.0], 2).tolist() == [2.0, 6.0]
    with pytest.raises(MlFinetuneError, match="5 samples into 6 blocks"):
        block_means(np.arange(5.0), 6)


@pytest.mark.parametrize(("series", "message"), [([], "empty"), ([1.0, math.nan, 2.0], r"not finite at samples \[1\]")])
def test_bad_series_are_refused(series, message):
    with pytest.raises(MlFinetuneError, match=message):
        time_average(series)


def test_cannot_drop_everything():
    with pytest.raises(MlFinetuneError, match="drop 5 of 5"):
        time_average(np.arange(5.0), equilibration=5)
