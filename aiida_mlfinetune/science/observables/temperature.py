r"""Is the ensemble the one asked for: the kinetic energy against its canonical distribution.

The kinetic energy of f degrees of freedom at temperature T has the gamma distribution with

.. math::

    \langle K \rangle = \tfrac{f}{2} k T, \qquad \langle K^2 \rangle - \langle K \rangle^2 = \tfrac{f}{2} (k T)^2

(Merz and Shirts, PLoS ONE 13, e0202764 (2018)). A thermostat that rescales velocities has the right mean and the wrong
variance; one that feeds one part of a system from another (the flying ice cube) has the wrong parts and the right sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.common.units import KB_EV
from aiida_mlfinetune.science.averages.statistics import time_average

ALLOWED_SIGMA = 3.5
"""Deviations beyond this many standard errors are no accident."""


@dataclass(frozen=True)
class KineticPart:
    """The kinetic energy of one part of a system.

    Attributes:
        name: of the part.
        n_degrees: its degrees of freedom.
        temperature: 2 <K> / (f k) in K.
        temperature_error: standard error in K.
        variance_ratio: variance over its canonical value; 1 if the ensemble is the one asked for.
        variance_ratio_error: standard error.
        correlation_time: of the kinetic energy, in samples.
        n_independent: number of independent samples.
        warnings: what makes them doubtful.
    """

    name: str
    n_degrees: int
    temperature: float
    temperature_error: float
    variance_ratio: float
    variance_ratio_error: float
    correlation_time: float
    n_independent: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class TemperatureCheck:
    """Whether a run sampled the canonical distribution of momenta.

    Attributes:
        target: K.
        parts: the whole first, or its parts as they were given.
        problems: what is off by more than 3.5 standard errors, in words; empty if nothing is.
    """

    target: float
    parts: tuple[KineticPart, ...]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is off."""
        return not self.problems


def check_temperature(
    kinetic_energies: Mapping[str, tuple[ArrayLike, int]], temperature: float, equilibration: int | None = None
) -> TemperatureCheck:
    """Compare mean and variance of kinetic energies with the canonical ones, and the parts with each other.

    Args:
        kinetic_energies: by part (such as ``atoms`` and ``cell``), the series (n,) in eV and the number of degrees of
            freedom.
        temperature: K, that was asked for.
        equilibration: samples to drop from each; detected if not given.

    Raises:
        MlFinetuneError: no parts, no degrees of freedom, a temperature that is not positive.
    """
    if not kinetic_energies or not temperature > 0:
        raise MlFinetuneError(f"need kinetic energies and a positive temperature, got {temperature:g} K")
    parts = tuple(
        _part(name, series, degrees, temperature, equilibration) for name, (series, degrees) in kinetic_energies.items()
    )
    problems = []
    for part in parts:
        mean_off = _sigma(part.temperature - temperature, part.temperature_error)
        if mean_off > ALLOWED_SIGMA:
            problems.append(
                f"{part.name}: the temperature is {part.temperature:.1f} +- {part.temperature_error:.1f} K, off the "
                f"{temperature:g} K asked for by {mean_off:.1f} standard errors"
            )
        variance_off = _sigma(part.variance_ratio - 1.0, part.variance_ratio_error)
        if variance_off > ALLOWED_SIGMA:
            problems.append(
                f"{part.name}: the kinetic energy fluctuates {part.variance_ratio:.2f} +- "
                f"{part.variance_ratio_error:.2f} times as much as it should ({variance_off:.1f} standard errors): "
                "the ensemble is not canonical"
            )
    for one, other in pairwise(parts):
        error = math.hypot(one.temperature_error, other.temperature_error)
        apart = _sigma(one.temperature - other.temperature, error)
        if apart > ALLOWED_SIGMA:
            problems.append(
                f"no equipartition: {one.name} are at {one.temperature:.1f} +- {one.temperature_error:.1f} K, "
                f"{other.name} at {other.temperature:.1f} +- {other.temperature_error:.1f} K ({apart:.1f} standard "
                "errors)"
            )
    return TemperatureCheck(temperature, parts, tuple(problems))


def _part(name: str, series: ArrayLike, n_degrees: int, temperature: float, equilibration: int | None) -> KineticPart:
    if n_degrees < 1:
        raise MlFinetuneError(f"{name}: a temperature needs degrees of freedom, got {n_degrees}")
    kinetic = np.asarray(series, dtype=np.float64)
    mean = time_average(kinetic, equilibration)
    squared = time_average((kinetic[mean.equilibration :] - mean.mean) ** 2, equilibration=0)
    independent = mean.n_independent
    correction = independent / (independent - 1) if independent > 1 else 1.0
    canonical = 0.5 * n_degrees * (KB_EV * temperature) ** 2
    per_kelvin = 0.5 * n_degrees * KB_EV
    return KineticPart(
        name=name,
        n_degrees=n_degrees,
        temperature=mean.mean / per_kelvin,
        temperature_error=mean.error / per_kelvin,
        variance_ratio=squared.mean * correction / canonical,
        variance_ratio_error=squared.error * correction / canonical,
        correlation_time=mean.correlation_time,
        n_independent=independent,
        warnings=mean.warnings,
    )


def _sigma(shift: float, error: float) -> float:
    """Return a deviation in standard errors; 0 where the error is unknown."""
    if math.isinf(error) or shift == 0.0:
        return 0.0
    return abs(shift) / error if error > 0 else math.inf
