"""How near to the reference an average has to be, and which training set is the smallest that gets there.

An average of a run with a model, A, stands beside that of the reference, A_ref, and their difference d has a standard
error s. Whether a target t is met is then not only a question of d: a difference that is known no better than t says
nothing. See ``judge``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.averages.thermodynamics import Estimate

ENERGY, DENSITY = "sublimation_enthalpy_kJ_mol", "density_percent"


class Verdict(str, Enum):
    """Whether a difference meets its target."""

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class PropertyTarget:
    """How far the averages of a model may be from those of the reference.

    Attributes:
        sublimation_enthalpy_kJ_mol: of the sublimation enthalpy; where no molecule is run, of the potential energy of
            the crystal per molecule. None asks for none.
        density_percent: of the density, in percent of that of the reference. None asks for none.
    """

    sublimation_enthalpy_kJ_mol: float | None = 0.5  # noqa: N815 - the unit
    density_percent: float | None = 1.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            StudyError: a target that is no positive number, or no target at all.
        """
        for name, value in asdict(self).items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
                raise StudyError(f"the target {name} is {value!r}, but must be a positive number")
        if self.sublimation_enthalpy_kJ_mol is None and self.density_percent is None:
            raise StudyError(f"there is no target: give {ENERGY}, {DENSITY}, or both")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PropertyTarget:
        """Build from plain JSON types.

        Raises:
            StudyError: an unknown name, or a bad value.
        """
        known = list(cls.__dataclass_fields__)
        if unknown := sorted(set(values) - set(known)):
            raise StudyError(f"unknown quantities {unknown} in the target of averages: known are {known}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def allowed(self, quantity: str, reference: float) -> float | None:
        """Return the largest difference that will do, in the unit of ``quantity``; None if nothing is asked of it.

        Args:
            quantity: ``density``, ``sublimation_enthalpy`` or ``potential_energy``.
            reference: the value of the reference.
        """
        if quantity == "density":
            return None if self.density_percent is None else abs(reference) * self.density_percent / 100.0
        return self.sublimation_enthalpy_kJ_mol


def judged_quantities(available: Sequence[str]) -> list[str]:
    """Return which observables are compared with the target: the energy of a crystal only where no gas was run."""
    energies = [name for name in ("sublimation_enthalpy", "potential_energy") if name in available]
    return [*energies[:1], *(name for name in ("density",) if name in available)]


def judge(difference: Estimate, allowed: float) -> Verdict:
    """Return whether a difference to the reference meets its target.

    With d the difference, s its standard error and t what is allowed: met if |d| <= t and s <= t; missed if |d| > t and
    d is resolved, |d| - t > s; else undecided, as a longer run could tell.
    """
    size, error = abs(difference.value), difference.error
    if size <= allowed and error <= allowed:
        return Verdict.MET
    return Verdict.MISSED if size - allowed > error else Verdict.UNDECIDED


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on several targets at once: met if all are, missed if one is."""
    if all(verdict is Verdict.MET for verdict in verdicts):
        return Verdict.MET
    return Verdict.MISSED if Verdict.MISSED in verdicts else Verdict.UNDECIDED


def smallest_sufficient(verdicts: Mapping[int, Verdict]) -> int | None:
    """Return the smallest size that meets the target together with all larger ones, None if the largest does not."""
    found = None
    for size in sorted(verdicts, reverse=True):
        if verdicts[size] is not Verdict.MET:
            break
        found = size
    return found


def mean_over_seeds(values: Sequence[Estimate]) -> Estimate:
    """Return the mean of the averages of several models, with the larger of two standard errors.

    One follows from the errors of the runs, the other from the spread of the models, which is known of two or more.

    Raises:
        StudyError: no values.
    """
    count = len(values)
    if not count:
        raise StudyError("a mean over seeds needs at least one value")
    mean = sum(one.value for one in values) / count
    runs = math.sqrt(sum(one.error**2 for one in values)) / count
    if count == 1:
        return Estimate(mean, runs)
    spread = math.sqrt(sum((one.value - mean) ** 2 for one in values) / (count - 1) / count)
    return Estimate(mean, max(runs, spread))
