r"""Averages at a reference level from a run with another potential, and whether to believe them.

A run at temperature T with the potential U visits n frames; the reference level gives each the energy
:math:`U_\mathrm{ref}`. With :math:`\Delta = U_\mathrm{ref} - U` (the term p V of a constant pressure cancels):

.. math::

    w_i \propto e^{-\Delta_i / k T}, \qquad
    \langle A \rangle_\mathrm{ref} = \sum_i w_i A_i \Big/ \sum_i w_i, \qquad
    \langle A \rangle_\mathrm{ref} \approx \langle A \rangle - \mathrm{cov}(A, \Delta) / k T, \qquad
    N_\mathrm{eff} = \Big( \sum_i w_i \Big)^2 \Big/ \sum_i w_i^2

========================  ==========================================================  ======================
symbol                    meaning                                                     here
========================  ==========================================================  ======================
:math:`U`                 energy of the potential of the run, eV per cell             ``sampled_energy``
:math:`U_\mathrm{ref}`    energy at the reference level, eV per cell                  ``reference_energy``
:math:`w_i`               weights, with the sum 1                                     ``weights``
:math:`A_i`               what is averaged: a number or an array for each frame       ``values``
:math:`N_\mathrm{eff}`    effective sample size                                       ``n_effective``
:math:`s`                 standard deviation of :math:`\Delta / k T`                  ``spread``
========================  ==========================================================  ======================

Sources: the weights and their use with a machine-learned potential, Kaur et al., Faraday Discuss. 256, 120 (2025),
after Torrie and Valleau, J. Comput. Phys. 23, 187 (1977); the effective sample size, Kish, Survey Sampling (1965); the
cumulant form, exact where A and :math:`\Delta` are jointly Gaussian, Ceriotti et al., Proc. R. Soc. A 468, 2 (2012).

Errors: circular block bootstrap (Politis and Romano, 1992), the same resampled frames for all estimates, so that the
errors of their differences know that they come from one run. Blocks are ``BLOCK_LENGTH`` correlation times long. A
block of L frames misses the correlations across its ends; for an exponential decay that is known, and added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.common.units import KB_EV
from aiida_mlfinetune.science.averages.statistics import statistical_inefficiency
from aiida_mlfinetune.science.datasets.levels import FloatArray

MIN_FRAMES = 10
"""Fewer frames than this are not reweighted: neither the average nor its error means anything."""
MIN_EFFECTIVE = 10.0
"""With fewer effective and independent frames than this an average is unreliable: its error is then a guess."""
MAX_SHARE = 0.2
"""A frame that alone has more than this of all the weight makes an average unreliable."""
MIN_OVERLAP = 0.3
"""Least share of the reference's distribution that the run covers: that of two Gaussians 2.07 deviations apart."""
MAX_DISAGREEMENT = 3.0
"""Estimates further apart than this, in standard errors of their difference, are said to disagree."""
BLOCK_LENGTH = 6.0
"""Length of a block of the bootstrap in correlation times."""
N_BOOTSTRAP = 400
"""Resampled sets of frames; the error itself is then good to 1 / sqrt(2 * 400), some 4 %."""
ROUNDING = 1e-6
"""Energy differences that spread by less, in kT, are those of rounding, which has no correlation time."""
_CHUNK = 4_000_000
"""Numbers of one matrix of the bootstrap, at most: memory is constant."""


@dataclass(frozen=True)
class Weights:
    """The weights of frames, and what they say about the sample.

    Attributes:
        weights: (n,) with the sum 1.
        difference: (n,) U_ref - U in kT, relative to its mean.
        mean_difference: mean of U_ref - U in eV.
        n_effective: (sum w)^2 / sum w^2, between 1 and n.
        largest_share: share of the largest weight.
        overlap: sum of min(1/n, w), the area that the distributions of run and reference share; 1 if they are equal.
        spread: standard deviation of ``difference``; for Gaussian differences N_eff / n is exp(-spread^2).
        inefficiency: statistical inefficiency of the weights, 1 for independent frames.
        reasons: why averages with these weights are unreliable, in words; empty if they are reliable.
    """

    weights: FloatArray
    difference: FloatArray
    mean_difference: float
    n_effective: float
    largest_share: float
    overlap: float
    spread: float
    inefficiency: float
    reasons: tuple[str, ...]

    @property
    def reliable(self) -> bool:
        """Whether averages with these weights can be trusted with their errors."""
        return not self.reasons

    @property
    def n_independent(self) -> float:
        """Effective sample size, less the correlation in time."""
        return self.n_effective / self.inefficiency


