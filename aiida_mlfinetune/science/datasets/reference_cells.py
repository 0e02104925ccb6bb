"""How far cells are from each other, and whose grid a cell shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGEST_STRAIN = 0.25
"""Cells that differ more are those of different crystals, each with a reference cell of its own."""


def strains(references: ArrayLike, cell: ArrayLike) -> NDArray[np.float64]:
    """Return (k,) by how much ``cell`` (3, 3) is stretched at most against each of k cells (k, 3, 3).

    With F = h0^-1 h (rows are vectors), that is the largest |s - 1| of the singular values s of F, which do not depend
    on how the cells are turned.
    """
    deformations = np.linalg.solve(np.asarray(references, dtype=float), np.asarray(cell, dtype=float)[None])
    return np.asarray(np.abs(np.linalg.svd(deformations, compute_uv=False) - 1).max(axis=1))


def with_references(references: ArrayLike, cells: ArrayLike) -> list[list[list[float]]]:
    """Return the reference cells, and after them the first of ``cells`` (n, 3, 3) of every crystal that is new.

    These are in angstrom and rounded to six digits, so that they are the same numbers wherever they are stored.
    """
    known = list(np.asarray(references, dtype=float).reshape(-1, 3, 3))
    for cell in np.asarray(cells, dtype=float).reshape(-1, 3, 3):
        if not known or strains(known, cell).min() > LARGEST_STRAIN:
            known.append(cell.round(6))
    return [cell.tolist() for cell in known]
