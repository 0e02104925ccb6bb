"""How far cells are from each other, and whose grid a frame shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGEST_STRAIN = 0.25
"""Cells of one composition that differ more are those of different crystals, each with a reference cell of its own."""

References = Mapping[str, Sequence[ArrayLike]]
"""By formula of the cell (Hill order), the reference cells (3, 3) in angstrom of the crystals that have it."""


def strains(references: ArrayLike, cell: ArrayLike) -> NDArray[np.float64]:
    """Return (k,) by how much ``cell`` (3, 3) is stretched at most against each of k cells (k, 3, 3).

    With F = h0^-1 h (rows are vectors), that is the largest |s - 1| of the singular values s of F, which do not depend
    on how the cells are turned.
    """
    deformations = np.linalg.solve(np.asarray(references, dtype=float), np.asarray(cell, dtype=float)[None])
    return np.asarray(np.abs(np.linalg.svd(deformations, compute_uv=False) - 1).max(axis=1))


def with_references(
    references: References, formulas: Sequence[str], cells: ArrayLike
) -> dict[str, list[list[list[float]]]]:
    """Return the reference cells, and with them the first of ``cells`` of every crystal that is new.

    Args:
        references: those that there are.
        formulas: (n,) of the crystals or frames.
        cells: (n, 3, 3) in angstrom; rounded to six digits, so that they are the same numbers wherever they are stored.
    """
    known = {formula: [np.asarray(cell, dtype=float) for cell in own] for formula, own in references.items()}
    for formula, cell in zip(formulas, np.asarray(cells, dtype=float).reshape(-1, 3, 3), strict=True):
        own = known.setdefault(formula, [])
        if not own or strains(own, cell).min() > LARGEST_STRAIN:
            own.append(cell.round(6))
    return {formula: [cell.tolist() for cell in known[formula]] for formula in sorted(known)}


def joined_references(mine: References, theirs: References) -> dict[str, list[list[list[float]]]] | None:
    """Return the reference cells of both, or None where a crystal has one in each, and these differ."""
    joined = {formula: [np.asarray(cell).tolist() for cell in own] for formula, own in mine.items()}
    for formula, cells in theirs.items():
        own = joined.setdefault(formula, [])
        new = [cell for cell in (np.asarray(cell).tolist() for cell in cells) if cell not in own]
        if own and any(strains(own, cell).min() <= LARGEST_STRAIN for cell in new):
            return None
        own.extend(new)
    return {formula: joined[formula] for formula in sorted(joined)}