@dataclass(frozen=True)
class Average:
    """One estimate of an average with its standard error, numbers or arrays (...) alike, in the unit of the values."""

    value: FloatArray
    error: FloatArray


@dataclass(frozen=True)
class Reweighted:
    """The averages of one observable, shapes (...) those of its value in one frame.

    Attributes:
        raw: of the run, as the potential of the run gives it.
        reweighted: at the reference level, exponential weights.
        cumulant: at the reference level, second order cumulant.
        shift: reweighted - raw, with the error of the difference.
        cumulant_shift: cumulant - reweighted, with the error of the difference.
        weights: of the frames.
        block_length: of the bootstrap, in frames.
    """

    raw: Average
    reweighted: Average
    cumulant: Average
    shift: Average
    cumulant_shift: Average
    weights: Weights
    block_length: int

    @property
    def shift_sigma(self) -> FloatArray:
        """(...) shift in its standard errors; 0 where there is none."""
        return _in_sigma(self.shift, self.raw.error)

    @property
    def cumulant_sigma(self) -> FloatArray:
        """(...) difference of cumulant and exponential average in its standard errors; 0 where there is none."""
        return _in_sigma(self.cumulant_shift, self.raw.error)

    @property
    def notes(self) -> tuple[str, ...]:
        """Estimates that disagree, in words; no reason for distrust, as the cumulant is an approximation."""
        return _notes(self)

    @property
    def verdict(self) -> str:
        """Reliable or not, and why, and how the estimates agree, in one sentence."""
        weights = self.weights
        numbers = f"N_eff {weights.n_effective:.1f} of {len(weights.weights)} frames"
        head = f"reliable ({numbers})" if weights.reliable else f"UNRELIABLE ({numbers}): {'; '.join(weights.reasons)}"
        return "; ".join((head, *self.notes))


def reweighting_weights(sampled_energy: ArrayLike, reference_energy: ArrayLike, temperature: float) -> Weights:
    """Return the weights of frames, see the formulas at the top of this module.

    Args:
        sampled_energy: (n,) eV per cell, of the potential that made the run.
        reference_energy: (n,) eV per cell.
        temperature: K, of the run.

    Raises:
        MlFinetuneError: arrays of different length, fewer than ``MIN_FRAMES`` frames, energies that are not finite, a
            temperature that is not positive.
    """
    sampled = np.asarray(sampled_energy, dtype=np.float64).reshape(-1)
    reference = np.asarray(reference_energy, dtype=np.float64).reshape(-1)
    if sampled.shape != reference.shape:
        raise MlFinetuneError(f"{sampled.size} energies of the run do not go with {reference.size} of the reference")
    if len(sampled) < MIN_FRAMES:
        raise MlFinetuneError(f"{len(sampled)} frames are too few to reweight: take at least {MIN_FRAMES}")
    if not (np.isfinite(sampled).all() and np.isfinite(reference).all()):
        raise MlFinetuneError("frames without an energy at both levels cannot be reweighted: leave them out")
    if not temperature > 0:
        raise MlFinetuneError(f"the temperature must be positive, got {temperature} K")
    difference = reference - sampled
    mean = float(difference.mean())
    reduced = (difference - mean) / (KB_EV * temperature)
    weights = np.exp(-(reduced - reduced.min()))
    weights /= weights.sum()
    n = len(weights)
    n_effective = 1.0 / float((weights**2).sum())
    share = float(weights.max())
    overlap = float(np.minimum(weights, 1.0 / n).sum())
    spread = float(reduced.std(ddof=1))
    inefficiency = statistical_inefficiency(weights) if spread > ROUNDING else 1.0
    return Weights(
        weights=weights,
        difference=reduced,
        mean_difference=mean,
        n_effective=n_effective,
        largest_share=share,
        overlap=overlap,
        spread=spread,
        inefficiency=inefficiency,
        reasons=_reasons(n_effective, inefficiency, share, overlap),
    )


