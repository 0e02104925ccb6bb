"""Atomic reference energies (E0): what a set of labels determines of them, and what it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray


@dataclass(frozen=True)
class AtomicEnergies:
    """Reference energies from least squares.

    Attributes:
        values: eV by element.
        shift: eV by element, the values minus those they started from.
        rank: number of independent combinations of elements that the compositions determine.
        condition: largest over smallest singular value of the composition matrix, those that are zero left out.
        rmse_before: root mean square residual per atom before the shift, eV.
        rmse_after: after the shift, eV.
    """

    values: Mapping[str, float]
    shift: Mapping[str, float]
    rank: int
    condition: float
    rmse_before: float
    rmse_after: float

    @property
    def is_determined(self) -> bool:
        """Whether the energy of each element is determined, and not only some combinations of them."""
        return self.rank == len(self.values)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types, with a sentence on what the labels determine."""
        return {
            "values": dict(self.values),
            "shift": dict(self.shift),
            "rank": self.rank,
            "condition": self.condition,
            "rmse_before_eV_per_atom": self.rmse_before,
            "rmse_after_eV_per_atom": self.rmse_after,
            "determined": describe_rank(self.rank, list(self.values)),
        }


def describe_rank(rank: int, elements: Sequence[str]) -> str:
    """Say in a sentence what compositions of that rank determine of the reference energies of ``elements``."""
    if rank == len(elements):
        return f"the reference energies of {', '.join(elements)} are determined by the labels"
    return (
        f"the compositions determine {rank} of {len(elements)} combinations of the reference energies of "
        f"{', '.join(elements)}: the split between elements is that of the start, shifted as little as possible"
    )


def composition_matrix(frames: Frames, elements: Sequence[str]) -> FloatArray:
    """Return (n, elements): how many atoms of each element each frame holds."""
    starts = frames.offsets[:-1]
    columns = [np.add.reduceat((frames.numbers == atomic_numbers[e]).astype(np.int64), starts) for e in elements]
    return np.stack(columns, axis=1).astype(np.float64)


def estimate_atomic_energies(
    frames: Frames,
    energies: FloatArray,
    start: Mapping[str, float] | None = None,
    predicted: FloatArray | None = None,
) -> AtomicEnergies:
    """Re-estimate reference energies by least squares (equation 5 of the CaCO3 report).

    With residuals eps_i = E_i - E_i(model), solve min |N c - eps| for the shift c of smallest norm, where N_ij counts
    the atoms of element j in frame i; E0 = E0(start) + c. In sets of a single composition N has rank one: only the
    total per formula unit is determined, and the split between elements stays that of the start.

    Args:
        frames: n configurations.
        energies: (n,) labels in eV; NaN where there is none.
        start: reference energies to start from in eV; zero by default.
        predicted: (n,) energies in eV that a model with the reference energies ``start`` predicts; by default the sums
            of ``start``.

    Raises:
        LabelsError: no frame has an energy, or ``start`` lacks an element.
    """
    elements = frames.elements
    initial = dict.fromkeys(elements, 0.0) if start is None else dict(start)
    if missing := [element for element in elements if element not in initial]:
        raise LabelsError(f"the reference energies to start from lack {missing}")
    labelled = ~np.isnan(energies)
    if not labelled.any():
        raise LabelsError("reference energies cannot be estimated: no frame has an energy")
    counts = composition_matrix(frames, elements)
    model = counts @ np.array([initial[element] for element in elements]) if predicted is None else predicted
    matrix, residuals = counts[labelled], (energies - model)[labelled]
    shift, _, rank, singular = np.linalg.lstsq(matrix, residuals, rcond=None)
    sizes = matrix.sum(axis=1)
    return AtomicEnergies(
        values={element: initial[element] + float(c) for element, c in zip(elements, shift, strict=True)},
        shift={element: float(c) for element, c in zip(elements, shift, strict=True)},
        rank=int(rank),
        condition=float(singular[0] / singular[rank - 1]),
        rmse_before=float(np.sqrt(np.mean((residuals / sizes) ** 2))),
        rmse_after=float(np.sqrt(np.mean(((residuals - matrix @ shift) / sizes) ** 2))),
    )


@dataclass(frozen=True)
class Determination:
    """Which combinations of reference energies a set of compositions determines.

    Attributes:
        elements: in the order of the coefficients.
        rank: number of independent combinations that are determined.
        condition: largest over smallest singular value of the composition matrix, those that are zero left out.
        determined: whole coefficients of these combinations, one for each; alone an element is (0, 1, 0).
        free: whole coefficients of the directions along which the energies may move without changing any total.
    """

    elements: tuple[str, ...]
    rank: int
    condition: float
    determined: tuple[tuple[int, ...], ...]
    free: tuple[tuple[int, ...], ...]

    @property
    def is_complete(self) -> bool:
        """Whether the energy of each element is determined."""
        return self.rank == len(self.elements)

    def in_words(self) -> str:
        """Say what is determined and what is not, such as ``H and O separately are not determined: only 2 H + O``."""
        alone = [self.elements[row.index(1)] for row in self.determined if sum(map(abs, row)) == 1]
        if self.is_complete:
            return f"{_listed(alone)} {'are' if len(alone) > 1 else 'is'} determined"
        others = [element for element in self.elements if element not in alone]
        sums = [combination(row, self.elements) for row in self.determined if sum(map(abs, row)) != 1]
        verb = "separately are" if len(others) > 1 else "is"
        text = f"{_listed(others)} {verb} not determined" + (f": only {_listed(sums)}" if sums else "")
        return f"{_listed(alone)} {'are' if len(alone) > 1 else 'is'} determined; {text}" if alone else text

    def freedom_in_words(self) -> str:
        """Say how the energies may move without changing any total; empty where they may not."""
        moves = [combination(row, self.elements, signed=True) for row in self.free]
        return "" if not moves else "no total changes with " + ", nor with ".join(f"{move} eV" for move in moves)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        return {
            "elements": list(self.elements),
            "rank": self.rank,
            "condition": self.condition,
            "determined": [combination(row, self.elements) for row in self.determined],
            "undetermined": [combination(row, self.elements, signed=True) for row in self.free],
            "sentence": self.in_words(),
        }


