"""Averages of the cell vectors' lengths and angles."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.statistics import TimeAverage, time_average
from aiida_mlfinetune.science.datasets.levels import FloatArray

LENGTHS = ("a", "b", "c")
ANGLES = ("alpha", "beta", "gamma")


def cell_parameters(cells: ArrayLike) -> dict[str, FloatArray]:
    """Return lengths (angstrom) and angles (degrees) of cells (n, 3, 3), rows are vectors, each (n,), by name.

    Raises:
        MlFinetuneError: cells that are not finite or have a vector of no length, as those of a molecule.
    """
    vectors = np.asarray(cells, dtype=np.float64).reshape(-1, 3, 3)
    lengths = np.linalg.norm(vectors, axis=2)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise MlFinetuneError("the run has no cell: cell vectors are asked of a run of a crystal")
    found: dict[str, FloatArray] = {name: lengths[:, i] for i, name in enumerate(LENGTHS)}
    for i, name in enumerate(ANGLES):
        j, k = (i + 1) % 3, (i + 2) % 3
        cosine = np.einsum("ni,ni->n", vectors[:, j], vectors[:, k]) / (lengths[:, j] * lengths[:, k])
        found[name] = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
    return found


def average_cell(cells: ArrayLike, equilibration: int | None = None) -> dict[str, TimeAverage]:
    """Return the time averages of what ``cell_parameters`` returns, over cells (n, 3, 3).

    Raises:
        MlFinetuneError: as ``cell_parameters``.
    """
    return {name: time_average(series, equilibration) for name, series in cell_parameters(cells).items()}
