r"""The error budget of a sublimation enthalpy: what it is made of, each part with sign, value and standard error.

.. math::

    \Delta H = \Delta H_\mathrm{classical} + \sum_k \delta_k, \qquad
    \delta_k = s_p \left(\langle H_p \rangle_k - \langle H_p \rangle_\mathrm{classical}\right), \qquad
    s_\mathrm{gas} = 1, \; s_\mathrm{crystal} = -1

for each phase p and each way k in which the classical run of the model falls short:

==============  ======================================================================================
term            meaning
==============  ======================================================================================
statistics      the classical runs are finite: no value, the standard error of their averages
model           reference - model, from reweighted frames of the classical run (Kaur et al. 2025)
nuclei          path integral - classical, of crystal and gas each
cell            the larger cell - the smaller one, of the crystal
==============  ======================================================================================

The corrections are taken to be independent of each other in their values. Their errors are not: the classical run
stands in the nuclear and in the cell term with the opposite sign, so that with one of them it drops out of the total.
The error of the total is that of the sum of all averages that are left, each with the number of times that it stands
there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.thermodynamics import Estimate

STATISTICS, MODEL, NUCLEI, CELL = "statistics", "model", "nuclei", "cell"


@dataclass(frozen=True)
class PhaseEnthalpies:
    """Enthalpies of one phase per molecule, all in one unit.

    Attributes:
        classical: of the model with classical nuclei, in the smaller cell.
        shift: reference - model, of the same run; None where it is not known.
        quantum: of a path-integral run with the model; None where there is none.
        large: of the model with classical nuclei in a larger cell; None where there is none.
    """

    classical: Estimate
    shift: Estimate | None = None
    quantum: Estimate | None = None
    large: Estimate | None = None


@dataclass(frozen=True)
class Term:
    """One term of the budget.

    Attributes:
        kind: statistics, model, nuclei or cell.
        phase: crystal or gas.
        value: what it adds to the sublimation enthalpy.
        error: standard error of ``value``.
    """

    kind: str
    phase: str
    value: float
    error: float


@dataclass(frozen=True)
class ErrorBudget:
    """The terms of a sublimation enthalpy, and their sum.

    Attributes:
        classical: what the model gives with classical nuclei in the smaller cell.
        terms: that are known.
        total: with all corrections.
        missing: kinds that are not known, so that the total lacks them.
    """

    classical: Estimate
    terms: tuple[Term, ...]
    total: Estimate
    missing: tuple[str, ...]

    def of(self, kind: str) -> Estimate | None:
        """Return the sum of the terms of a kind over crystal and gas, None if there is none."""
        own = [term for term in self.terms if term.kind == kind]
        if not own:
            return None
        return Estimate(sum(term.value for term in own), math.hypot(*(term.error for term in own)))


def error_budget(crystal: PhaseEnthalpies, gas: PhaseEnthalpies) -> ErrorBudget:
    """Return the budget of H_gas - H_crystal, see the formulas at the top of this module.

    Raises:
        MlFinetuneError: a correction of one phase alone that has to be that of both, or a cell of the gas.
    """
    if gas.large is not None:
        raise MlFinetuneError("a gas has no cell: there is no enthalpy of it in a larger one")
    for name, text in (("quantum", "a path integral"), ("shift", "a reference")):
        if (getattr(crystal, name) is None) != (getattr(gas, name) is None):
            raise MlFinetuneError(f"{text} is given for one phase only: crystal and gas have to be treated alike")
    terms, total, variance = [], 0.0, 0.0
    for phase, sign, own in (("crystal", -1.0, crystal), ("gas", 1.0, gas)):
        terms.append(Term(STATISTICS, phase, 0.0, own.classical.error))
        total += sign * own.classical.value
        times = 1.0  # that the classical average stands in the total
        if own.shift is not None:
            terms.append(Term(MODEL, phase, sign * own.shift.value, own.shift.error))
            variance += own.shift.error**2
        for kind, other in ((NUCLEI, own.quantum), (CELL, own.large)):
            if other is None:
                continue
            error = math.hypot(other.error, own.classical.error)
            terms.append(Term(kind, phase, sign * (other.value - own.classical.value), error))
            variance += other.error**2
            times -= 1.0
        if times:
            variance += times**2 * own.classical.error**2
    given = {term.kind for term in terms}
    classical = Estimate(total, math.hypot(crystal.classical.error, gas.classical.error))
    return ErrorBudget(
        classical=classical,
        terms=tuple(terms),
        total=Estimate(total + sum(term.value for term in terms), math.sqrt(variance)),
        missing=tuple(kind for kind in (MODEL, NUCLEI, CELL) if kind not in given),
    )