def determination(frames: Frames) -> Determination:
    """Return which combinations of the reference energies of its elements a set of frames determines.

    The reduced row echelon form of the composition matrix is computed in fractions, so the rank is exact.
    """
    elements = tuple(frames.elements)
    matrix = composition_matrix(frames, elements)
    rows = [[Fraction(int(count)) for count in row] for row in np.unique(matrix, axis=0)]
    pivots: list[int] = []
    for column in range(len(elements)):
        place = next((i for i in range(len(pivots), len(rows)) if rows[i][column]), None)
        if place is None:
            continue
        top = len(pivots)
        rows[top], rows[place] = rows[place], rows[top]
        rows[top] = [value / rows[top][column] for value in rows[top]]
        for i in range(len(rows)):
            if i != top and rows[i][column]:
                factor = rows[i][column]
                rows[i] = [value - factor * own for value, own in zip(rows[i], rows[top], strict=True)]
        pivots.append(column)
    free = []
    for column in (c for c in range(len(elements)) if c not in pivots):
        direction = [Fraction(int(c == column)) for c in range(len(elements))]
        for i, pivot in enumerate(pivots):
            direction[pivot] = -rows[i][column]
        free.append(_whole(direction))
    singular = np.linalg.svd(matrix, compute_uv=False)
    return Determination(
        elements=elements,
        rank=len(pivots),
        condition=float(singular[0] / singular[len(pivots) - 1]),
        determined=tuple(_whole(row) for row in rows[: len(pivots)]),
        free=tuple(free),
    )


def combination(coefficients: Sequence[int], elements: Sequence[str], *, signed: bool = False) -> str:
    """Return such as ``2 H + O``, or with ``signed`` such as ``H +1, O -2``."""
    pairs = [(number, element) for number, element in zip(coefficients, elements, strict=True) if number]
    if signed:
        return ", ".join(f"{element} {number:+d}" for number, element in pairs)
    text = ""
    for number, element in pairs:
        sign = ("-" if number < 0 else "") if not text else (" - " if number < 0 else " + ")
        text += sign + (element if abs(number) == 1 else f"{abs(number)} {element}")
    return text


def _whole(row: Sequence[Fraction]) -> tuple[int, ...]:
    """Return the smallest whole numbers in the ratio of ``row``, the first one positive."""
    scale = math.lcm(*(value.denominator for value in row))
    numbers = [int(value * scale) for value in row]
    divisor = math.gcd(*numbers)
    sign = 1 if next(number for number in numbers if number) > 0 else -1
    return tuple(sign * number // divisor for number in numbers)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def residual_rmse(frames: Frames, energies: FloatArray, predicted: FloatArray, shift: Mapping[str, float]) -> float:
    """Return the root mean square error per atom in eV of predictions to which ``shift`` (eV by element) is added.

    Args:
        frames: n configurations.
        energies: (n,) labels in eV; NaN where there is none.
        predicted: (n,) in eV.
        shift: eV by element; elements that it lacks are not shifted.

    Raises:
        LabelsError: no frame has an energy.
    """
    labelled = ~np.isnan(energies)
    if not labelled.any():
        raise LabelsError("the error of the energies cannot be told: no frame has one")
    counts = composition_matrix(frames, frames.elements)
    added = counts @ np.array([shift.get(element, 0.0) for element in frames.elements])
    per_atom = ((predicted + added - energies) / counts.sum(axis=1))[labelled]
    return float(np.sqrt(np.mean(per_atom**2)))


def isolated_atom_energies(frames: Frames, energies: FloatArray) -> dict[str, float]:
    """Return the mean label in eV of the frames that hold one atom, by element.

    Raises:
        LabelsError: an element of the frames has no single-atom frame with an energy.
    """
    single = (frames.n_atoms == 1) & ~np.isnan(energies)
    numbers = frames.numbers[frames.offsets[:-1]]
    found = {}
    for element in frames.elements:
        own = single & (numbers == atomic_numbers[element])
        if not own.any():
            raise LabelsError(
                f"reference energies from isolated atoms need a frame with a single {element} atom and its energy: "
                "add one, or use another source of reference energies"
            )
        found[element] = float(energies[own].mean())
    return found
