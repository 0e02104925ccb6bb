r"""Mean squared displacement, averaged over time origins, and the diffusion coefficient.

.. math::

    \mathrm{MSD}(t) = \big\langle |u_i(t_0 + t) - u_i(t_0)|^2 \big\rangle_{i, t_0}, \qquad
    D = \frac{1}{6} \frac{d\,\mathrm{MSD}}{d t}

The trajectory is unwrapped by adding up displacements to the nearest image, which stays right in a cell that changes
(von Buelow, Bullerjahn and Hummer, J. Chem. Phys. 153, 021101 (2020)); one that is unwrapped already stays as it is.
The sum over origins is a correlation, computed by fast Fourier transform (Kneller et al., Comput. Phys. Commun. 91, 191
(1995)). Origins are taken in parts as long as the longest lag: the cost is linear in the length of the run, and memory
does not grow with it.

Every part gives a slope of its own, and the error of D is that of the mean of this series of slopes, their correlation
included: displacements over overlapping times, and those of atoms that move together, are no independent samples.
The effect of the size of the cell on D (Yeh and Hummer, J. Phys. Chem. B 108, 15873 (2004)) is not corrected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.averages.statistics import statistical_inefficiency, time_average
from aiida_mlfinetune.science.datasets.levels import FloatArray, IntArray
from aiida_mlfinetune.science.observables.trajectory import Centroids, Trajectory, check_enough, nearest_images

LONGEST_LAG = 1000
"""Frames; by default no lag is longer, so that memory is bounded."""
PARTS = 20
"""Parts that a run has by default."""
FIT_FROM = 0.2
"""The slope is fitted from this part of the longest lag on: what comes before is no diffusion yet."""
LARGEST_JUMP = 0.4
"""An atom that moves by more of a cell vector than this between two frames may have been unwrapped wrongly."""


@dataclass(frozen=True)
class Diffusion:
    """Mean squared displacement and diffusion coefficient.

    Attributes:
        time: (k,) lags in fs, from 0.
        msd: (k,) mean squared displacement in angstrom^2.
        error: (k,) its standard error.
        value: diffusion coefficient in angstrom^2/fs.
        value_error: its standard error.
        exponent: slope of log MSD against log t over the fitted lags: 1 for diffusion, 2 for free flight, 0 in a solid.
        fit_range: first and last lag of the fit, in fs.
        correlation_time: of the slopes of the parts, in frames.
        n_independent: number of independent parts.
        n_frames: frames that were used.
        warnings: what makes it doubtful.
    """

    time: FloatArray
    msd: FloatArray
    error: FloatArray
    value: float
    value_error: float
    exponent: float
    fit_range: tuple[float, float]
    correlation_time: float
    n_independent: float
    n_frames: int
    warnings: tuple[str, ...] = ()


def diffusion(
    trajectory: Trajectory, atoms: IntArray, interval: float, max_lag: int | None = None, fit_from: float = FIT_FROM
) -> Diffusion:
    """Return mean squared displacement and diffusion coefficient of some atoms.

    Of a run with beads it is that of the centroids.

    Args:
        trajectory: a run after equilibration.
        atoms: (a,) their indices.
        interval: fs between frames.
        max_lag: longest lag in frames; by default a twentieth of the run, 5 at least and 1000 at most.
        fit_from: part of the longest lag where the fit of the slope begins.

    Raises:
        FramesError: fewer than 10 frames, no atoms, an interval that is not positive, a lag over half of the run or
            under 2 frames, a fit from beyond the last but one lag.
    """
    trajectory = Centroids(trajectory)
    n_frames = len(trajectory)
    check_enough(n_frames)
    lag = min(LONGEST_LAG, max(5, n_frames // PARTS)) if max_lag is None else int(max_lag)
    if len(atoms) == 0:
        raise FramesError("name at least one atom whose displacement is asked for")
    if not interval > 0:
        raise FramesError(f"the time between frames must be positive, got {interval:g} fs")
    if not 2 <= lag <= n_frames // 2:
        raise FramesError(
            f"the longest lag is {lag} frames, but must lie between 2 and half of the run, {n_frames // 2} frames"
        )
    begin = max(1, math.ceil(fit_from * lag)) if 0 <= fit_from < 1 else lag
    if begin >= lag:
        raise FramesError(f"fit_from is {fit_from:g}, but must leave two lags at least of {lag}")
    unwrapped = _Unwrapped(trajectory, atoms)
    parts = np.array([_squared_displacements(piece, lag) for piece in _pieces(unwrapped, lag)])
    msd = parts.mean(axis=0)
    times: FloatArray = np.arange(lag + 1, dtype=np.float64) * interval
    shape = times[begin:] - times[begin:].mean()
    slopes = parts[:, begin:] @ shape / float(shape @ shape) / 6
    average = time_average(slopes, equilibration=0)
    warnings = list(average.warnings)
    if math.isinf(average.error):
        warnings = [f"the longest lag of {lag} frames leaves {len(parts)} parts, too few for an error: lower it"]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(times[begin:]), np.log(msd[begin:])
    exponent = float(np.polyfit(*logs, 1)[0]) if np.isfinite(logs[1]).all() else 0.0
    if not 0.8 < exponent < 1.2:
        warnings.append(
            f"the mean squared displacement grows as t^{exponent:.2f} over the fitted lags, not linearly: "
            + ("a solid, or lags that are too short" if exponent < 1 else "lags that are too short")
        )
    if unwrapped.largest_jump > LARGEST_JUMP:
        warnings.append(
            f"an atom moves by {unwrapped.largest_jump:.2f} cell vectors between two frames: it may have been taken "
            "for its image, store frames more often"
        )
    return Diffusion(
        time=times,
        msd=msd,
        error=_errors(parts),
        value=average.mean,
        value_error=average.error,
        exponent=exponent,
        fit_range=(float(times[begin]), float(times[-1])),
        correlation_time=average.correlation_time * lag,
        n_independent=average.n_independent,
        n_frames=n_frames,
        warnings=tuple(warnings),
    )


class _Unwrapped:
    """The frames of some atoms, one after the other, unwrapped; remembers the largest jump in cell vectors."""

    def __init__(self, trajectory: Trajectory, atoms: IntArray) -> None:
        self.trajectory, self.atoms, self.largest_jump = trajectory, atoms, 0.0

    def blocks(self) -> Iterator[FloatArray]:
        """Yield (m, a, 3) angstrom."""
        place: FloatArray | None = None
        last: FloatArray | None = None
        periodic = bool(self.trajectory.pbc.all())
        for block in self.trajectory.blocks():
            positions = block.positions[:, self.atoms]
            if not periodic:
                yield positions
                continue
            if last is None or place is None:
                last, place = positions[0], positions[0]
            steps = nearest_images(np.diff(np.concatenate([last[None], positions]), axis=0), block.cells)
            self.largest_jump = max(self.largest_jump, float(np.abs(steps @ np.linalg.inv(block.cells)).max()))
            unwrapped = place + np.cumsum(steps, axis=0)
            last, place = positions[-1], unwrapped[-1]
            yield unwrapped


def _pieces(unwrapped: _Unwrapped, lag: int) -> Iterator[FloatArray]:
    """Yield pieces of twice the lag, each beginning one lag after the one before; the run's last frames may be left."""
    held: list[FloatArray] = []
    length = 0
    for block in unwrapped.blocks():
        held.append(block)
        length += len(block)
        if length < 2 * lag:
            continue
        joined = np.concatenate(held)
        first = 0
        while len(joined) - first >= 2 * lag:
            yield joined[first : first + 2 * lag]
            first += lag
        joined = joined[first:].copy()
        held, length = [joined], len(joined)


