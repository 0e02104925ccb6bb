r"""Which frames of a foundation's own data are shown again while it is fine-tuned (a replay set).

The recipe is that of appendix C of Batatia et al., J. Chem. Phys. 163, 184110 (2025): frames with at least two elements
of the new data are candidates; if there are too few, others are drawn at random; if there are too many, farthest-point
sampling (their equation C4) takes next the frame that is farthest from all those taken already,

.. math:: s_{k+1} = \arg\max_{i \notin S_k} \, \min_{j \in S_k} |D_i - D_j| .

==============  ======================================================================  ==================
symbol          meaning                                                                 here
==============  ======================================================================  ==================
:math:`D_i`     descriptor of frame i: for each element the mean of the model's          ``FrameDescriptors``
                invariant node features (all layers) over the atoms of that element,
                elements side by side, zeros for an element that the frame lacks
:math:`S_k`     the k frames taken so far; the first is drawn at random                 result
==============  ======================================================================  ==================

The mean by element is that of ``mace_finetuning_select`` in mace-torch, by the same authors. That program puts 1e11 in
place of an element that a frame lacks, which leaves no digits of single precision for anything else where compositions
differ; zeros keep such frames apart by the size of the descriptors themselves. The text of equation C4 itself was not
at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import BoolArray, FloatArray, IntArray

N_NUMBERS = 256
"""More than there are atomic numbers."""


class ElementRule(str, Enum):
    """Which frames are candidates, by the elements of the new data."""

    AT_LEAST_TWO = "at-least-two"
    """Frames with two or more of them (one, if the new data have but one)."""
    EVERY = "every"
    """Frames with every one of them."""
    NONE = "none"
    """All frames."""


class ReplayLabels(str, Enum):
    """Where the labels of a replay set come from."""

    OWN = "own"
    """They are kept: the level that the foundation was trained on."""
    FOUNDATION = "foundation"
    """The foundation predicts them (pseudolabels)."""


@dataclass(frozen=True)
class ReplaySettings:
    """How a replay set is chosen.

    Attributes:
        n_frames: size of the set.
        seed: of the first frame of farthest-point sampling, and of the frames drawn at random.
        elements: which frames come first.
        labels: kept, or predicted by the foundation.
        level: key of the level whose labels the frames must have; None where none are needed.
    """

    n_frames: int
    seed: int
    elements: ElementRule = ElementRule.AT_LEAST_TWO
    labels: ReplayLabels = ReplayLabels.OWN
    level: str | None = None

    def __post_init__(self) -> None:
        """Check the values and turn plain strings into enums.

        Raises:
            FramesError: names the offender and the remedy.
        """
        for name, kind in (("elements", ElementRule), ("labels", ReplayLabels)):
            choices = [choice.value for choice in kind]
            if getattr(self, name) not in choices:
                raise FramesError(f"the replay set's {name!r} is {getattr(self, name)!r}: use one of {choices}")
            object.__setattr__(self, name, kind(getattr(self, name)))
        for name, least in (("n_frames", 2), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise FramesError(f"the replay set's {name!r} is {value!r}: give a whole number of at least {least}")
        if self.labels is ReplayLabels.OWN and self.level is None:
            raise FramesError(
                "the replay set keeps its labels, but no 'level' says which: name a level of the set, or use "
                f"labels: {ReplayLabels.FOUNDATION.value}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReplaySettings:
        """Build settings from plain JSON types.

        Raises:
            FramesError: an unknown or missing name, or a value that cannot be.
        """
        known = list(cls.__dataclass_fields__)
        if unknown := sorted(set(values) - set(known)):
            raise FramesError(f"unknown entries in the settings of a replay set: {unknown}; known: {known}")
        if missing := [name for name in ("n_frames", "seed") if name not in values]:
            raise FramesError(f"the settings of a replay set need {missing}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "elements": self.elements.value, "labels": self.labels.value}


@dataclass(frozen=True)
class FrameDescriptors:
    """Descriptors of frames, averaged by element.

    Attributes:
        frame: (m,) the frame of each row.
        number: (m,) the atomic number of each row.
        mean: (m, d) mean descriptor of that element's atoms in that frame, without unit.
    """

    frame: NDArray[np.integer[Any]]
    number: NDArray[np.integer[Any]]
    mean: NDArray[np.floating[Any]]

    def check(self, frames: Frames) -> None:
        """Refuse rows that are not those of ``frames``.

        Raises:
            FramesError: a row is missing, or one too many.
        """
        expected = element_pairs(frames)
        found = np.stack([self.frame, self.number], axis=1)
        if self.mean.ndim != 2 or len(self.mean) != len(found) or not np.array_equal(found, expected):
            raise FramesError(
                f"descriptors of {len(found)} pairs of frame and element, but the {len(frames)} frames have "
                f"{len(expected)} such pairs"
            )


def element_pairs(frames: Frames) -> IntArray:
    """Return (m, 2) the frame and atomic number of each element of each frame, sorted."""
    owner = np.repeat(np.arange(len(frames), dtype=np.int64), frames.n_atoms)
    keys = np.unique(owner * N_NUMBERS + frames.numbers)
    return np.stack([keys // N_NUMBERS, keys % N_NUMBERS], axis=1)


def matching_frames(frames: Frames, elements: Sequence[str], rule: ElementRule, level: str | None = None) -> BoolArray:
    """Return (n,) whether each frame is a candidate.

    Args:
        frames: the foundation's data.
        elements: chemical symbols of the new data.
        rule: how many of them a frame must have.
        level: key of a level at which a frame must have an energy, if any.

    Raises:
        FramesError: no element is given.
        LabelsError: the frames lack the level.
    """
    if not elements:
        raise FramesError("no elements of the new data are given")
    wanted = [atomic_numbers[element] for element in elements]
    pairs = element_pairs(frames)
    counts = np.bincount(pairs[np.isin(pairs[:, 1], wanted), 0], minlength=len(frames))
    least = {ElementRule.AT_LEAST_TWO: min(2, len(set(wanted))), ElementRule.EVERY: len(set(wanted))}
    found = counts >= least.get(rule, 0)
    return np.asarray(found if level is None else found & frames.labels(level).has_energy)


def farthest_points(descriptors: FrameDescriptors, n: int, seed: int) -> tuple[IntArray, FloatArray]:
    """Return the indices of n frames by farthest-point sampling, in the order in which they are taken.

    The first frame is drawn at random; of frames that are equally far the first is taken. The first k of the frames
    are those that a call for k would return. Costs n passes over all descriptors.

    Args:
        descriptors: of N frames, numbered from 0, each with at least one atom.
        n: how many to take, at most N.
        seed: of the first frame.

    Returns:
        indices (n,), and distances (n,) of each frame from those taken before it (NaN for the first). No frame that was
        left out is farther from the chosen ones than the last of these.

    Raises:
        FramesError: more frames are asked for than there are.
    """
    total = int(descriptors.frame.max()) + 1
    if not 1 <= n <= total:
        raise FramesError(f"{n} frames are to be chosen from {total}")
    blocks = [_Block(descriptors, number, total) for number in np.unique(descriptors.number)]
    chosen = np.empty(n, dtype=np.int64)
    distances = np.full(n, np.nan)
    nearest = np.full(total, np.inf)
    chosen[0] = np.random.default_rng(seed).integers(total)
    for step in range(n):
        if step:
            chosen[step] = int(np.argmax(nearest))
            distances[step] = np.sqrt(nearest[chosen[step]])
        squared = np.zeros(total)
        for block in blocks:
            block.add_squared_distances(int(chosen[step]), squared)
        np.minimum(nearest, squared, out=nearest)
        nearest[chosen[step]] = -1.0
    return chosen, distances


class _Block:
    """The rows of one element: its share in the squared distances of all frames from one of them."""

    def __init__(self, descriptors: FrameDescriptors, number: int, n_frames: int) -> None:
        own = descriptors.number == number
        self.frames = descriptors.frame[own]
        values = descriptors.mean[own].astype(np.float64)
        self.sizes = np.einsum("ij,ij->i", values, values)
        # Distances of frames that both have the element do not change by a shift, and lose fewer digits with it.
        self.values = values - values.mean(axis=0)
        self.norms = np.einsum("ij,ij->i", self.values, self.values)
        self.row_of = np.full(n_frames, -1, dtype=np.int64)
        self.row_of[self.frames] = np.arange(len(self.frames))
        self.absent = np.flatnonzero(self.row_of < 0)

    def add_squared_distances(self, frame: int, squared: FloatArray) -> None:
        """Add to ``squared`` (n,) those from ``frame``; an element that a frame lacks counts as zeros."""
        row = self.row_of[frame]
        if row < 0:
            squared[self.frames] += self.sizes
            return
        own = self.norms + self.norms[row] - 2.0 * (self.values @ self.values[row])
        squared[self.frames] += np.maximum(own, 0.0)
        squared[self.absent] += self.sizes[row]


def random_fill(n_candidates: int, n_others: int, n_frames: int, seed: int) -> IntArray:
    """Return indices of the others, in ascending order, that fill a set of all candidates up to ``n_frames``.

    Raises:
        FramesError: all frames together are too few.
    """
    if n_candidates + n_others < n_frames:
        raise FramesError(
            f"a replay set of {n_frames} frames is asked for, but there are only {n_candidates + n_others} to choose "
            "from: ask for fewer"
        )
    missing = n_frames - n_candidates
    return np.sort(np.random.default_rng(seed).choice(n_others, size=missing, replace=False)).astype(np.int64)
