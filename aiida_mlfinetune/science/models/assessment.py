"""A quick suite of checks on a trained model: what is measured, what is asked for, and whether it is met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

import numpy as np

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.common.units import EV_MEV, GPA_EV_A3
from aiida_mlfinetune.science.datasets.levels import FloatArray

FIT_DEGREE = 4
"""Degree of the polynomial in V^(1/3) that a smooth energy against volume follows."""
LARGEST_BOUND_FACTOR = 1.25
"""Factor of a dissociating molecule up to which its atoms are bonded."""


class Relation(str, Enum):
    """How a number must stand to its threshold."""

    AT_MOST = "at most"
    AT_LEAST = "at least"
    EQUAL = "equal to"

    def holds(self, value: float, threshold: float) -> bool:
        """Return whether it does; a number that is not finite never does."""
        if not math.isfinite(value):
            return False
        if self is Relation.EQUAL:
            return value == threshold
        return value <= threshold if self is Relation.AT_MOST else value >= threshold


@dataclass(frozen=True)
class Thresholds:
    """What a model must meet; None measures without judging.

    Attributes:
        parity_energy_meV_per_atom: largest root mean square error of energies of test frames.
        parity_forces_percent: largest root mean square error of their force components, in percent of the root mean
            square of the reference.
        volume_minima: number of minima of the energy against volume.
        volume_roughness_percent: largest root mean square deviation of that curve from a polynomial of degree 4 in
            V^(1/3), in percent of the range of its energies.
        isolated_atom_eV: largest deviation of the energy of one atom alone from the model's reference energy. Models
            that add a shift to every atom, as some foundations do, deviate by just this shift.
        dissociation_limit_eV: largest deviation, per atom, of the energy of a molecule whose atoms no longer see each
            other from the sum of their reference energies.
        atomization_eV: smallest energy that it takes to blow a molecule up into its atoms. Not judged by default: with
            reference energies that were fitted to molecules instead of computed for atoms it is near zero, which says
            nothing about a run.
        bond_barrier_eV: smallest energy that it takes to stretch a molecule until it lies lower than when whole, or to
            the highest point where it never does.
        distance_hole_eV: most that the energy may fall while two molecules come closer than contact.
        diatomic_hole_eV: the same for two bare atoms closer than a bond. Not judged by default: bare atoms are in no
            training set of molecules, and no run gets there.
        barrier_eV: falls behind a barrier at least this high do not count: no run gets there either.
        nvt_completed: part of the steps that must be done before a run explodes.
        nvt_temperature_percent: largest deviation of the mean temperature of the second half from that of the
            thermostat.
        nvt_drift_meV_per_atom_ps: largest change of the conserved energy between the first and the second half.
        nvt_distance_ratio: smallest distance of any pair of elements in the run, relative to that at the start.
        nvt_bond_ratio: longest bond in the run, relative to its length at the start.
    """

    parity_energy_meV_per_atom: float | None = 5.0  # noqa: N815 - the unit
    parity_forces_percent: float | None = 25.0
    volume_minima: float | None = 1
    volume_roughness_percent: float | None = 2.0
    isolated_atom_eV: float | None = 0.25  # noqa: N815 - the unit
    dissociation_limit_eV: float | None = 0.25  # noqa: N815 - the unit
    atomization_eV: float | None = None  # noqa: N815 - the unit
    bond_barrier_eV: float | None = 1.0  # noqa: N815 - the unit
    distance_hole_eV: float | None = 0.05  # noqa: N815 - the unit
    diatomic_hole_eV: float | None = None  # noqa: N815 - the unit
    barrier_eV: float = 10.0  # noqa: N815 - the unit
    nvt_completed: float | None = 1.0
    nvt_temperature_percent: float | None = 25.0
    nvt_drift_meV_per_atom_ps: float | None = 10.0  # noqa: N815 - the unit
    nvt_distance_ratio: float | None = 0.6
    nvt_bond_ratio: float | None = 1.5

    def __post_init__(self) -> None:
        """Check every value; the message names the offender and the remedy."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name != "barrier_eV":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise StudyError(f"the threshold {field.name} is {value!r}, but must be a number, or null not to judge")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Thresholds:
        """Build the thresholds from plain values.

        Raises:
            StudyError: an unknown entry, or a bad value.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise StudyError(f"unknown thresholds {unknown} of an assessment: known are {known}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Check:
    """One number and what is asked of it.

    Attributes:
        name: such as ``distance_hole``.
        of: what it was measured on, such as ``H-O``; may be empty.
        value: the number.
        unit: of number and threshold.
        relation: how the number must stand to the threshold.
        threshold: None where it is not judged.
    """

    name: str
    of: str
    value: float
    unit: str
    relation: Relation
    threshold: float | None

    @property
    def passed(self) -> bool | None:
        """Whether the number is as asked for, None where it is not judged."""
        return None if self.threshold is None else self.relation.holds(self.value, self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; a number that is not finite becomes None."""
        return {
            **asdict(self),
            "value": float(self.value) if math.isfinite(self.value) else None,
            "relation": self.relation.value,
            "passed": self.passed,
        }

    def __str__(self) -> str:
        """Return the finding in words."""
        title = self.name.replace("_", " ") + (f" of {self.of}" if self.of else "")
        asked = "not judged" if self.threshold is None else f"must be {self.relation.value} {self.threshold:g}"
        return f"{title}: {self.value:.4g} {self.unit}".rstrip() + f" ({asked})"


