r"""Which polymorph is the most stable, and how sure each ordering is.

Two polymorphs i and j with enthalpies per molecule H are told apart by

.. math::

    \Delta_{ij} = H_j - H_i, \qquad z_{ij} = \Delta_{ij} / \sqrt{\sigma_i^2 + \sigma_j^2}, \qquad
    P(H_i < H_j) = \tfrac{1}{2} [1 + \mathrm{erf}(z_{ij} / \sqrt{2})]

for normal errors of independent runs. The gas is the same for all polymorphs of one molecule and one model, so it drops
out of the differences, and its error with it. The order is that of enthalpies: entropy is no part of it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.thermodynamics import Estimate
from aiida_mlfinetune.science.datasets.levels import FloatArray

SIGNIFICANT = 2.0
"""Standard errors from which an ordering is called significant (95 %)."""


@dataclass(frozen=True)
class Ranking:
    """Polymorphs in the order of their enthalpies, the most stable first.

    Attributes:
        names: (n,) in that order.
        enthalpy: (n,) relative to the most stable.
        error: (n,) standard error of that difference; 0 for the first.
        difference: (n, n) H_j - H_i.
        sigma: (n, n) the same in its standard error; 0 on the diagonal.
        probability: (n, n) that i is more stable than j; 0.5 on the diagonal.
        doubtful: those whose enthalpy is unreliable, whatever its error says.
    """

    names: tuple[str, ...]
    enthalpy: FloatArray
    error: FloatArray
    difference: FloatArray
    sigma: FloatArray
    probability: FloatArray
    doubtful: frozenset[str] = frozenset()

    @property
    def sentences(self) -> tuple[str, ...]:
        """One sentence for each pair of neighbours in the order."""
        told = []
        for place, (first, second) in enumerate(zip(self.names, self.names[1:], strict=False)):
            sigma = float(self.sigma[place, place + 1])
            surely = "significant" if sigma >= SIGNIFICANT else "NOT significant"
            doubts = [name for name in (first, second) if name in self.doubtful]
            told.append(
                f"{first} is more stable than {second} by {self.difference[place, place + 1]:.3g}, {sigma:.1f} "
                f"standard errors: {surely} (probability {self.probability[place, place + 1]:.2f})"
                + (f", if one could rely on {' and '.join(doubts)}, which one cannot" if doubts else "")
            )
        return tuple(told)


def rank(enthalpies: Mapping[str, Estimate], doubtful: Collection[str] = ()) -> Ranking:
    """Rank polymorphs by their enthalpies per molecule, lowest first.

    Args:
        enthalpies: by polymorph, in one unit and on one energy scale, of independent runs.
        doubtful: polymorphs whose enthalpy is unreliable, so that its error says too little.

    Raises:
        MlFinetuneError: none, or an enthalpy without an error.
    """
    if not enthalpies:
        raise MlFinetuneError("there is no polymorph to be ranked")
    if unknown := sorted(name for name, one in enthalpies.items() if not math.isfinite(one.error)):
        raise MlFinetuneError(f"the enthalpies of {unknown} have no error: run longer before they are ranked")
    names = tuple(sorted(enthalpies, key=lambda name: (enthalpies[name].value, name)))
    values = np.array([enthalpies[name].value for name in names])
    errors = np.array([enthalpies[name].error for name in names])
    difference = values[None, :] - values[:, None]
    noise = np.sqrt(errors[:, None] ** 2 + errors[None, :] ** 2)
    np.fill_diagonal(noise, 1.0)
    smallest = np.finfo(np.float64).tiny
    sigma = difference / np.maximum(noise, smallest)
    probability = 0.5 * (1.0 + np.vectorize(math.erf)(sigma / math.sqrt(2.0)))
    to_first = np.hypot(errors, errors[0])
    to_first[0] = 0.0
    return Ranking(names, values - values[0], to_first, difference, sigma, probability, frozenset(doubtful))