def _squared_displacements(piece: FloatArray, lag: int) -> FloatArray:
    """Return (lag + 1,) the squared displacements from the first ``lag`` frames of (2 lag, a, 3), averaged.

    |u_j - u_i|^2 = |u_j|^2 + |u_i|^2 - 2 u_i u_j, summed over i < lag with j = i + t.
    """
    centred = piece - piece.mean(axis=0)
    flat = centred.reshape(len(piece), -1)
    size = next_fast_len(3 * lag, real=True)
    origins = rfft(flat[:lag], size, axis=0)
    products = irfft((np.conj(origins) * rfft(flat, size, axis=0)).sum(axis=1), size)[: lag + 1]
    squares = np.concatenate([[0.0], np.cumsum((flat**2).sum(axis=1))])
    ends = np.array([squares[min(t + lag, 2 * lag)] - squares[t] for t in range(lag + 1)])
    total = squares[lag] + ends - 2 * products
    result: NDArray[np.float64] = np.maximum(total, 0.0) / (lag * piece.shape[1])
    result[0] = 0.0
    return result


def _errors(parts: FloatArray) -> FloatArray:
    """Return the standard errors (k,) of the means over correlated parts (n, k)."""
    n = len(parts)
    if n < 4:
        return np.full(parts.shape[1], math.inf)
    factors = np.array([statistical_inefficiency(column) for column in parts.T])
    return np.asarray(parts.std(axis=0, ddof=1) * np.sqrt(factors / n))
