"""Which frames of a trajectory to take, and in which order to compute them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray, IntArray

MOST_SHEAR = 0.5
GREEDY_LIMIT = 2000
"""Groups of more frames than this are ordered in time: the greedy order costs the square of their number."""


class SelectionMethod(str, Enum):
    """How frames are taken from a trajectory."""

    RANDOM = "random"
    STRIDE = "stride"


@dataclass(frozen=True)
class Selection:
    """A choice of frames from a trajectory.

    Attributes:
        n_frames: how many frames to take.
        method: at random without replacement, or evenly spaced and ending with the last frame.
        seed: of the random numbers; required where there are any.
        equilibration: the fraction of the frames, from the start, that is left out, 0 <= fraction < 1.
        volume_range: lowest and highest volume, relative to a reference volume, that cells are rescaled to.
        largest_shear: of cells, at random and at constant volume: by how much they are stretched at most.
    """

    n_frames: int
    method: SelectionMethod = SelectionMethod.RANDOM
    seed: int | None = None
    equilibration: float = 0.0
    volume_range: tuple[float, float] | None = None
    largest_shear: float = 0.0

    def __post_init__(self) -> None:
        """Check the values and turn plain JSON types into their own.

        Raises:
            FramesError: a value out of range, an unknown method, or a seed that is missing.
        """
        methods = [method.value for method in SelectionMethod]
        if self.method not in methods:
            raise FramesError(f"the selection's method is {self.method!r}: use one of {methods}")
        object.__setattr__(self, "method", SelectionMethod(self.method))
        if self.n_frames < 1:
            raise FramesError(f"the selection's n_frames is {self.n_frames}: take at least one frame")
        if not 0 <= self.equilibration < 1:
            raise FramesError(
                f"the selection's equilibration is {self.equilibration}: give the fraction of the trajectory to leave "
                "out, at least 0 and less than 1"
            )
        if self.volume_range is not None:
            low, high = (float(value) for value in self.volume_range)
            if not 0 < low <= high:
                raise FramesError(f"the selection's volume_range is [{low}, {high}]: give 0 < lowest <= highest")
            object.__setattr__(self, "volume_range", (low, high))
        if not 0 <= self.largest_shear < MOST_SHEAR:
            raise FramesError(
                f"the selection's largest_shear is {self.largest_shear}: give at least 0 and less than {MOST_SHEAR}"
            )
        if self.seed is None and (self.method is SelectionMethod.RANDOM or self.changes_cells):
            raise FramesError("the selection draws random numbers: give it a 'seed', so that it can be repeated")

    @property
    def changes_cells(self) -> bool:
        """Whether the frames taken have other cells than in the trajectory."""
        return self.volume_range is not None or self.largest_shear > 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Selection:
        """Build a selection from plain JSON types; unknown names are refused.

        Raises:
            FramesError: an unknown name, or what ``Selection`` refuses.
        """
        known = list(cls.__dataclass_fields__)
        if unknown := sorted(set(values) - set(known)):
            raise FramesError(f"unknown entries in a selection of frames: {unknown}; known: {known}")
        if "n_frames" not in values:
            raise FramesError("a selection of frames needs 'n_frames'")
        return cls(**values)


def select_indices(n_total: int, selection: Selection) -> IntArray:
    """Return the indices, in ascending order, that ``selection`` takes from ``n_total`` frames.

    Raises:
        FramesError: fewer frames are left after equilibration than are wanted.
    """
    first = int(np.ceil(selection.equilibration * n_total - 1e-9))
    available = n_total - first
    if selection.n_frames > available:
        raise FramesError(
            f"{selection.n_frames} frames are wanted, but of {n_total} frames only {available} come after the "
            f"equilibration (fraction {selection.equilibration}): run longer, print more often, or take fewer frames"
        )
    if selection.method is SelectionMethod.RANDOM:
        chosen = np.random.default_rng(selection.seed).choice(available, size=selection.n_frames, replace=False)
        return np.asarray(np.sort(chosen) + first, dtype=np.int64)
    steps = np.arange(1, selection.n_frames + 1, dtype=np.int64)
    return np.asarray(first + steps * available // selection.n_frames - 1, dtype=np.int64)


def share_evenly(number: int, available: Sequence[int]) -> list[int]:
    """Return how many of ``number`` frames to take from each of several parts, as evenly as ``available`` allows.

    What is left over goes to the larger parts; where fewer are there than wanted, all are taken.
    """
    shares, left = [0] * len(available), number
    for place, part in enumerate(sorted(range(len(available)), key=lambda part: available[part])):
        shares[part] = min(available[part], left // (len(available) - place))
        left -= shares[part]
    return shares


def order_by_similarity(frames: Frames) -> IntArray:
    """Return a permutation after which neighbouring frames are alike, for wavefunctions to be carried over.

    Frames of the same atoms in the same order and the same periodicity stay together, groups in order of their first
    frame. Within a group each next frame is the nearest of those left (greedy), where the distance of two frames is
    the root mean square over all atoms of the minimum-image displacement plus that over the cell's vectors, in
    angstrom. Large groups are ordered by source and step.
    """
    groups: dict[bytes, list[int]] = {}
    for index in range(len(frames)):
        key = frames.numbers[frames.slice(index)].tobytes() + frames.pbc[index].tobytes()
        groups.setdefault(key, []).append(index)
    order: list[int] = []
    for members in groups.values():
        if len(members) > GREEDY_LIMIT:
            order.extend(sorted(members, key=lambda i: (int(frames.source_index[i]), int(frames.steps[i]), i)))
        else:
            order.extend(_greedy(frames, members))
    return np.array(order, dtype=np.int64)


def inverse_permutation(permutation: IntArray) -> IntArray:
    """Return ``inverse`` with ``x[permutation][inverse] == x``."""
    inverse = np.empty_like(permutation)
    inverse[permutation] = np.arange(len(permutation))
    return inverse


def _greedy(frames: Frames, members: list[int]) -> list[int]:
    """Chain frames of one composition, each next to its nearest, starting with the first."""
    positions = np.stack([frames.positions[frames.slice(index)] for index in members])
    cells = frames.cells[members]
    periodic = frames.pbc[members[0]]
    fractional = _fractional(positions, cells) if periodic.any() else None
    left = np.arange(1, len(members))
    chain = [0]
    while left.size:
        last = chain[-1]
        displacement = positions[left] - positions[last]
        if fractional is not None:
            shift = fractional[left] - fractional[last]
            shift -= np.where(periodic, np.round(shift), 0.0)
            displacement = shift @ cells[last]
        distance = _root_mean_square(displacement) + _root_mean_square(cells[left] - cells[last])
        nearest = int(np.argmin(distance))
        chain.append(int(left[nearest]))
        left = np.delete(left, nearest)
    return [members[index] for index in chain]


def _fractional(positions: FloatArray, cells: FloatArray) -> FloatArray:
    """(n, N, 3) fractional coordinates; missing cell vectors count as unit vectors."""
    complete = np.array(cells)
    for cell in complete:
        missing = ~cell.any(axis=1)
        if missing.any():
            # any vectors that complete the basis will do: only periodic directions are wrapped
            basis = np.linalg.svd(cell)[2]
            cell[missing] = basis[-int(missing.sum()) :]
    return np.asarray(positions @ np.linalg.inv(complete))


def _root_mean_square(vectors: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt((vectors**2).sum(axis=2).mean(axis=1)))
