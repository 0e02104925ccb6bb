r"""Averages of independent replicas of one run, pooled; and seeds for them.

With n replicas of equal length, averages :math:`a_i` and standard errors :math:`\epsilon_i`, the pooled average is the
mean of the :math:`a_i`, and

.. math::

    \epsilon_\mathrm{within} = \frac{1}{n} \sqrt{\sum_i \epsilon_i^2}, \qquad
    \epsilon_\mathrm{between}^2 = \frac{1}{n (n - 1)} \sum_i (a_i - \bar a)^2, \qquad
    \chi^2 = \sum_i \frac{(a_i - \hat a)^2}{\epsilon_i^2}

with :math:`\hat a` the mean weighted by :math:`1 / \epsilon_i^2`. Replicas that sample the same state give a
:math:`\chi^2` of n - 1 degrees of freedom. Where they do not, their own errors are too small: none of the runs has seen
all that it should.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from aiida_mlfinetune.common.errors import MlFinetuneError

UNLIKELY = 0.01
"""Replicas disagree where chi^2 is as large as theirs with less than this probability."""


@dataclass(frozen=True)
class Pooled:
    """The average of several independent runs.

    Attributes:
        value: mean over the replicas, in their unit.
        error: the standard error from within the replicas; where they disagree or an error is unknown, the larger one
            of that and the error from between them.
        within: standard error that the replicas claim; infinite if one of them has none.
        between: standard error from their spread.
        chi_squared: of the replicas about their weighted mean; NaN where an error is unknown or zero.
        probability: of a chi_squared as large or larger, if they sample the same; NaN as above.
        warnings: what makes it doubtful.
    """

    value: float
    error: float
    within: float
    between: float
    chi_squared: float
    probability: float
    warnings: tuple[str, ...] = ()


def pool(values: ArrayLike, errors: ArrayLike) -> Pooled:
    """Return the pooled average of replicas from their averages (n,) and standard errors (n,), infinite if unknown.

    Raises:
        MlFinetuneError: fewer than two replicas, arrays of different length, or negative errors.
    """
    own, sigma = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if own.ndim != 1 or own.shape != sigma.shape or len(own) < 2:
        raise MlFinetuneError(f"need two replicas or more with an error each, got {own.size} and {sigma.size}")
    if not np.isfinite(own).all() or not (sigma >= 0).all():
        raise MlFinetuneError("averages of replicas must be finite, and their errors not negative")
    n = len(own)
    within = float(np.sqrt((sigma**2).sum())) / n
    between = float(own.std(ddof=1)) / math.sqrt(n)
    if not np.isfinite(sigma).all():
        warning = "a replica is too short for an error of its own: the error is that of the spread of the replicas"
        return Pooled(float(own.mean()), between, within, between, math.nan, math.nan, (warning,))
    if not (sigma > 0).all():
        return Pooled(float(own.mean()), max(within, between), within, between, math.nan, math.nan)
    centre = np.average(own, weights=1 / sigma**2)
    chi_squared = float((((own - centre) / sigma) ** 2).sum())
    probability = float(chdtrc(n - 1, chi_squared))
    if probability >= UNLIKELY:
        return Pooled(float(own.mean()), within, within, between, chi_squared, probability)
    warning = (
        f"the {n} replicas disagree (chi^2 {chi_squared:.1f} for {n - 1} degrees of freedom, probability "
        f"{probability:.1g}): each is too short to see all states, so the error is that of their spread; run longer"
    )
    return Pooled(float(own.mean()), max(within, between), within, between, chi_squared, probability, (warning,))


def replica_seeds(seed: int, n_replicas: int) -> list[int]:
    """Return ``n_replicas`` different seeds between 1 and 2^31 - 1, the first of which is ``seed``.

    More replicas begin with the seeds of fewer, so that those need not run again.
    """
    seeds, number = [seed], 0
    while len(seeds) < n_replicas:
        number += 1
        candidate = int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) % (2**31 - 1) + 1
        if candidate not in seeds and candidate < 2**31:
            seeds.append(candidate)
    return seeds[:n_replicas]
