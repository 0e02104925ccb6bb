r"""Averages over correlated time series, with errors that can be trusted.

Let :math:`x_t` be a stationary series of n samples with variance :math:`\sigma^2` and normalised autocorrelation
:math:`c_t`.

==========================  ==================================================  ====================
symbol                      meaning                                             here
==========================  ==================================================  ====================
:math:`\tau`                sum of :math:`c_t` over t >= 1, in samples          ``correlation_time``
:math:`g = 1 + 2 \tau`      statistical inefficiency                            ``inefficiency``
:math:`n / g`               number of independent samples                       ``n_independent``
:math:`\sigma \sqrt{g/n}`   standard error of the mean                          ``error``
==========================  ==================================================  ====================

The sum over :math:`c_t` is cut by the initial monotone sequence of Geyer, Statist. Sci. 7, 473 (1992). That the mean is
taken from the same series makes every :math:`c_t` too small by about g/n; this is corrected to first order (Wolff,
Comput. Phys. Commun. 156, 143 (2004), eq. 49).

Equilibration: ``pymbar.timeseries.detect_equilibration`` keeps the part of a series that looks as if it had most
independent samples, and so picks, of a short stationary series, the part that happens to look least correlated: for
runs of 40 correlation times its errors came out too small by half. Here samples are dropped from the start only as long
as they differ from the second half of the run by more than they should (after Geweke, 1992), and never more than half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.datasets.levels import FloatArray

MIN_SAMPLES = 10
"""Fewer samples than this have no error estimate."""
MIN_INDEPENDENT = 10.0
"""Fewer independent samples than this are warned about: the error itself is then uncertain."""


@dataclass(frozen=True)
class TimeAverage:
    """The mean of a time series after equilibration.

    Attributes:
        mean: in the unit of the series.
        error: standard error of the mean, in the same unit; infinite if the series is too short to tell.
        standard_deviation: of the samples, in the same unit.
        correlation_time: integrated autocorrelation time, in samples.
        n_independent: number of independent samples.
        equilibration: index of the first sample that was used.
        n_samples: number of samples that were used.
        block_error: standard error from block averages, a second opinion on ``error``.
        warnings: what makes mean or error doubtful, in words.
    """

    mean: float
    error: float
    standard_deviation: float
    correlation_time: float
    n_independent: float
    equilibration: int
    n_samples: int
    block_error: float
    warnings: tuple[str, ...] = ()

    def scaled(self, factor: float) -> TimeAverage:
        """Return the average in another unit, one of the present unit being ``factor`` of the new one."""
        return TimeAverage(
            mean=self.mean * factor,
            error=self.error * abs(factor),
            standard_deviation=self.standard_deviation * abs(factor),
            correlation_time=self.correlation_time,
            n_independent=self.n_independent,
            equilibration=self.equilibration,
            n_samples=self.n_samples,
            block_error=self.block_error * abs(factor),
            warnings=self.warnings,
        )


def time_average(series: ArrayLike, equilibration: int | None = None) -> TimeAverage:
    """Return the mean of a time series with its standard error.

    Args:
        series: (n,) samples at equal intervals of time.
        equilibration: number of samples to drop from the start; detected if not given.

    Raises:
        MlFinetuneError: no samples, or samples that are not finite numbers.
    """
    x = _checked(series)
    start = detect_equilibration(x) if equilibration is None else int(equilibration)
    if not 0 <= start < len(x):
        raise MlFinetuneError(f"cannot drop {start} of {len(x)} samples as equilibration")
    used = x[start:]
    n = len(used)
    mean = float(used.mean())
    if n < MIN_SAMPLES:
        warning = f"only {n} samples: too few for an error estimate, run longer or store more often"
        deviation = float(used.std(ddof=1)) if n > 1 else 0.0
        return TimeAverage(mean, math.inf, deviation, math.nan, 1.0, start, n, math.inf, (warning,))
    g, variance = _inefficiency_and_variance(used)
    if variance == 0.0:
        return TimeAverage(mean, 0.0, 0.0, 0.0, 1.0, start, n, 0.0, ("the series is constant",))
    error = math.sqrt(variance * g / n)
    n_independent = n / g
    warnings = []
    if n_independent < MIN_INDEPENDENT:
        warnings.append(
            f"only {n_independent:.1f} independent samples in {n} (correlation time {(g - 1) / 2:.1f} samples): the "
            "error is itself uncertain, run longer"
        )
    if equilibration is None and start >= len(x) // 2:
        warnings.append("half of the run was dropped as equilibration and it may not have ended: run longer")
    if (shift := _drift(used, error)) > 3.0:
        warnings.append(f"drift: the two halves of the run differ by {shift:.1f} standard errors")
    blocks = block_error(used, n_blocks=int(np.clip(n_independent / 5, 5, 50)))
    if blocks > 2.0 * error:
        warnings.append(f"block averages give an error {blocks / error:.1f} times as large: there are slow motions")
    return TimeAverage(mean, error, math.sqrt(variance), (g - 1) / 2, n_independent, start, n, blocks, tuple(warnings))


def statistical_inefficiency(series: ArrayLike) -> float:
    """Return g = 1 + 2 tau >= 1 of a stationary series (n,), see the formulas at the top of this module."""
    return _inefficiency_and_variance(_checked(series))[0]


def detect_equilibration(series: ArrayLike) -> int:
    """Return the index of the first sample (n,) that agrees with the second half of the series; at most n / 2.

    A window of a tenth of the remaining samples is compared with the second half: its mean may differ by two standard
    errors of the difference. If it differs by more, a twentieth of the series is dropped, and so on.
    """
    x = _checked(series)
    n = len(x)
    if n < 2 * MIN_SAMPLES:
        return 0
    half = x[n // 2 :]
    g, variance = _inefficiency_and_variance(half)
    step = max(1, n // 20)
    start = 0
    while start < n // 2:
        window = x[start : start + max(step, (n - start) // 10)]
        allowed = 2.0 * math.sqrt(variance * (min(1.0, g / len(window)) + g / len(half)))
        if abs(float(window.mean() - half.mean())) <= allowed:
            break
        start += step
    return min(start, n // 2)


def block_means(series: ArrayLike, n_blocks: int) -> FloatArray:
    """Return the means (n_blocks,) of consecutive blocks of equal length; samples left over are cut from the start.

    Raises:
        MlFinetuneError: fewer than two blocks, or fewer samples than blocks.
    """
    x = _checked(series)
    if not 2 <= n_blocks <= len(x):
        raise MlFinetuneError(f"cannot cut {len(x)} samples into {n_blocks} blocks")
    length = len(x) // n_blocks
    means: FloatArray = x[len(x) - n_blocks * length :].reshape(n_blocks, length).mean(axis=1)
    return means


def block_error(series: ArrayLike, n_blocks: int) -> float:
    """Return the standard error of the mean from the spread of ``n_blocks`` block averages.

    Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989); the blocks must be long against the correlation time.
    """
    means = block_means(series, n_blocks)
    return float(means.std(ddof=1) / math.sqrt(n_blocks))


def _checked(series: ArrayLike) -> FloatArray:
    x = np.asarray(series, dtype=np.float64).reshape(-1)
    if x.size == 0:
        raise MlFinetuneError("cannot average an empty time series")
    if not np.isfinite(x).all():
        bad = np.flatnonzero(~np.isfinite(x))
        raise MlFinetuneError(f"a time series of {x.size} samples is not finite at samples {bad[:10].tolist()}")
    return x


def _inefficiency_and_variance(x: FloatArray) -> tuple[float, float]:
    """Return g and the variance of the samples, both corrected for the mean being taken from the same series."""
    n = len(x)
    shifted = x - x.mean()
    spectrum = np.fft.rfft(shifted, 2 * n)
    covariance = np.fft.irfft(spectrum * np.conj(spectrum))[:n] / n
    variance = float(covariance[0])
    if variance <= (1e-14 * float(np.abs(x).max())) ** 2:
        return 1.0, 0.0
    pairs = covariance[: 2 * (n // 2)].reshape(-1, 2).sum(axis=1)
    ended = np.flatnonzero(pairs <= 0.0)
    n_pairs = max(1, int(ended[0]) if len(ended) else len(pairs))
    total = 2.0 * float(np.minimum.accumulate(pairs[:n_pairs]).sum()) - variance
    total *= 1.0 + 2.0 * (2 * n_pairs - 1) / n
    variance += max(total, variance) / n
    return max(1.0, total / variance), variance


def _drift(x: FloatArray, error: float) -> float:
    """Return the difference between the two halves' means, in its standard error (that of each is sqrt(2) larger)."""
    middle = len(x) // 2
    return abs(float(x[middle:].mean() - x[:middle].mean())) / (2.0 * error) if error > 0 else 0.0
