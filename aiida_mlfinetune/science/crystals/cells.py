"""Widths of periodic cells, and what follows from them: radii of truncated interactions, meshes of k-points."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from aiida_mlfinetune.science.datasets.levels import FloatArray

RADIUS_STEP_A = 0.05


def perpendicular_widths(cells: ArrayLike) -> FloatArray:
    """Return (n, 3) the distances between opposite faces of cells (n, 3, 3), in the unit of the cells."""
    lattices = np.asarray(cells, dtype=np.float64).reshape(-1, 3, 3)
    crossed = np.cross(np.roll(lattices, -1, axis=1), np.roll(lattices, -2, axis=1))
    volumes = np.abs(np.linalg.det(lattices))
    return np.asarray(volumes[:, None] / np.linalg.norm(crossed, axis=2))


def largest_radius_A(cells: ArrayLike, most: float) -> float:  # noqa: N802 - the unit
    """Return a radius in angstrom that is less than half the width of every cell, at most ``most``.

    It is rounded down to 0.05 angstrom and at least a fortieth of an angstrom short of the half: labels of sets whose
    smallest cells differ little get one radius, and thereby one level.
    """
    widths = perpendicular_widths(cells)
    half = float(widths.min()) / 2 if widths.size else np.inf
    return float(min(most, round(np.floor((half - RADIUS_STEP_A / 2) / RADIUS_STEP_A) * RADIUS_STEP_A, 6)))


def kpoints_mesh(cells: ArrayLike, spacing: float) -> tuple[int, int, int]:
    """Return the mesh whose points are no further apart than ``spacing`` (1/angstrom, 2 pi included) in any cell."""
    widths = perpendicular_widths(cells).min(axis=0)
    return tuple(max(1, int(np.ceil(2 * np.pi / width / spacing - 1e-9))) for width in widths)  # type: ignore[return-value]
