"""Correlation times of runs come in steps, with an error, and are refused where nothing can be told."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.correlation import correlation_time, longest


def memory(tau: float, n: int, seed: int) -> np.ndarray:
    """Return an autoregressive series whose integrated autocorrelation time is ``tau`` samples."""
    rho = tau / (1 + tau)
    noise = np.random.default_rng(seed).normal(size=n)
    series = np.empty(n)
    series[0] = noise[0] / np.sqrt(1 - rho**2)
    for index in range(1, n):
        series[index] = rho * series[index - 1] + noise[index]
    return series


def test_a_known_correlation_time_is_found_in_steps():
    found = correlation_time(5 * np.arange(20000), memory(8.0, 20000, 1))
    assert found.steps == pytest.approx(40.0, rel=0.15)
    assert abs(found.steps - 40.0) < 5 * found.error + 1
    assert found.separation == np.ceil(found.steps)
    assert found.stride == 5


def test_noise_has_no_memory():
    assert correlation_time(10 * np.arange(5000), memory(0.0, 5000, 2)).steps < 3.0


def test_the_slowest_run_counts():
    times = {name: correlation_time(np.arange(4000), memory(tau, 4000, 3)) for name, tau in (("a", 2.0), ("b", 20.0))}
    assert longest(times) == "b"


def test_samples_without_an_energy_are_left_out():
    energy = memory(3.0, 400, 4)
    energy[:5] = np.nan
    assert correlation_time(np.arange(400), energy).steps > 0


@pytest.mark.parametrize(
    ("steps", "message"), [(np.arange(12), "12 energies are too few"), (np.arange(40) ** 2, "at equal distances")]
)
def test_what_tells_nothing_is_refused(steps, message):
    with pytest.raises(MlFinetuneError, match=message):
        correlation_time(steps, memory(1.0, len(steps), 5))
