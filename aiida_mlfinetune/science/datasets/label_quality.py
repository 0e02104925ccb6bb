"""How good labels are, as far as the labels themselves tell: noise of forces, outliers, duplicates, close atoms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.common.units import EV_KJMOL, EV_MEV
from aiida_mlfinetune.science.datasets.coverage import Coverage, EnergyLevels, energy_coverage, volume_coverage
from aiida_mlfinetune.science.datasets.distances import SmallestDistances
from aiida_mlfinetune.science.datasets.duplicates import Duplicates, survey_distances
from aiida_mlfinetune.science.datasets.formula_units import formula_units
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray, IntArray, Labels

OUTLIER_SCORE = 5.0
"""Energies whose robust score is larger are outliers: one in two million of a normal distribution."""
FEWEST_FOR_SCORE = 8
"""Fewer energies of one composition than this say nothing about which of them are outliers."""
NOISE_LIMIT = 0.01
"""Noise of force components above this part of their root mean square is worth a warning."""
MAD_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
MEAN_AD_SIGMA = 1.2533
"""Standard deviation of a normal distribution over its mean absolute deviation."""
N_BINS = 60


@dataclass(frozen=True)
class NetForces:
    """The force noise of labels: the norm of the summed force over all atoms of a frame, zero for exact forces.

    Attributes:
        norms: (n,) meV/angstrom; NaN where a frame has no forces.
        per_component: root mean square, meV/angstrom, of the error of one force component that would give these sums
            if the errors of all atoms were independent: sqrt(<|sum F|^2 / 3N>), N atoms a frame. Errors that are alike
            for neighbours give larger sums, those that cancel by symmetry give smaller ones.
        rms_component: root mean square of the force components themselves, meV/angstrom.
    """

    norms: FloatArray
    per_component: float
    rms_component: float

    @property
    def values(self) -> FloatArray:
        """The norms of the frames with forces."""
        return self.norms[~np.isnan(self.norms)]


@dataclass(frozen=True)
class EnergyScores:
    """Energies against those of the frames of the same composition.

    Attributes:
        energies: (n,) kJ/mol of formula units minus the median of the frames' composition; NaN without energy.
        scores: (n,) this over 1.4826 times the median absolute deviation, (Iglewicz and Hoaglin 1993, modified
            z-score); NaN for compositions of fewer than ``FEWEST_FOR_SCORE`` energies.
        outliers: frames whose score is beyond +-``OUTLIER_SCORE``, the worst first.
        scale: kJ/mol of formula units by composition: 1.4826 times the median absolute deviation.
    """

    energies: FloatArray
    scores: FloatArray
    outliers: tuple[int, ...]
    scale: Mapping[str, float]


@dataclass(frozen=True)
class ElementForces:
    """Distribution of the force components on the atoms of an element, eV/angstrom.

    Attributes:
        n_atoms: number of atoms.
        rms: root mean square of the components.
        largest: norm of the largest force on an atom.
        largest_frame: index of its frame.
        edges: (bins + 1,) of the histogram of components, the same for all elements.
        counts: (bins,) components.
    """

    n_atoms: int
    rms: float
    largest: float
    largest_frame: int
    edges: FloatArray
    counts: FloatArray


@dataclass(frozen=True)
class LabelQuality:
    """All that is told about the labels of one level; what the labels do not have is None.

    Attributes:
        level: key of the level.
        frames: indices of the frames with a label of any kind.
        net_forces: see ``NetForces``.
        energies: see ``EnergyScores``.
        forces: by element.
        distances: of all n frames; NaN where a frame has no label.
        duplicates: among the frames with labels.
        energy_levels: at which the energies of ``energy_coverage`` are given.
        energy_coverage: by composition, against the sampled set; empty without one.
        volume_coverage: likewise.
    """

    level: str
    frames: IntArray
    net_forces: NetForces | None
    energies: EnergyScores | None
    forces: Mapping[str, ElementForces]
    distances: SmallestDistances
    duplicates: Duplicates
    energy_levels: EnergyLevels | None
    energy_coverage: tuple[Coverage, ...]
    volume_coverage: tuple[Coverage, ...]


def assess_labels(frames: Frames, level: str, sampled: Frames | None = None) -> LabelQuality:
    """Judge the labels of a level, and against the frames that they were chosen from.

    Args:
        frames: labelled frames; others of the set are left out. Indices in the result are those of this set.
        level: key of the level.
        sampled: frames that the labelled ones stand for, such as the trajectory they were taken from.

    Raises:
        LabelsError: no such level, or no label at it.
    """
    labels = frames.labels(level)
    own = np.flatnonzero(labels.has_energy | labels.has_forces | labels.has_stress)
    if not len(own):
        raise LabelsError(f"no frame has a label at level {level!r}: there is nothing to judge")
    distances, duplicates = survey_distances(frames.select(own))
    energies = None if sampled is None else energy_coverage(frames, level, sampled)
    return LabelQuality(
        level=level,
        frames=own,
        net_forces=net_forces(frames, labels) if labels.has_forces.any() else None,
        energies=energy_scores(frames, labels) if labels.has_energy.any() else None,
        forces=forces_by_element(frames, labels),
        distances=SmallestDistances(distances.pairs, _spread(distances.values, own, len(frames))),
        duplicates=Duplicates(
            tuple(tuple(int(own[index]) for index in group) for group in duplicates.equal),
            tuple((int(own[i]), int(own[j])) for i, j in duplicates.near),
        ),
        energy_levels=None if energies is None else energies[0],
        energy_coverage=() if energies is None else tuple(energies[1]),
        volume_coverage=() if sampled is None else tuple(volume_coverage(frames, level, sampled)),
    )


def net_forces(frames: Frames, labels: Labels) -> NetForces:
    """Return the net force of each frame (Kaur et al. 2025: 60 meV/angstrom on average for RPA)."""
    atoms = np.repeat(labels.has_forces, frames.n_atoms)
    sums = np.add.reduceat(np.where(atoms[:, None], labels.forces, 0.0), frames.offsets[:-1], axis=0)
    norms = np.where(labels.has_forces, np.linalg.norm(sums, axis=1) * EV_MEV, np.nan)
    own = labels.has_forces
    return NetForces(
        norms=norms,
        per_component=float(np.sqrt(np.mean(norms[own] ** 2 / (3 * frames.n_atoms[own])))),
        rms_component=float(np.sqrt(np.mean(labels.forces[atoms] ** 2))) * EV_MEV,
    )


def energy_scores(frames: Frames, labels: Labels) -> EnergyScores:
    """Return how far each energy lies from those of its composition, in robust standard deviations."""
    values = labels.energy / formula_units(frames).counts * EV_KJMOL
    formulas = np.array(frames.formulas)
    deviations, scores = np.full(len(frames), np.nan), np.full(len(frames), np.nan)
    scale: dict[str, float] = {}
    for formula in np.unique(formulas[labels.has_energy]).tolist():
        own = labels.has_energy & (formulas == formula)
        deviations[own] = values[own] - np.median(values[own])
        if int(own.sum()) < FEWEST_FOR_SCORE:
            continue
        scale[formula] = _robust_scale(deviations[own])
        scores[own] = deviations[own] / scale[formula] if scale[formula] > 0 else 0.0
    judged = np.flatnonzero(np.abs(np.nan_to_num(scores)) > OUTLIER_SCORE)
    worst = judged[np.argsort(-np.abs(scores[judged]), kind="stable")]
    return EnergyScores(deviations, scores, tuple(worst.tolist()), scale)


def forces_by_element(frames: Frames, labels: Labels) -> dict[str, ElementForces]:
    """Return the distribution of force components by element."""
    atoms = np.repeat(labels.has_forces, frames.n_atoms)
    if not atoms.any():
        return {}
    owner = np.repeat(np.arange(len(frames)), frames.n_atoms)
    limit = float(np.abs(labels.forces[atoms]).max()) or 1.0
    edges = np.linspace(-limit, limit, N_BINS + 1)
    found = {}
    for element in frames.elements:
        mine = np.flatnonzero(atoms & (frames.numbers == atomic_numbers[element]))
        if not len(mine):
            continue
        forces = labels.forces[mine]
        norms = np.linalg.norm(forces, axis=1)
        found[element] = ElementForces(
            n_atoms=len(mine),
            rms=float(np.sqrt(np.mean(forces**2))),
            largest=float(norms.max()),
            largest_frame=int(owner[mine[int(norms.argmax())]]),
            edges=edges,
            counts=np.histogram(forces, edges)[0].astype(np.float64),
        )
    return found


def quality_warnings(quality: LabelQuality) -> dict[str, str]:
    """Return in words what is worth a look before a model is trained on the labels.

    By what it is about: ``net_force``, ``energy_outliers``, ``duplicate_frames``, ``near_duplicates``.
    """
    warnings = {}
    net, scores, duplicates = quality.net_forces, quality.energies, quality.duplicates
    if net is not None and net.per_component > NOISE_LIMIT * net.rms_component:
        warnings["net_force"] = (
            f"the net force averages {net.values.mean():.3g} meV/Å a frame, as independent errors of "
            f"{net.per_component:.3g} meV/Å in each force component would make it "
            f"({100 * net.per_component / net.rms_component:.2g} % of the forces' root mean square): no model can be "
            "judged to be better than this; tighten convergence and grids, or weigh forces less"
        )
    if scores is not None and scores.outliers:
        named = ", ".join(f"{index} ({scores.scores[index]:+.3g})" for index in scores.outliers[:10])
        warnings["energy_outliers"] = (
            f"{len(scores.outliers)} energies are outliers, with a robust score beyond {OUTLIER_SCORE:g}: frames "
            f"{named}{' and more' if len(scores.outliers) > 10 else ''}; look at their convergence"
        )
    if duplicates.equal:
        groups = "; ".join(", ".join(map(str, group[:5])) for group in duplicates.equal[:5])
        warnings["duplicate_frames"] = (
            f"{duplicates.n_surplus} frames are equal to others (such as frames {groups}): they cost labels and add "
            "nothing"
        )
    if duplicates.near:
        pairs = "; ".join(f"{i}, {j}" for i, j in duplicates.near[:5])
        warnings["near_duplicates"] = (
            f"{len(duplicates.near)} pairs of frames are the same but for the order, place or orientation of their "
            f"atoms (such as frames {pairs})"
        )
    return warnings


def _robust_scale(deviations: FloatArray) -> float:
    """Return the robust standard deviation of deviations from their median.

    Where more than half of them are zero, it is taken from the mean absolute deviation.
    """
    median = float(np.median(np.abs(deviations)))
    return MAD_SIGMA * median if median > 0 else MEAN_AD_SIGMA * float(np.mean(np.abs(deviations)))


def _spread(values: FloatArray, own: IntArray, n: int) -> FloatArray:
    """Return rows ``values`` at the places ``own`` of n rows, NaN elsewhere."""
    full = np.full((n, values.shape[1]), np.nan)
    full[own] = values
    return full
