"""What part of the sampled energies and volumes the labelled frames cover (Kaur et al. 2025, figure 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.science.datasets.formula_units import formula_units
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray
from aiida_mlfinetune.science.datasets.merging import transfer_labels

FEWEST = 2
ROUNDING = 1e-9
"""Values that differ by no more than this part of them are equal."""


@dataclass(frozen=True)
class Coverage:
    """A quantity in the labelled and in the sampled set, of frames of one composition.

    Attributes:
        formula: of the frames.
        unit: of the values: kJ/mol or cubic angstrom, both per formula unit.
        labelled: (n,) values of labelled frames.
        sampled: (m,) values of sampled frames.
        same_scale: whether the two can be compared as they are. Where not, they are energies at different levels, each
            relative to its mean.
    """

    formula: str
    unit: str
    labelled: FloatArray
    sampled: FloatArray
    same_scale: bool

    @property
    def shift(self) -> float | None:
        """Mean of the labelled minus that of the sampled values, None on different scales."""
        return float(self.labelled.mean() - self.sampled.mean()) if self.same_scale else None

    @property
    def spreads(self) -> tuple[float, float]:
        """Standard deviations of labelled and of sampled values; zero for values that differ by rounding alone."""
        return _spread(self.labelled), _spread(self.sampled)

    @property
    def covered(self) -> float:
        """Part of the sampled frames whose value lies between the smallest and the largest of the labelled ones."""
        low, high = self.labelled.min(), self.labelled.max()
        tolerance = ROUNDING * max(abs(low), abs(high), 1.0)
        return float(np.mean((self.sampled >= low - tolerance) & (self.sampled <= high + tolerance)))


def _spread(values: FloatArray) -> float:
    rounding = ROUNDING * max(float(np.abs(values).max()), 1.0)
    return float(values.std()) if np.ptp(values) > rounding else 0.0


@dataclass(frozen=True)
class EnergyLevels:
    """The levels at which labelled and sampled energies are given."""

    labelled: str
    sampled: str


def volume_coverage(frames: Frames, level: str, sampled: Frames) -> list[Coverage]:
    """Compare volumes per formula unit of the frames labelled at ``level`` with those of ``sampled``."""
    own = np.flatnonzero(frames.labels(level).has_energy)
    labelled = frames.select(own)
    return _compare(
        labelled,
        labelled.volumes / formula_units(labelled).counts,
        sampled,
        sampled.volumes / formula_units(sampled).counts,
        "Å³",
        same_scale=True,
    )


def energy_coverage(frames: Frames, level: str, sampled: Frames) -> tuple[EnergyLevels, list[Coverage]] | None:
    """Compare energies per formula unit of the frames labelled at ``level`` with those of ``sampled``.

    At the labels' own level where ``sampled`` has it. Else at the level of the sampling, if all of the labelled frames
    carry it or stand in ``sampled``. Else each at its own level, relative to its mean. None if ``sampled`` has no
    energies.
    """
    labels = frames.labels(level)
    own = np.flatnonzero(labels.has_energy)
    counts = {key: int(known.has_energy.sum()) for key, known in sampled.labels_by_level.items()}
    if not len(own) or not any(counts.values()):
        return None
    there = level if counts.get(level) else max(sorted(counts), key=lambda key: counts[key])
    labelled = frames.select(own)
    here = level
    if there != level:
        energies = _energies_of_sampling(labelled, sampled, there)
        if energies is not None:
            here = there
        else:
            energies = labels.energy[own]
    else:
        energies = labels.energy[own]
    coverage = _compare(
        labelled,
        energies / formula_units(labelled).counts * EV_KJMOL,
        sampled,
        sampled.labels(there).energy / formula_units(sampled).counts * EV_KJMOL,
        "kJ/mol",
        same_scale=here == there,
    )
    return EnergyLevels(here, there), coverage


def _energies_of_sampling(labelled: Frames, sampled: Frames, level: str) -> FloatArray | None:
    """Return the energies at ``level`` of all labelled frames, None if they do not all have one."""
    known = set(sampled.content_hashes())
    own = labelled.labels_by_level.get(level)
    if own is not None and own.has_energy.all():
        return own.energy
    if not known.issuperset(labelled.content_hashes()):
        return None
    bare = labelled if own is None else labelled.without_level(level)
    energies = transfer_labels(bare, sampled, [level]).labels(level).energy
    return None if np.isnan(energies).any() else energies


def _compare(
    labelled: Frames, values: FloatArray, sampled: Frames, others: FloatArray, unit: str, *, same_scale: bool
) -> list[Coverage]:
    """Return the comparison for each composition that has values in both sets."""
    here, there = np.array(labelled.formulas), np.array(sampled.formulas)
    found = []
    for formula in np.unique(here).tolist():
        one, two = _finite(values[here == formula]), _finite(others[there == formula])
        if len(one) < FEWEST or len(two) < FEWEST:
            continue
        if not same_scale:
            one, two = one - one.mean(), two - two.mean()
        found.append(Coverage(formula, unit, one, two, same_scale))
    return found


def _finite(values: NDArray[np.float64]) -> FloatArray:
    return values[np.isfinite(values)]
