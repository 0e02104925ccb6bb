"""Atomic reference energies (E0): what a set of labels determines of them, and what it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.science.frames import Frames
from aiida_mlfinetune.science.levels import FloatArray


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
