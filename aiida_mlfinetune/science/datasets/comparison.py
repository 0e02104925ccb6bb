"""Two levels of theory on the same frames: how far apart they are, and their difference as a level of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.common.units import EV_KJMOL, EV_MEV, GPA_EV_A3
from aiida_mlfinetune.science.datasets.atomic_energies import estimate_atomic_energies
from aiida_mlfinetune.science.datasets.formula_units import formula_units
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import BoolArray, FloatArray, Labels, Level

DIFFERENCE_ENGINE = "difference"
"""Value of ``engine`` of a level that is the difference of two others."""


@dataclass(frozen=True)
class Deviation:
    """How the values of level A deviate from those of level B, in the unit of the values.

    Attributes:
        n: number of values.
        shift: mean of A - B.
        rmse: root mean square of A - B.
        rmse_about_shift: that of A - B - shift, which is the standard deviation of A - B.
        correlation: Pearson's coefficient of A and B; None where one of them is constant, or there is one value.
        shift_error: standard error of the shift, values counted as independent; NaN for one value.
        rmse_error: standard error of ``rmse_about_shift``, likewise.
    """

    n: int
    shift: float
    rmse: float
    rmse_about_shift: float
    correlation: float | None
    shift_error: float
    rmse_error: float

    def to_dict(self, unit: str) -> dict[str, Any]:
        """Return plain JSON types, with ``unit`` in the names, such as ``shift_meV_A``."""
        return {
            "n": self.n,
            f"shift_{unit}": self.shift,
            f"rmse_{unit}": self.rmse,
            f"rmse_about_shift_{unit}": self.rmse_about_shift,
            "correlation": self.correlation,
        }


def deviation(a: NDArray[Any], b: NDArray[Any], factor: float = 1.0) -> Deviation:
    """Return how the values of ``a`` deviate from those of ``b``, of any but the same shape, multiplied by ``factor``.

    The error of a standard deviation s of n values with central moment m4 is sqrt((m4 - s^4) / n) / 2s.

    Raises:
        LabelsError: no value.
    """
    x, y = np.ravel(a) * factor, np.ravel(b) * factor
    n = x.size
    if n == 0:
        raise LabelsError("there is nothing to compare: the two levels share no label")
    difference = x - y
    shift = float(difference.mean())
    spread = float(difference.std())
    rmse_error = np.nan
    if n > 1:
        fourth = float(np.mean((difference - shift) ** 4))
        rmse_error = float(np.sqrt(max(fourth - spread**4, 0.0) / n) / (2 * spread)) if spread > 0 else 0.0
    constant = n < 2 or bool(np.ptp(x) == 0) or bool(np.ptp(y) == 0)
    return Deviation(
        n=n,
        shift=shift,
        rmse=float(np.sqrt(np.mean(difference**2))),
        rmse_about_shift=spread,
        correlation=None if constant else float(np.corrcoef(x, y)[0, 1]),
        shift_error=float(difference.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan,
        rmse_error=rmse_error,
    )


@dataclass(frozen=True)
class EnergyComparison:
    """Energies at two levels.

    Attributes:
        indices: frames with an energy at both.
        difference: their energies A - B per molecule, kJ/mol.
        molecules: formula unit of each of these frames.
        per_atom: meV/atom.
        per_molecule: by formula unit, kJ/mol of formula units.
        by_formula: by composition of the frame, kJ/mol of formula units.
        about_shifts: spread of A - B in kJ/mol of formula units, the shift of each formula unit taken off.
        element_shift: eV by element: the sums of these shifts are the closest to the energies A - B.
        element_rank: how many combinations of elements the compositions determine: with fewer than there are elements
            their sum per formula unit is determined, but not its split.
        rmse_about_element_shift: what these sums leave, meV/atom.
        warnings: what to know before using these numbers.
    """

    indices: NDArray[np.int64]
    difference: FloatArray
    molecules: tuple[str, ...]
    per_atom: Deviation
    per_molecule: Mapping[str, Deviation]
    by_formula: Mapping[str, Deviation]
    about_shifts: Deviation
    element_shift: Mapping[str, float]
    element_rank: int
    rmse_about_element_shift: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ForceComparison:
    """Forces at two levels, all components: meV/angstrom.

    Attributes:
        indices: frames with forces at both.
        rmse_by_frame: root mean square of A - B in each of these frames.
        components: of all atoms.
        by_element: of the atoms of each element.
    """

    indices: NDArray[np.int64]
    rmse_by_frame: FloatArray
    components: Deviation
    by_element: Mapping[str, Deviation]


@dataclass(frozen=True)
class StressComparison:
    """Stress at two levels.

    Attributes:
        indices: frames with a stress at both.
        pressure_difference: A - B in each of these frames, GPa.
        components: all nine, meV/angstrom^3, ASE's sign.
        pressure: minus a third of the trace, GPa, positive under compression.
    """

    indices: NDArray[np.int64]
    pressure_difference: FloatArray
    components: Deviation
    pressure: Deviation


@dataclass(frozen=True)
class LevelComparison:
    """Two levels on the frames that carry both; a quantity that no frame has at both is None."""

    level_a: Level
    level_b: Level
    n_frames: int
    energy: EnergyComparison | None
    forces: ForceComparison | None
    stress: StressComparison | None


def compare_levels(frames: Frames, level_a: str, level_b: str) -> LevelComparison:
    """Compare the labels of level A with those of level B, on the frames that carry both.

    Energies of two levels differ by a shift that says nothing (other pseudopotentials, another zero): the spread about
    the shift is what a model that starts from one level has to learn of the other.

    Raises:
        LabelsError: an unknown level, a level compared with itself, or no frame with labels of both.
    """
    a, b = _two(frames, level_a, level_b)
    has_energy, has_forces, has_stress = _common(a, b)
    return LevelComparison(
        level_a=a.level,
        level_b=b.level,
        n_frames=int((has_energy | has_forces | has_stress).sum()),
        energy=_compare_energies(frames, a, b, has_energy) if has_energy.any() else None,
        forces=_compare_forces(frames, a, b, has_forces) if has_forces.any() else None,
        stress=_compare_stress(a, b, has_stress) if has_stress.any() else None,
    )


def subtract_levels(frames: Frames, level_a: str, level_b: str) -> Frames:
    """Return the frames that carry both levels, with the labels A - B as their only level, ``A-minus-B``.

    Energy, forces and stress are there where both levels have them.

    Raises:
        LabelsError: an unknown level, no frame with labels of both, or energies of different kinds.
    """
    a, b = _two(frames, level_a, level_b)
    has_energy, has_forces, has_stress = _common(a, b)
    if has_energy.any() and a.level.energy is not b.level.energy:
        raise LabelsError(
            f"the energies of {level_a!r} are of the kind {a.level.energy.value!r}, those of {level_b!r} of the kind "
            f"{b.level.energy.value!r}: their difference is no difference of the methods; label one of the levels "
            "again with the energy of the other, or drop its energies"
        )
    difference = Labels.build(
        difference_level(a.level, b.level),
        frames.offsets,
        np.where(has_energy, a.energy - b.energy, np.nan),
        np.where(np.repeat(has_forces, frames.n_atoms)[:, None], a.forces - b.forces, np.nan),
        np.where(has_stress[:, None, None], a.stress - b.stress, np.nan),
    )
    for key in list(frames.labels_by_level):
        frames = frames.without_level(key)
    return frames.with_labels(difference).select(np.flatnonzero(has_energy | has_forces | has_stress))


def difference_level(a: Level, b: Level) -> Level:
    """Return the level of labels A - B, with both levels in its settings."""
    return Level(
        key=f"{a.key}-minus-{b.key}",
        engine=DIFFERENCE_ENGINE,
        method=f"{a.method or a.key} minus {b.method or b.key}",
        basis=a.basis if a.basis == b.basis else "",
        energy=a.energy,
        settings={"level_a": a.to_dict(), "level_b": b.to_dict()},
    )


def _two(frames: Frames, level_a: str, level_b: str) -> tuple[Labels, Labels]:
    if level_a == level_b:
        raise LabelsError(f"level {level_a!r} is compared with itself: name two of {sorted(frames.labels_by_level)}")
    a, b = frames.labels(level_a), frames.labels(level_b)
    if not any(mask.any() for mask in _common(a, b)):
        raise LabelsError(
            f"no frame has labels at both {level_a!r} and {level_b!r}: label the frames of one at the other"
        )
    return a, b


def _common(a: Labels, b: Labels) -> tuple[BoolArray, BoolArray, BoolArray]:
    return a.has_energy & b.has_energy, a.has_forces & b.has_forces, a.has_stress & b.has_stress


def _compare_energies(frames: Frames, a: Labels, b: Labels, own: BoolArray) -> EnergyComparison:
    units = formula_units(frames)
    indices = np.flatnonzero(own)
    x, y, n_atoms = a.energy[own], b.energy[own], frames.n_atoms[own]
    counts = units.counts[own]
    names, formulas = np.array(units.names)[own], np.array(frames.formulas)[own]
    difference = (x - y) / counts * EV_KJMOL
    shifts = np.zeros(len(x))
    for name in np.unique(names):
        shifts[names == name] = difference[names == name].mean()
    elements = estimate_atomic_energies(frames.select(indices), x - y)
    return EnergyComparison(
        indices=indices,
        difference=difference,
        molecules=tuple(names.tolist()),
        per_atom=deviation(x / n_atoms, y / n_atoms, EV_MEV),
        per_molecule=_by_group(names, x / counts, y / counts),
        by_formula=_by_group(formulas, x / counts, y / counts),
        about_shifts=deviation(difference - shifts, np.zeros(len(x))),
        element_shift=elements.values,
        element_rank=elements.rank,
        rmse_about_element_shift=elements.rmse_after * EV_MEV,
        warnings=_energy_warnings(a.level, b.level),
    )


def _by_group(groups: NDArray[Any], x: FloatArray, y: FloatArray) -> dict[str, Deviation]:
    return {str(name): deviation(x[groups == name], y[groups == name], EV_KJMOL) for name in np.unique(groups)}


def _energy_warnings(a: Level, b: Level) -> tuple[str, ...]:
    if a.energy is b.energy:
        return ()
    warning = (
        f"the energies of {a.key!r} are of the kind {a.energy.value!r}, those of {b.key!r} of the kind "
        f"{b.energy.value!r}: a part of their difference is no difference of the methods"
    )
    return (warning,)


def _compare_forces(frames: Frames, a: Labels, b: Labels, own: BoolArray) -> ForceComparison:
    atoms = np.repeat(own, frames.n_atoms)
    squares = ((a.forces - b.forces) ** 2).mean(axis=1)
    means = np.add.reduceat(squares, frames.offsets[:-1]) / frames.n_atoms
    by_element = {}
    for element in frames.elements:
        mine = atoms & (frames.numbers == atomic_numbers[element])
        if mine.any():
            by_element[element] = deviation(a.forces[mine], b.forces[mine], EV_MEV)
    return ForceComparison(
        indices=np.flatnonzero(own),
        rmse_by_frame=np.sqrt(means[own]) * EV_MEV,
        components=deviation(a.forces[atoms], b.forces[atoms], EV_MEV),
        by_element=by_element,
    )


def _compare_stress(a: Labels, b: Labels, own: BoolArray) -> StressComparison:
    x, y = a.stress[own], b.stress[own]
    pressures = [-np.trace(stress, axis1=1, axis2=2) / 3 / GPA_EV_A3 for stress in (x, y)]
    return StressComparison(
        indices=np.flatnonzero(own),
        pressure_difference=pressures[0] - pressures[1],
        components=deviation(x, y, EV_MEV),
        pressure=deviation(*pressures),
    )
