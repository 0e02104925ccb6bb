r"""Heat capacity of classical nuclei from fluctuations.

.. math::

    C_V = \frac{\langle V^2 \rangle - \langle V \rangle^2}{k T^2} + \tfrac{f}{2} k, \qquad
    C_p = \frac{\langle (V + p \Omega)^2 \rangle - \langle V + p \Omega \rangle^2}{k T^2} + \tfrac{f}{2} k

with the potential energy V, the volume :math:`\Omega` and f degrees of freedom that move. Momenta and positions of
classical nuclei are independent, so the kinetic part f k / 2 is known and need not be sampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.common.units import BAR_EV_A3, KB_EV
from aiida_mlfinetune.science.averages.statistics import time_average


@dataclass(frozen=True)
class HeatCapacity:
    """A heat capacity.

    Attributes:
        value: eV/K for the cell.
        error: standard error, eV/K.
        fluctuations: the part of ``value`` that was sampled, eV/K.
        correlation_time: of the squared deviations, in samples.
        n_independent: number of independent samples of the energy.
        equilibration: samples that were dropped.
        n_samples: samples that were used.
        warnings: what makes it doubtful.
    """

    value: float
    error: float
    fluctuations: float
    correlation_time: float
    n_independent: float
    equilibration: int
    n_samples: int
    warnings: tuple[str, ...] = ()


def heat_capacity(
    potential_energy: ArrayLike,
    temperature: float,
    n_degrees: int,
    volume: ArrayLike | None = None,
    pressure: float = 0.0,
    equilibration: int | None = None,
) -> HeatCapacity:
    """Return the heat capacity at constant volume, or at constant pressure where volumes are given.

    The variance is that of a sample whose mean was taken from the same n_independent samples: it is multiplied by
    n / (n - 1). Its error is that of the mean of the squared deviations.

    Args:
        potential_energy: (n,) eV per cell.
        temperature: K, of the thermostat.
        n_degrees: degrees of freedom whose kinetic energy counts.
        volume: (n,) angstrom^3, of a run at constant pressure.
        pressure: bar, of the barostat.
        equilibration: samples to drop; detected if not given.

    Raises:
        MlFinetuneError: a temperature that is not positive, no degrees of freedom, arrays of different length.
    """
    energies = np.asarray(potential_energy, dtype=np.float64)
    if not temperature > 0 or n_degrees < 1:
        raise MlFinetuneError(
            f"a heat capacity needs a positive temperature and degrees of freedom, got {temperature:g} K, {n_degrees}"
        )
    if volume is not None:
        volumes = np.asarray(volume, dtype=np.float64)
        if volumes.shape != energies.shape:
            raise MlFinetuneError(f"{energies.size} energies do not go with {volumes.size} volumes")
        energies = energies + pressure * BAR_EV_A3 * volumes
    mean = time_average(energies, equilibration)
    used = energies[mean.equilibration :]
    squared = time_average((used - used.mean()) ** 2, equilibration=0)
    independent = mean.n_independent
    correction = independent / (independent - 1) if independent > 1 else 1.0
    scale = correction / (KB_EV * temperature**2)
    known = math.isfinite(squared.error)
    warnings = dict.fromkeys([*mean.warnings, *squared.warnings])
    return HeatCapacity(
        value=squared.mean * scale + 0.5 * n_degrees * KB_EV,
        error=squared.error * scale if known else math.inf,
        fluctuations=squared.mean * scale,
        correlation_time=squared.correlation_time,
        n_independent=independent,
        equilibration=mean.equilibration,
        n_samples=mean.n_samples,
        warnings=tuple(warnings),
    )
