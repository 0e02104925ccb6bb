"""Checks that a structure can be computed at all: no overlapping atoms, a cell with a volume."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from aiida_mlfinetune.common.errors import FramesError

MIN_DISTANCE_A = 0.5
"""No two atoms, periodic images included, may be closer than this (angstrom)."""


def check_distances(atoms: Atoms, minimum: float = MIN_DISTANCE_A) -> None:
    """Refuse atoms (or an atom and its own periodic image) closer than ``minimum`` angstrom.

    Raises:
        FramesError: names the closest pair; also for a structure without atoms or with positions that are not finite.
    """
    if len(atoms) == 0:
        raise FramesError("the structure has no atoms")
    if not np.isfinite(atoms.positions).all():
        bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
        raise FramesError(f"the positions of atoms {bad[:10].tolist()} are not finite numbers")
    first, second, distance = neighbor_list("ijd", atoms, minimum)
    if len(distance):
        pair = int(np.argmin(distance))
        i, j = sorted((int(first[pair]), int(second[pair])))
        raise FramesError(
            f"atoms {i} ({atoms[i].symbol}) and {j} ({atoms[j].symbol}) are {distance[pair]:.3f} angstrom apart, "
            f"closer than {minimum} angstrom: remove duplicated atoms (such as copies on both faces of the cell) or "
            "correct the cell"
        )


def check_cell(atoms: Atoms) -> None:
    """Refuse a crystal that is not periodic in three directions or whose cell has no volume.

    Raises:
        FramesError: says which.
    """
    lengths = atoms.cell.lengths()
    flat = abs(np.linalg.det(atoms.cell.array)) < 1e-3 * max(1.0, float(np.prod(lengths)))
    if flat:
        raise FramesError(
            f"the cell has no volume (its vectors are {atoms.cell.array.tolist()}): give three independent lattice "
            "vectors in angstrom"
        )
    if not atoms.pbc.all():
        raise FramesError(
            f"a crystal must be periodic in all three directions, but pbc is {atoms.pbc.tolist()}: set pbc to True"
        )


def check_crystal(atoms: Atoms) -> None:
    """Refuse a crystal without volume or periodicity, or with atoms closer than 0.5 angstrom.

    Raises:
        FramesError: says which, and what to do.
    """
    check_cell(atoms)
    check_distances(atoms)
