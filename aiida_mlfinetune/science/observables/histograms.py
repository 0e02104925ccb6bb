"""Histograms of correlated time series, with error bars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.statistics import TimeAverage, statistical_inefficiency, time_average
from aiida_mlfinetune.science.datasets.levels import FloatArray


@dataclass(frozen=True)
class Histogram:
    """How a quantity is distributed.

    Attributes:
        edges: (k + 1,) of the bins, in the unit of the quantity.
        density: (k,) probability density, per unit of the quantity; its integral is the part of the samples that lies
            within the edges.
        error: (k,) its standard error; for a bin without samples that of a bin with one.
        average: mean of the quantity, with its error, correlation time (in samples) and number of independent samples.
    """

    edges: FloatArray
    density: FloatArray
    error: FloatArray
    average: TimeAverage

    @property
    def centres(self) -> FloatArray:
        """(k,) middle of each bin."""
        return np.asarray((self.edges[:-1] + self.edges[1:]) / 2)


def histogram(series: ArrayLike, bins: int | ArrayLike = 40, equilibration: int | None = None) -> Histogram:
    """Return the histogram of a time series with error bars.

    That a sample lies in a bin is a series of zeros and ones, whose mean is p and whose error is
    sqrt(p (1 - p) g / n) with its own statistical inefficiency g.

    Args:
        series: (n,) samples at equal intervals, or (n, c) of c alike quantities at a time (then their mean over c is
            the series that ``average`` describes).
        bins: their number, between the smallest and the largest sample, or (k + 1,) edges.
        equilibration: number of samples to drop from the start; detected if not given.

    Raises:
        MlFinetuneError: no samples, samples that are not finite, fewer than one bin, edges out of order.
    """
    values = np.asarray(series, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.size == 0:
        raise MlFinetuneError("cannot make a histogram of no samples")
    average = time_average(values.mean(axis=1), equilibration)
    used = values[average.equilibration :]
    edges = _edges(used, bins)
    n, at_a_time = used.shape
    places = np.searchsorted(edges, used, side="right") - 1
    places[used == edges[-1]] = len(edges) - 2
    density, error = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for place in range(len(density)):
        inside = (places == place).mean(axis=1)
        fraction, variance = float(inside.mean()), float(inside.var())
        if variance == 0.0:
            error[place] = 1 / (n * at_a_time)
        else:
            error[place] = math.sqrt(variance * statistical_inefficiency(inside) / n)
        density[place] = fraction
    widths = np.diff(edges)
    return Histogram(edges, density / widths, error / widths, average)


def _edges(values: FloatArray, bins: int | ArrayLike) -> FloatArray:
    if isinstance(bins, int):
        if bins < 1:
            raise MlFinetuneError(f"a histogram needs at least one bin, got {bins}")
        low, high = float(values.min()), float(values.max())
        margin = 0.0 if high > low else 0.5 * (abs(high) or 1.0)
        return np.linspace(low - margin, high + margin, bins + 1)
    edges = np.asarray(bins, dtype=np.float64).reshape(-1)
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise MlFinetuneError("the edges of a histogram must increase, and be two at least")
    return edges