@dataclass(frozen=True)
class VolumeCurve:
    """What a curve of energies against volume says.

    Attributes:
        n_minima: number of volumes, the ends excepted, whose energy is below that of both neighbours.
        roughness: root mean square deviation from the fit, relative to the range of the energies.
        minimum: cubic angstrom, of the fit; NaN where it has none in the range.
        bulk_modulus: GPa, V d2E/dV2 at the minimum, of rigid molecules where they were kept rigid; NaN likewise.
    """

    n_minima: int
    roughness: float
    minimum: float
    bulk_modulus: float


def volume_curve(volumes: FloatArray, energies: FloatArray) -> VolumeCurve:
    """Describe energies (n,) in eV against ascending volumes (n,) in cubic angstrom."""
    if not np.isfinite(energies).all():
        return VolumeCurve(0, math.inf, math.nan, math.nan)
    inner = energies[1:-1]
    minima = int(((inner < energies[:-2]) & (inner < energies[2:])).sum())
    spread = float(np.ptp(energies))
    lengths = np.cbrt(volumes)
    fit = np.polynomial.Polynomial.fit(lengths, energies, FIT_DEGREE)
    roughness = float(np.sqrt(np.mean((fit(lengths) - energies) ** 2))) / spread if spread > 0 else math.inf
    slope, curvature = fit.deriv(), fit.deriv(2)
    roots = slope.roots()
    real = roots[np.abs(roots.imag) < 1e-9].real
    inside = [x for x in real.tolist() if lengths[0] < x < lengths[-1] and curvature(x) > 0]
    if not inside:
        return VolumeCurve(minima, roughness, math.nan, math.nan)
    length = min(inside, key=fit)
    # With V = L^3 and dE/dL = 0: d2E/dV2 = (d2E/dL2) / (3 L^2)^2.
    modulus = length**3 * float(curvature(length)) / (3 * length**2) ** 2 / GPA_EV_A3
    return VolumeCurve(minima, roughness, length**3, modulus)


def hole_depth(energies: FloatArray, barrier: float) -> float:
    """Return the most by which energies (n,) in eV, ordered from far to close, fall below what they had reached.

    Falls from a height of ``barrier`` (eV above the first energy) or more do not count. Infinite where an energy before
    that height is not finite.
    """
    highest = float(energies[0])
    depth = 0.0
    for energy in energies.tolist():
        if not math.isfinite(energy) or not math.isfinite(highest):
            return math.inf
        if highest - float(energies[0]) >= barrier:
            break
        depth = max(depth, highest - energy)
        highest = max(highest, energy)
    return depth


def parity_checks(errors: Mapping[str, Any], thresholds: Thresholds) -> list[Check]:
    """Return the checks on errors as ``science.metrics.label_errors`` gives them."""
    checks = []
    for name, key, unit, threshold in (
        ("parity_energy", "energy_rmse_meV_per_atom", "meV/atom", thresholds.parity_energy_meV_per_atom),
        ("parity_forces", "forces_rmse_percent", "%", thresholds.parity_forces_percent),
    ):
        if key in errors:
            checks.append(Check(name, "test frames", errors[key], unit, Relation.AT_MOST, threshold))
    return checks


def volume_checks(name: str, volumes: FloatArray, energies: FloatArray, thresholds: Thresholds) -> list[Check]:
    """Return the checks on energies (n,) in eV against volumes (n,) in cubic angstrom."""
    curve = volume_curve(volumes, energies)
    return [
        Check("volume_minima", name, curve.n_minima, "", Relation.EQUAL, thresholds.volume_minima),
        Check(
            "volume_roughness", name, 100 * curve.roughness, "%", Relation.AT_MOST, thresholds.volume_roughness_percent
        ),
    ]