def reweight(
    values: ArrayLike,
    weights: Weights,
    reference_values: ArrayLike | None = None,
    *,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> Reweighted:
    """Return the averages of an observable in the run and at the reference level, with errors and verdict.

    Args:
        values: (n, ...) of the observable, a number or an array (a histogram, a distribution function) for each frame,
            in order of time.
        weights: of the frames, in the same order.
        reference_values: (n, ...) where the observable itself depends on the level, as the energy does.
        n_bootstrap: resampled sets of frames, at least 50.
        seed: of the bootstrap.

    Raises:
        MlFinetuneError: values that are not finite or do not go with the weights, too few resampled sets.
    """
    run = _values(values, weights, "values")
    shape = run.shape[1:]
    own = run if reference_values is None else _values(reference_values, weights, "reference values")
    if own.shape != run.shape:
        raise MlFinetuneError(f"reference values of shape {own.shape} do not go with values of shape {run.shape}")
    if n_bootstrap < 50:
        raise MlFinetuneError(f"n_bootstrap is {n_bootstrap}: an error takes at least 50 resampled sets")
    n = len(run)
    run, own = run.reshape(n, -1), own.reshape(n, -1)
    offset = np.concatenate([run.mean(axis=0), own.mean(axis=0)])
    run, own = run - offset[: run.shape[1]], own - offset[run.shape[1] :]

    estimates = _estimates(np.full((1, n), 1.0), run, own, weights)[:, 0]
    influence = _influence(run, own, weights, estimates)
    inefficiencies = np.array([_mean_inefficiency(series) for series in influence])
    length = _block_length(float(inefficiencies.max()), n)
    samples = _bootstrap(run, own, weights, length, n_bootstrap, seed)
    n_blocks = n / length
    errors = np.empty_like(estimates)
    for index, (spread, g) in enumerate(zip(samples.std(axis=1, ddof=1), inefficiencies, strict=True)):
        errors[index] = spread * math.sqrt(n_blocks / (n_blocks - 1.0) / _seen_by_blocks(length, g))
    shifts = np.stack([offset[: run.shape[1]], offset[run.shape[1] :], offset[run.shape[1] :]])
    raw, reweighted, cumulant = estimates[:3] + shifts
    raw_average, reweighted_average, cumulant_average, shift, cumulant_shift = (
        Average(value.reshape(shape), error.reshape(shape))
        for value, error in zip(
            (raw, reweighted, cumulant, reweighted - raw, cumulant - reweighted), errors, strict=True
        )
    )
    return Reweighted(
        raw=raw_average,
        reweighted=reweighted_average,
        cumulant=cumulant_average,
        shift=shift,
        cumulant_shift=cumulant_shift,
        weights=weights,
        block_length=length,
    )


def _estimates(counts: FloatArray, run: FloatArray, own: FloatArray, weights: Weights) -> FloatArray:
    """Return (5, b, m): raw, reweighted, cumulant and their differences, for counts (b, n) of the frames."""
    n = run.shape[0]
    mean_run, mean_own = counts @ run / n, counts @ own / n
    w, delta = weights.weights, weights.difference
    reweighted = (counts @ (w[:, None] * own)) / (counts @ w)[:, None]
    mean_delta = (counts @ delta / n)[:, None]
    covariance = (counts @ (delta[:, None] * own) / n - mean_delta * mean_own) * n / (n - 1)
    cumulant = mean_own - covariance
    return np.stack([mean_run, reweighted, cumulant, reweighted - mean_run, cumulant - reweighted])


def _influence(run: FloatArray, own: FloatArray, weights: Weights, estimates: FloatArray) -> FloatArray:
    """Return (5, n, m): what each frame adds to each estimate to first order, whose correlation in time counts."""
    n = len(run)
    w, delta = weights.weights[:, None], weights.difference[:, None]
    raw = run - run.mean(axis=0)
    reweighted = n * w * (own - estimates[1])
    centred = own - own.mean(axis=0)
    product = delta * centred
    cumulant = centred - (product - product.mean(axis=0))
    return np.stack([raw, reweighted, cumulant, reweighted - raw, cumulant - reweighted])


def _mean_inefficiency(series: FloatArray) -> float:
    """Return the statistical inefficiency of (n, m) series, those of the m columns weighted by their variance."""
    variances = series.var(axis=0)
    if not variances.sum() > 0:
        return 1.0
    kept = np.flatnonzero(variances > 1e-12 * variances.max())
    values = np.array([statistical_inefficiency(series[:, column]) for column in kept])
    return float((values * variances[kept]).sum() / variances[kept].sum())


def _block_length(inefficiency: float, n: int) -> int:
    """Return the length of the blocks in frames; at least five blocks are left of ``n`` frames."""
    return int(np.clip(math.ceil(BLOCK_LENGTH * (inefficiency - 1.0) / 2.0), 1, max(1, n // 5)))


def _seen_by_blocks(length: int, inefficiency: float) -> float:
    r"""Return the share of the variance of the mean that blocks of ``length`` frames see.

    For correlations that decay as :math:`\rho^k`, with :math:`g = (1 + \rho) / (1 - \rho)`, the mean of L frames has
    the variance :math:`\sigma^2 / L \, [1 + 2 \sum_{k<L} (1 - k / L) \rho^k]`, against :math:`\sigma^2 g / L`.
    """
    rho = (inefficiency - 1.0) / (inefficiency + 1.0)
    k = np.arange(1, length)
    return float(1.0 + 2.0 * ((1.0 - k / length) * rho**k).sum()) / inefficiency


def _bootstrap(
    run: FloatArray, own: FloatArray, weights: Weights, length: int, n_bootstrap: int, seed: int
) -> FloatArray:
    """Return (5, n_bootstrap, m) estimates of frames resampled in circular blocks."""
    n = len(run)
    random = np.random.default_rng(seed)
    n_blocks = math.ceil(n / length)
    rows = max(1, _CHUNK // n)
    parts = []
    for start in range(0, n_bootstrap, rows):
        size = min(rows, n_bootstrap - start)
        firsts = random.integers(0, n, size=(size, n_blocks))
        chosen = ((firsts[:, :, None] + np.arange(length)) % n).reshape(size, -1)[:, :n]
        counts = np.bincount((chosen + n * np.arange(size)[:, None]).reshape(-1), minlength=size * n)
        parts.append(_estimates(counts.reshape(size, n).astype(np.float64), run, own, weights))
    return np.concatenate(parts, axis=1)


def _reasons(n_effective: float, inefficiency: float, share: float, overlap: float) -> tuple[str, ...]:
    reasons = []
    if n_effective / inefficiency < MIN_EFFECTIVE:
        correlated = f" in {inefficiency:.1f} correlated ones" if inefficiency > 1.5 else ""
        reasons.append(
            f"{n_effective:.1f} effective frames{correlated} are less than {MIN_EFFECTIVE:g} independent ones"
        )
    if share > MAX_SHARE:
        reasons.append(f"one frame has {share:.0%} of the weight, more than {MAX_SHARE:.0%}")
    if overlap < MIN_OVERLAP:
        reasons.append(f"run and reference overlap by {overlap:.2f}, less than {MIN_OVERLAP:g}")
    return tuple(reasons)


def _notes(result: Reweighted) -> tuple[str, ...]:
    notes = []
    for text, sigma in (
        ("run and reference differ", result.shift_sigma),
        ("cumulant and exponential average differ", result.cumulant_sigma),
    ):
        if sigma.size == 1 and abs(float(sigma.reshape(-1)[0])) > MAX_DISAGREEMENT:
            notes.append(f"{text} by {abs(float(sigma.reshape(-1)[0])):.1f} sigma")
        elif sigma.size > 1 and (root := math.sqrt(float((sigma**2).mean()))) > MAX_DISAGREEMENT:
            notes.append(f"{text} by {root:.1f} sigma, root mean square over {sigma.size} values")
    return tuple(notes)


def _in_sigma(difference: Average, scale: FloatArray) -> FloatArray:
    """Return a difference in its standard errors; one whose error is rounding, against that of the run, is none."""
    error = np.where(difference.error > 1e-9 * scale, difference.error, np.inf)
    return np.asarray(difference.value / error)


def _values(values: ArrayLike, weights: Weights, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or len(array) != len(weights.weights):
        raise MlFinetuneError(f"{name} of shape {array.shape} do not go with {len(weights.weights)} weights")
    if not np.isfinite(array).all():
        raise MlFinetuneError(f"the {name} to be reweighted are not all finite")
    return array
