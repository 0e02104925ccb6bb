r"""How much a fine-tuned model has forgotten of what its foundation knew.

The forgetting ratio of Batatia et al., J. Chem. Phys. 163, 184110 (2025), is

.. math:: r = \mathrm{RMSE}_\mathrm{model} / \mathrm{RMSE}_\mathrm{foundation}

on frames of other tasks, labelled at the level that the foundation was trained on: 1 means that nothing was forgotten.

==========================================  =====================================================  ==================
symbol                                      meaning                                                here
==========================================  =====================================================  ==================
:math:`\mathrm{RMSE}`                       over energies per atom (meV), force components          ``rmse_model``,
                                            (meV/angstrom), components of stress (meV/angstrom^3)   ``rmse_foundation``
:math:`r`                                   ratio                                                   ``ratio``
==========================================  =====================================================  ==================

A fine-tuned model has reference energies of another level, which shift all its energies: that is not forgetting. The
ratio of energies is therefore also given with the shift of each element fitted to the frames, for both models, by least
squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.common.units import EV_MEV
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray, IntArray, Labels

QUANTITIES = ("energy", "forces", "stress")
ABOUT_SHIFTS = "energy_about_shifts"
"""Energies after the shift of each element was fitted."""


@dataclass(frozen=True)
class ForgettingRatio:
    """The ratio of two errors on the same frames.

    Attributes:
        ratio: error of the fine-tuned model over that of the foundation.
        error: standard error of ``ratio``, by bootstrap over the frames; infinite for a single frame.
        rmse_model: in meV per atom (energy), meV/angstrom (forces) or meV/angstrom^3 (stress).
        rmse_foundation: in the same unit.
        n_frames: frames that carry the quantity at all three levels.
    """

    ratio: float
    error: float
    rmse_model: float
    rmse_foundation: float
    n_frames: int


@dataclass(frozen=True)
class Forgetting:
    """Forgetting ratios by quantity (``energy``, ``energy_about_shifts``, ``forces``, ``stress``), where it is known.

    Attributes:
        pooled: over the frames of all sets.
        by_set: over the frames of each set alone, by its name; the shifts are those of all sets together.
    """

    pooled: Mapping[str, ForgettingRatio]
    by_set: Mapping[str, Mapping[str, ForgettingRatio]]


@dataclass(frozen=True)
class _Squares:
    """Squared errors summed over each frame (n,) of model and foundation, and the number of values in each frame."""

    model: FloatArray
    foundation: FloatArray
    counts: IntArray


def forgetting_ratios(
    sets: Mapping[str, Frames], reference: str, model: str, foundation: str, n_bootstrap: int = 1000, seed: int = 0
) -> Forgetting:
    """Return the forgetting ratios of a model on sets of frames, together and one by one.

    Frames are drawn with replacement within each set, the same ones for both models.

    Args:
        sets: frames with all three levels, by any names.
        reference: key of the level that the foundation was trained on.
        model: key of the fine-tuned model's predictions.
        foundation: key of the foundation's predictions.
        n_bootstrap: number of draws.
        seed: of the draws.

    Raises:
        LabelsError: no set, a level that is missing, no frame that has a quantity at all three, or a foundation without
            any error, as on its own pseudolabels.
    """
    if not sets:
        raise LabelsError("no dataset is given: forgetting is measured on frames of other tasks")
    keys = (reference, model, foundation)
    squares = {name: _squares(frames, keys) for name, frames in sets.items()}
    for name, own in _squares_about_shifts(sets, keys).items():
        squares[name][ABOUT_SHIFTS] = own
    quantities = [q for q in (*QUANTITIES, ABOUT_SHIFTS) if any(q in own for own in squares.values())]
    if not quantities:
        raise LabelsError(f"no frame has energy, forces or stress at all of the levels {list(keys)}")
    pooled: dict[str, ForgettingRatio] = {}
    by_set: dict[str, dict[str, ForgettingRatio]] = {name: {} for name in sets}
    for quantity in quantities:
        random = np.random.default_rng(seed)
        draws = {
            name: (own[quantity], *_drawn_sums(own[quantity], n_bootstrap, random))
            for name, own in sorted(squares.items())
            if quantity in own
        }
        for name, draw in draws.items():
            by_set[name][quantity] = _ratio(quantity, [draw], f"set {name!r}")
        pooled[quantity] = _ratio(quantity, list(draws.values()), "all sets")
    return Forgetting(pooled, by_set)


def _squares(frames: Frames, keys: tuple[str, str, str]) -> dict[str, _Squares]:
    """Return the squared errors by quantity, of the frames that have it at all three levels."""
    reference, *models = (frames.labels(key) for key in keys)
    measures: dict[str, Callable[[Labels], FloatArray]] = {
        "energy": lambda labels: np.square((labels.energy - reference.energy) / frames.n_atoms),
        "forces": lambda labels: np.add.reduceat(
            np.square(labels.forces - reference.forces).sum(axis=1), frames.offsets[:-1]
        ),
        "stress": lambda labels: np.square(labels.stress - reference.stress).sum(axis=(1, 2)),
    }
    per_frame = {"energy": np.ones(len(frames)), "forces": 3 * frames.n_atoms, "stress": np.full(len(frames), 9)}
    found = {}
    for quantity, measure in measures.items():
        own = _complete(quantity, (reference, *models))
        if own.size:
            values = [np.asarray(measure(labels)[own]) for labels in models]
            found[quantity] = _Squares(values[0], values[1], per_frame[quantity][own].astype(np.int64))
    return found


def _complete(quantity: str, levels: tuple[Labels, ...]) -> IntArray:
    """Return the indices of the frames that have a quantity at all levels."""
    return np.flatnonzero(np.logical_and.reduce([getattr(labels, f"has_{quantity}") for labels in levels]))


def _squares_about_shifts(sets: Mapping[str, Frames], keys: tuple[str, str, str]) -> dict[str, _Squares]:
    """Return the squared errors of energies per atom less the shift of each element, fitted to all sets together.

    Empty if there are no more frames than shifts.
    """
    elements = sorted({int(number) for frames in sets.values() for number in np.unique(frames.numbers)})
    names, fractions, errors = [], [], []
    for name, frames in sets.items():
        reference, *models = (frames.labels(key) for key in keys)
        own = _complete("energy", (reference, *models))
        counts = [np.add.reduceat((frames.numbers == z).astype(np.float64), frames.offsets[:-1]) for z in elements]
        names += [name] * len(own)
        fractions.append((np.stack(counts, axis=1) / frames.n_atoms[:, None])[own])
        errors.append(
            np.stack([((labels.energy - reference.energy) / frames.n_atoms)[own] for labels in models], axis=1)
        )
    matrix, values, of = np.concatenate(fractions), np.concatenate(errors), np.array(names)
    if not len(matrix) or len(matrix) <= np.linalg.matrix_rank(matrix):
        return {}
    squares = np.square(values - matrix @ np.linalg.lstsq(matrix, values, rcond=None)[0])
    found = {}
    for name in dict.fromkeys(names):
        own = squares[of == name]
        found[name] = _Squares(own[:, 0], own[:, 1], np.ones(len(own), dtype=np.int64))
    return found


def _drawn_sums(squares: _Squares, n_draws: int, random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return (n_draws,) sums of the squared errors of both models over frames drawn with replacement."""
    n = len(squares.model)
    values = np.stack([squares.model, squares.foundation], axis=1)
    sums = np.array([random.multinomial(n, np.full(n, 1 / n)) @ values for _ in range(n_draws)])
    return sums[:, 0], sums[:, 1]


def _ratio(quantity: str, draws: list[tuple[_Squares, FloatArray, FloatArray]], where: str) -> ForgettingRatio:
    model, foundation = (
        sum(float(getattr(squares, name).sum()) for squares, *_ in draws) for name in ("model", "foundation")
    )
    n_values = sum(int(squares.counts.sum()) for squares, *_ in draws)
    n_frames = sum(len(squares.counts) for squares, *_ in draws)
    if foundation == 0.0:
        raise LabelsError(
            f"the foundation has no error at all in the {quantity} of {where}: these labels are its own predictions; "
            "compare with labels of the level that it was trained on"
        )
    drawn_model, drawn_foundation = sum(draw[1] for draw in draws), sum(draw[2] for draw in draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.sqrt(drawn_model / drawn_foundation)
    known = n_frames > 1 and bool(np.isfinite(ratios).all())
    return ForgettingRatio(
        ratio=math.sqrt(model / foundation),
        error=float(np.std(ratios, ddof=1)) if known else math.inf,
        rmse_model=math.sqrt(model / n_values) * EV_MEV,
        rmse_foundation=math.sqrt(foundation / n_values) * EV_MEV,
        n_frames=n_frames,
    )