def atom_check(element: str, energy: float, e0: float, thresholds: Thresholds) -> Check:
    """Return the check on the energy of an atom alone against its reference energy, both in eV."""
    return Check("isolated_atom", element, abs(energy - e0), "eV", Relation.AT_MOST, thresholds.isolated_atom_eV)


def dissociation_checks(
    name: str, factors: FloatArray, energies: FloatArray, e0_sum: float, n_atoms: int, thresholds: Thresholds
) -> list[Check]:
    """Return the checks on a molecule blown up by factors (n,), with energies (n,) in eV.

    Args:
        name: formula of the molecule.
        factors: ascending; the atoms see each other no more at the last one.
        energies: of the model.
        e0_sum: of the model's reference energies of the molecule's atoms, in eV.
        n_atoms: of the molecule.
        thresholds: what is asked for.
    """
    whole = int(np.argmin(np.where(factors <= LARGEST_BOUND_FACTOR, energies, np.inf)))
    bound = float(energies[whole])
    further = energies[whole:]
    lower = np.flatnonzero(further < bound)
    barrier = float(further[: lower[0] if lower.size else None].max()) - bound
    limit = abs(float(energies[-1]) - e0_sum) / n_atoms
    return [
        Check("dissociation_limit", name, limit, "eV/atom", Relation.AT_MOST, thresholds.dissociation_limit_eV),
        Check("atomization", name, e0_sum - bound, "eV", Relation.AT_LEAST, thresholds.atomization_eV),
        Check("bond_barrier", name, barrier, "eV", Relation.AT_LEAST, thresholds.bond_barrier_eV),
    ]


def distance_check(name: str, pair: str, energies: FloatArray, barrier: float, threshold: float | None) -> Check:
    """Return the check on energies (n,) in eV, ordered from contact to the closest distance."""
    return Check(name, pair, hole_depth(energies, barrier), "eV", Relation.AT_MOST, threshold)


def completed_check(steps_done: int, n_steps: int, thresholds: Thresholds) -> Check:
    """Return the check on how much of a run was done."""
    return Check("nvt_completed", "", steps_done / n_steps, "", Relation.AT_LEAST, thresholds.nvt_completed)


def run_checks(
    time_fs: FloatArray,
    temperature: FloatArray,
    conserved: FloatArray,
    target: float,
    n_atoms: int,
    thresholds: Thresholds,
) -> list[Check]:
    """Return the checks on the second half of a run, against the thermostat and against the first half.

    Args:
        time_fs: (n,) femtoseconds.
        temperature: (n,) K.
        conserved: (n,) eV, the quantity that the integrator conserves.
        target: of the thermostat, K.
        n_atoms: number of atoms.
        thresholds: what is asked for.
    """
    half = len(time_fs) // 2
    late, early = slice(half, None), slice(None, half)
    deviation = abs(float(temperature[late].mean()) / target - 1)
    checks = [
        Check(
            "nvt_temperature",
            "second half",
            100 * deviation,
            "%",
            Relation.AT_MOST,
            thresholds.nvt_temperature_percent,
        )
    ]
    if half:
        elapsed_ps = (float(time_fs[late].mean()) - float(time_fs[early].mean())) / 1000
        change = abs(float(conserved[late].mean()) - float(conserved[early].mean())) / n_atoms * EV_MEV
        checks.append(
            Check(
                "nvt_drift",
                "second half against first",
                change / elapsed_ps,
                "meV/atom/ps",
                Relation.AT_MOST,
                thresholds.nvt_drift_meV_per_atom_ps,
            )
        )
    return checks


def distance_ratio_check(pairs: Sequence[str], distances: FloatArray, thresholds: Thresholds) -> Check:
    """Return the check on the smallest distances (n, pairs) of a run, relative to those of its first frame."""
    ratios = np.where(np.isnan(distances), np.inf, distances).min(axis=0) / distances[0]
    place = int(np.nanargmin(ratios))
    return Check(
        "nvt_distance",
        pairs[place],
        float(ratios[place]),
        "of the start",
        Relation.AT_LEAST,
        thresholds.nvt_distance_ratio,
    )


def bond_ratio_check(lengths: FloatArray, thresholds: Thresholds) -> Check:
    """Return the check on bond lengths (n, bonds) of a run, relative to those of its first frame."""
    ratio = float((lengths.max(axis=0) / lengths[0]).max())
    return Check("nvt_bond", "longest", ratio, "of the start", Relation.AT_MOST, thresholds.nvt_bond_ratio)
