r"""Coordination number and the free energy along it (report on CaCO3 in water, after Moison et al.).

.. math::

    \mathrm{CN}(t) = \sum_I \frac{1 - (R_I / r_\mathrm{min})^n}{1 - (R_I / r_\mathrm{min})^m}, \qquad
    F(\mathrm{CN}) = -k T \ln p(\mathrm{CN})

with n = 60, m = 200, :math:`r_\mathrm{min}` the first minimum of the radial distribution function, and the limit n/m
at :math:`R = r_\mathrm{min}`. It counts 1 inside, 0 outside, and changes within a few hundredths of
:math:`r_\mathrm{min}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError
from aiida_mlfinetune.common.units import KB_EV
from aiida_mlfinetune.science.averages.statistics import TimeAverage
from aiida_mlfinetune.science.datasets.levels import FloatArray, IntArray
from aiida_mlfinetune.science.observables.histograms import histogram
from aiida_mlfinetune.science.observables.trajectory import (
    Trajectory,
    check_enough,
    check_radius,
    n_steps,
    nearest_images,
)

INNER, OUTER = 60, 200
"""n and m of the formula."""
REACH = 1.2
"""Beyond this multiple of r_min a neighbour counts less than 1e-11."""
BIN_WIDTH = 0.1


@dataclass(frozen=True)
class Coordination:
    """The coordination number of an element by another.

    Attributes:
        average: mean over centres and frames, with error, correlation time (frames) and number of independent samples.
        numbers: (n, centres) coordination number of every centre in every frame.
        centres: (k,) middle of each bin of the coordination number.
        probability: (k,) its probability density.
        probability_error: (k,) standard error.
        free_energy: (k,) -kT ln p in eV, its lowest value zero; NaN where no frame has been.
        free_energy_error: (k,) standard error, kT dp / p.
        most_stable: bin of the lowest free energy.
    """

    average: TimeAverage
    numbers: FloatArray
    centres: FloatArray
    probability: FloatArray
    probability_error: FloatArray
    free_energy: FloatArray
    free_energy_error: FloatArray
    most_stable: float


def switching(ratio: ArrayLike, n: int = INNER, m: int = OUTER) -> FloatArray:
    """Return [1 - x^n] / [1 - x^m] of x = R / r_min (any shape), n / m at x = 1; without overflow at any x.

    Raises:
        MlFinetuneError: a negative ratio, or exponents that are not 0 < n < m.
    """
    x = np.asarray(ratio, dtype=np.float64)
    if not 0 < n < m:
        raise MlFinetuneError(f"the exponents must be 0 < n < m, got {n} and {m}")
    if (x < 0).any():
        raise MlFinetuneError("distances cannot be negative")
    with np.errstate(divide="ignore"):
        logarithm = np.log(x)
    decay = -np.abs(logarithm)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.expm1(n * decay) / np.expm1(m * decay)
    value = np.where(decay == 0.0, n / m, value)
    return np.asarray(value * np.exp(np.minimum(0.0, (n - m) * logarithm)))


def coordination_numbers(
    trajectory: Trajectory, centres: IntArray, neighbours: IntArray, r_min: float, n: int = INNER, m: int = OUTER
) -> FloatArray:
    """Return the coordination number (steps, centres) of some atoms by others; (steps, beads x centres) with beads.

    It is a result, and so the one observable whose memory grows with the frames: 8 bytes a frame and centre, and about
    9 more while ``coordination`` counts them.

    Args:
        trajectory: a run of a periodic cell after equilibration.
        centres: (c,) indices of the atoms that are coordinated.
        neighbours: (k,) indices of those that may coordinate; an atom is no neighbour of itself.
        r_min: first minimum of the radial distribution function, angstrom.
        n: exponent of the numerator.
        m: exponent of the denominator.

    Raises:
        FramesError: fewer than 10 frames, no atoms, a distance that is not positive, no cell or one that is too small.
    """
    check_enough(n_steps(trajectory))
    if not len(centres) or not len(neighbours):
        raise FramesError("a coordination number needs centres and neighbours")
    if not r_min > 0:
        raise FramesError(f"r_min must be positive, got {r_min:g} angstrom")
    check_radius(trajectory, REACH * r_min, f"a coordination number with r_min {r_min:g} angstrom")
    found = np.zeros((len(trajectory), len(centres)))
    for block in trajectory.blocks():
        frames = slice(block.start, block.start + len(block.positions))
        for column, centre in enumerate(centres):
            others = neighbours[neighbours != centre]
            vectors = nearest_images(block.positions[:, others] - block.positions[:, [centre]], block.cells)
            found[frames, column] = switching(np.linalg.norm(vectors, axis=2) / r_min, n, m).sum(axis=1)
    return found.reshape(n_steps(trajectory), -1)


def coordination(numbers: ArrayLike, temperature: float, bin_width: float = BIN_WIDTH) -> Coordination:
    """Return mean, distribution and free energy of coordination numbers (n, centres) at ``temperature`` kelvin.

    Raises:
        MlFinetuneError: no samples, or a temperature or width that is not positive.
    """
    values = np.asarray(numbers, dtype=np.float64)
    if not temperature > 0 or not bin_width > 0:
        raise MlFinetuneError(
            f"temperature and bin width must be positive, got {temperature:g} K and {bin_width:g} neighbours"
        )
    if values.size == 0:
        raise MlFinetuneError("there are no coordination numbers")
    first, last = math.floor(values.min() / bin_width - 0.5), math.ceil(values.max() / bin_width + 0.5)
    counts = histogram(values, (np.arange(first, last + 1) + 0.5) * bin_width - bin_width, equilibration=0)
    thermal = KB_EV * temperature
    visited = counts.density > 0
    free = np.full(len(visited), np.nan)
    error = np.full(len(visited), np.nan)
    free[visited] = -thermal * np.log(counts.density[visited])
    error[visited] = thermal * counts.error[visited] / counts.density[visited]
    free -= np.nanmin(free)
    return Coordination(
        average=counts.average,
        numbers=values,
        centres=counts.centres,
        probability=counts.density,
        probability_error=counts.error,
        free_energy=free,
        free_energy_error=error,
        most_stable=float(counts.centres[int(np.nanargmin(free))]),
    )
