r"""Radial distribution functions with error bands, and how far they are from a reference.

.. math::

    g_{ab}(r) = \Big\langle \frac{\Omega \, n_{ab}(r)}{N_a N_b \, v(r)} \Big\rangle, \qquad
    v(r) = \tfrac{4 \pi}{3} \left[(r + \Delta / 2)^3 - (r - \Delta / 2)^3\right]

with :math:`n_{ab}(r)` the ordered pairs of an atom of element a and another one of element b in the bin of width
:math:`\Delta` about r, and :math:`\Omega` the volume of each frame. This is the convention of
``ase.geometry.rdf.get_rdf``, with which it is compared in the tests; for an ideal gas of N atoms of one element it is
1 - 1/N. All images are counted, those of the atom itself too: beyond half of the height of the cell the function is
that of the crystal that repeats it, which is not that of a liquid. ASE's function goes through one frame and one pair
at a time, and loses the first atom where that is an atom's only neighbour (ASE 3.29).

Errors are those of block averages (Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989)). The number of independent
samples of a bin follows from them and from the variance of the single frames: :math:`\sigma^2 / \epsilon^2`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError
from aiida_mlfinetune.science.datasets.levels import FloatArray, IntArray
from aiida_mlfinetune.science.observables.trajectory import (
    Block,
    Trajectory,
    atoms_of,
    check_enough,
    check_radius,
    half_heights,
    n_steps,
    nearest_images,
)

IMAGES = 1.5
"""Up to this many heights of the cell, no image but those in the neighbouring cells is within reach."""
NEIGHBOURING_CELLS = np.array(list(itertools.product((-1, 0, 1), repeat=3)), dtype=np.float64)
MOST_BLOCKS = 20
SIGNIFICANT = 5.0
"""Standard errors by which a curve has to fall and rise for a minimum; the extremes of tens of bins differ by 4."""
MOST_DISTANCES = 400_000
"""Distances that are held at a time."""


@dataclass(frozen=True)
class RadialDistribution:
    """The radial distribution function of a pair of elements.

    Attributes:
        pair: the two elements.
        r: (k,) centres of the bins in angstrom.
        g: (k,) the function.
        error: (k,) its standard error.
        coordination: (k,) neighbours of the second element within the outer edge of each bin.
        peak: position of the highest maximum in angstrom, interpolated by a parabola.
        peak_error: its standard error (jackknife over the blocks).
        blocks: (n_blocks, k) averages over consecutive parts of the run.
        correlation_time: of the bins of the highest maximum, in frames.
        n_independent: number of independent frames, by those bins.
        n_frames: frames that were used; of a run with beads, steps, each of which is the mean over its beads.
        warnings: what makes it doubtful.
    """

    pair: tuple[str, str]
    r: FloatArray
    g: FloatArray
    error: FloatArray
    coordination: FloatArray
    peak: float
    peak_error: float
    blocks: FloatArray
    correlation_time: float
    n_independent: float
    n_frames: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CurveComparison:
    """How far a curve is from a reference.

    Attributes:
        difference: sum of |g - g_ref| over sum of g + g_ref; 0 for equal curves, 1 for those that share nothing.
        error: what the errors alone let one expect for ``difference`` to be uncertain by.
        chi_squared: mean of ((g - g_ref) / error)^2 over the bins with an error; near 1 for curves that agree.
            Neighbouring bins are not independent, so it is no more than a measure.
        largest: the largest |g - g_ref|.
        largest_at: where that is, in angstrom.
        n_bins: bins that were compared.
    """

    difference: float
    error: float
    chi_squared: float
    largest: float
    largest_at: float
    n_bins: int


def radial_distributions(
    trajectory: Trajectory, pairs: Sequence[tuple[str, str]], r_max: float, n_bins: int = 200
) -> list[RadialDistribution]:
    """Return the radial distribution functions of pairs of elements, in one pass over the run.

    Args:
        trajectory: a run of a periodic cell after equilibration.
        pairs: two elements each.
        r_max: angstrom.
        n_bins: of equal width, from 0 to ``r_max``.

    Raises:
        FramesError: fewer than 10 frames, an element that is absent, a pair of an element with one atom, no cell, or a
            cell too small for ``r_max``.
    """
    n_frames = n_steps(trajectory)
    check_enough(n_frames)
    if not pairs:
        raise FramesError("name at least one pair of elements")
    members = _members(trajectory, pairs, r_max, n_bins)
    n_blocks = min(MOST_BLOCKS, n_frames // 2)
    edges = np.linspace(0.0, r_max, n_bins + 1)
    shells = 4.0 * math.pi / 3.0 * np.diff(edges**3)
    sums, squares = np.zeros((len(pairs), n_blocks, n_bins)), np.zeros((len(pairs), n_bins))
    counts = np.zeros((len(pairs), n_bins))
    owner = (np.arange(n_frames) * n_blocks) // n_frames
    beads = trajectory.n_beads
    for block in trajectory.blocks():
        volumes = np.abs(np.linalg.det(block.cells[::beads]))
        start = block.start // beads
        for number, (one, two) in enumerate(pairs):
            found = _ordered_pairs(block, members[one], members[two], r_max, n_bins)
            found = found.reshape(-1, beads, n_bins).mean(axis=1)
            g = found * volumes[:, None] / (len(members[one]) * len(members[two]) * shells)
            np.add.at(sums[number], owner[start : start + len(volumes)], g)
            squares[number] += (g**2).sum(axis=0)
            counts[number] += found.sum(axis=0) / len(members[one])
    sizes = np.bincount(owner, minlength=n_blocks).astype(np.float64)
    centres = (edges[:-1] + edges[1:]) / 2
    return [
        _summary(pair, centres, sums[number], sizes, squares[number], np.cumsum(counts[number]) / n_frames)
        for number, pair in enumerate(pairs)
    ]


def frame_distributions(
    trajectory: Trajectory, pairs: Sequence[tuple[str, str]], r_max: float, n_bins: int = 200
) -> tuple[FloatArray, FloatArray]:
    """Return the centres of the bins (k,) in angstrom, and g(r) of each single frame (n_pairs, n, k).

    The mean of the latter over the frames is that of ``radial_distributions``, and its weighted mean that of another
    potential. Frames need not be equally spaced.

    Raises:
        FramesError: an element that is absent, a pair of an element with one atom, no cell, or a cell too small for
            ``r_max``.
    """
    members = _members(trajectory, pairs, r_max, n_bins)
    edges = np.linspace(0.0, r_max, n_bins + 1)
    shells = 4.0 * math.pi / 3.0 * np.diff(edges**3)
    curves = np.zeros((len(pairs), len(trajectory), n_bins))
    for block in trajectory.blocks():
        volumes = np.abs(np.linalg.det(block.cells))
        here = slice(block.start, block.start + len(volumes))
        for number, (one, two) in enumerate(pairs):
            found = _ordered_pairs(block, members[one], members[two], r_max, n_bins)
            curves[number, here] = found * volumes[:, None] / (len(members[one]) * len(members[two]) * shells)
    return (edges[:-1] + edges[1:]) / 2, curves


def compare_curves(
    r: ArrayLike,
    g: ArrayLike,
    error: ArrayLike,
    reference_r: ArrayLike,
    reference_g: ArrayLike,
    reference_error: ArrayLike | None = None,
) -> CurveComparison:
    """Return how far a curve (k,) with its error is from a reference (l,), which is interpolated linearly.

    Only bins within the range of the reference are compared. The difference is that of Schran et al., Proc. Natl. Acad.
    Sci. 118, e2110077118 (2021), who give 1 minus it in percent as the score of a potential.

    Raises:
        MlFinetuneError: arrays that do not fit, a reference out of order or out of range.
    """
    x, y, sigma = (np.asarray(values, dtype=np.float64).reshape(-1) for values in (r, g, error))
    at, wanted = (np.asarray(values, dtype=np.float64).reshape(-1) for values in (reference_r, reference_g))
    noise = np.zeros_like(wanted) if reference_error is None else np.asarray(reference_error, np.float64).reshape(-1)
    if not len(x) == len(y) == len(sigma) or not len(at) == len(wanted) == len(noise):
        raise MlFinetuneError("the arrays of a curve must be of one length: distances, values and errors")
    if len(at) < 2 or not (np.diff(at) > 0).all():
        raise MlFinetuneError("the distances of the reference curve must increase, and be two at least")
    inside = (x >= at[0]) & (x <= at[-1])
    if not inside.any():
        raise MlFinetuneError(
            f"the reference curve runs from {at[0]:g} to {at[-1]:g} angstrom, the other from {x[0]:g} to {x[-1]:g}: "
            "they share nothing. Are both in angstrom?"
        )
    x, y, sigma = x[inside], y[inside], sigma[inside]
    shift = y - np.interp(x, at, wanted)
    total = np.hypot(sigma, np.interp(x, at, noise))
    scale = float(np.abs(2 * y - shift).sum())
    known = np.isfinite(total) & (total > 0)
    worst = int(np.argmax(np.abs(shift)))
    return CurveComparison(
        difference=float(np.abs(shift).sum()) / scale if scale > 0 else 0.0,
        error=float(np.linalg.norm(total)) / scale if scale > 0 else 0.0,
        chi_squared=float(np.mean((shift[known] / total[known]) ** 2)) if known.any() else math.nan,
        largest=float(abs(shift[worst])),
        largest_at=float(x[worst]),
        n_bins=len(x),
    )


def first_minimum(r: ArrayLike, g: ArrayLike, error: ArrayLike | None = None, smoothing: float = 0.1) -> float:
    """Return where g (k,) is smallest between its first two maxima, in the unit of ``r`` (k,).

    The curve is smoothed over ``smoothing``. A maximum counts if the curve falls by a fifth of the height of the
    highest one, a minimum if it rises again by 0.1, and both only by more than 5 standard errors of the difference
    (``error`` (k,) of ``g``; the counts of neighbouring bins are taken for independent): noise makes none. The minimum
    is the middle of what lies within one standard error of the lowest value around it.

    Raises:
        MlFinetuneError: the curve does not fall and rise again within its range, or no further than its errors.
    """
    x, y = np.asarray(r, dtype=np.float64), np.asarray(g, dtype=np.float64)
    noise = np.zeros_like(y) if error is None else np.nan_to_num(np.asarray(error, dtype=np.float64), posinf=1e6)
    width = max(1, round(smoothing / float(x[1] - x[0])))
    window = np.ones(width) / width
    smooth = np.convolve(y, window, mode="same")
    sigma = np.sqrt(np.convolve(noise**2, window**2, mode="same"))
    threshold = 0.2 * float(smooth.max())
    top, low, falling, doubtful = 0, 0, False, False
    for i, value in enumerate(smooth):
        if not falling:
            top = i if value > smooth[top] else top
            if smooth[top] - value > threshold:
                falling = smooth[top] - value > SIGNIFICANT * math.hypot(sigma[top], sigma[i])
                doubtful, low = doubtful or not falling, i
        elif value < smooth[low]:
            low = i
        elif value - smooth[low] > min(threshold, 0.1):
            if value - smooth[low] > SIGNIFICANT * math.hypot(sigma[low], sigma[i]):
                return _middle(x, smooth, low, smooth[low] + sigma[low] + 1e-12)
            doubtful = True
    if doubtful:
        raise MlFinetuneError(
            f"the radial distribution function has no minimum up to {x[-1]:g} angstrom that stands out of its errors: "
            "run longer, take wider bins, or give r_min_A yourself"
        )
    raise MlFinetuneError(
        f"the radial distribution function has no first minimum up to {x[-1]:g} angstrom: give r_min_A yourself, or a "
        "larger r_max_A"
    )


def _middle(x: FloatArray, values: FloatArray, low: int, ceiling: float) -> float:
    """Return the middle of the unbroken stretch of ``values`` (k,) up to ``ceiling`` that holds the index ``low``."""
    above = np.flatnonzero(values > ceiling)
    first = int(above[above < low].max(initial=-1)) + 1
    last = int(above[above > low].min(initial=len(values))) - 1
    return float((x[first] + x[last]) / 2)


def _members(
    trajectory: Trajectory, pairs: Sequence[tuple[str, str]], r_max: float, n_bins: int
) -> dict[str, IntArray]:
    """Return the atoms of each element of the pairs, after the checks that every distribution needs."""
    if not r_max > 0 or n_bins < 2:
        raise FramesError(f"need a positive r_max and two bins, got {r_max:g} angstrom and {n_bins} bins")
    members = {symbol: atoms_of(trajectory, symbol) for pair in pairs for symbol in pair}
    for one, two in pairs:
        if one == two and len(members[one]) < 2:
            raise FramesError(f"there is only one atom of {one}, so there is no pair {one}-{two}")
    check_radius(trajectory, r_max, "a radial distribution function", IMAGES)
    return members


def _ordered_pairs(block: Block, first: IntArray, second: IntArray, r_max: float, n_bins: int) -> FloatArray:
    """Return (m, n_bins) the ordered pairs of each frame by distance, no atom with itself but with its own images."""
    same = len(first) == len(second) and bool((first == second).all())
    one, two = np.triu_indices(len(first), 1) if same else np.indices((len(first), len(second))).reshape(2, -1)
    size = max(1, MOST_DISTANCES // max(1, len(one)))
    found = np.zeros((len(block.positions), n_bins))
    for start in range(0, len(found), size):
        positions, cells = block.positions[start : start + size], block.cells[start : start + size]
        vectors = nearest_images(positions[:, second[two]] - positions[:, first[one]], cells)
        here = found[start : start + size]
        times = 2 if same else 1
        if r_max <= half_heights(cells).min():
            here += times * _by_distance(vectors, r_max, n_bins)
            continue
        for shift in NEIGHBOURING_CELLS:
            vector = (shift @ cells)[:, None]
            here += times * _by_distance(vectors + vector, r_max, n_bins)
            if same and shift.any():
                here += len(first) * _by_distance(vector, r_max, n_bins)
    return found


def _by_distance(vectors: FloatArray, r_max: float, n_bins: int) -> FloatArray:
    """Return (m, n_bins) the numbers of vectors (m, k, 3) by their length."""
    places = (np.sqrt(np.einsum("mpi,mpi->mp", vectors, vectors)) * (n_bins / r_max)).astype(np.int64)
    rows, columns = np.nonzero(places < n_bins)
    flat = np.bincount(rows * n_bins + places[rows, columns], minlength=len(vectors) * n_bins)
    return flat.reshape(-1, n_bins).astype(np.float64)


def _summary(
    pair: tuple[str, str], r: FloatArray, sums: FloatArray, sizes: FloatArray, squares: FloatArray, inside: FloatArray
) -> RadialDistribution:
    n_frames, n_blocks = float(sizes.sum()), len(sizes)
    g = sums.sum(axis=0) / n_frames
    blocks = sums / sizes[:, None]
    error = blocks.std(axis=0, ddof=1) / math.sqrt(n_blocks)
    peak = _peak(r, g)
    replicas = np.array([_peak(r, (sums.sum(axis=0) - sums[b]) / (n_frames - sizes[b])) for b in range(n_blocks)])
    peak_error = math.sqrt((n_blocks - 1) / n_blocks * float(((replicas - replicas.mean()) ** 2).sum()))
    top = slice(max(0, int(np.argmax(g)) - 1), int(np.argmax(g)) + 2)
    variance = float((squares / n_frames - g**2)[top].sum())
    spread = float((error[top] ** 2).sum())
    independent = min(n_frames, max(1.0, variance / spread)) if spread > 0 else 1.0
    correlation = (n_frames / independent - 1) / 2 if spread > 0 else 0.0
    warnings = []
    if spread == 0.0:
        warnings.append("the highest maximum is the same in all parts of the run, so that its error is unknown")
    elif n_frames / n_blocks < 5 * correlation:
        warnings.append(
            f"parts of {n_frames / n_blocks:.0f} frames are short against the correlation time of {correlation:.1f} "
            "frames: the errors are too small, run longer"
        )
    if not g.any():
        warnings.append(f"no pair {pair[0]}-{pair[1]} is closer than {r[-1]:.2f} angstrom")
    return RadialDistribution(
        pair, r, g, error, inside, peak, peak_error, blocks, correlation, independent, int(n_frames), tuple(warnings)
    )


def _peak(r: FloatArray, g: FloatArray) -> float:
    """Return where the parabola through the highest value and its neighbours is highest."""
    i = int(np.argmax(g))
    if not 0 < i < len(g) - 1:
        return float(r[i])
    left, middle, right = g[i - 1 : i + 2]
    curvature = left - 2 * middle + right
    return float(r[i] + (0.5 * (left - right) / curvature if curvature < 0 else 0.0) * (r[1] - r[0]))
