"""The formula unit of each frame, by which energies of frames of different size are compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import gcd

import numpy as np
from ase.formula import Formula

from aiida_mlfinetune.science.datasets.atomic_energies import composition_matrix
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import IntArray


@dataclass(frozen=True)
class FormulaUnits:
    """Formula units of n frames.

    Attributes:
        names: formula (Hill order) of the unit of each frame: ``H2O`` for (H2O)8, but ``CH`` for benzene.
        counts: (n,) how many units each frame holds.
    """

    names: tuple[str, ...]
    counts: IntArray


def formula_units(frames: Frames) -> FormulaUnits:
    """Return the smallest formula unit of each frame, from its composition alone."""
    elements = frames.elements
    compositions, places = np.unique(composition_matrix(frames, elements).astype(np.int64), axis=0, return_inverse=True)
    divisors = np.array([reduce(gcd, row) for row in compositions.tolist()], dtype=np.int64)
    names = [
        Formula.from_dict({e: n for e, n in zip(elements, row, strict=True) if n}).format("hill")
        for row in (compositions // divisors[:, None]).tolist()
    ]
    own = np.asarray(places).reshape(-1)
    return FormulaUnits(tuple(names[place] for place in own), np.asarray(divisors[own], dtype=np.int64))
