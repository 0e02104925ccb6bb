"""Distances between all atoms of many frames at once, under the minimum image convention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import BoolArray, FloatArray, IntArray

MOST_VALUES = 200_000
"""Distances that are held at a time."""
HALF_SPACE = np.array([k for k in product((-1, 0, 1), repeat=3) if k > (0, 0, 0)])
"""Sums of cell vectors, one of each pair of opposite ones."""


@dataclass(frozen=True)
class Block:
    """Distances of frames with the same atoms in the same order.

    Attributes:
        frames: (m,) their indices.
        numbers: (a,) atomic numbers.
        first, second: (P,) the atoms of each pair, first < second.
        distances: (m, P) angstrom.
        image_distance: (m,) angstrom, from an atom to its own nearest image; infinite without periodicity.
    """

    frames: IntArray
    numbers: NDArray[np.int16]
    first: IntArray
    second: IntArray
    distances: FloatArray
    image_distance: FloatArray

    def pairs(self) -> Iterator[tuple[str, BoolArray]]:
        """Yield the name of each pair of elements, such as ``H-O``, and (P,) which distances are of it."""
        one, two = self.numbers[self.first], self.numbers[self.second]
        for low, high in combinations_with_replacement(np.unique(self.numbers).tolist(), 2):
            yield (
                f"{chemical_symbols[low]}-{chemical_symbols[high]}",
                ((one == low) & (two == high)) | ((one == high) & (two == low)),
            )


@dataclass(frozen=True)
class SmallestDistances:
    """Smallest distances by pair of elements.

    Attributes:
        pairs: names such as ``H-O``, the lighter element first.
        values: (n, pairs) angstrom; NaN where a frame has no such pair.
    """

    pairs: tuple[str, ...]
    values: FloatArray


def smallest_distances(frames: Frames) -> SmallestDistances:
    """Return the smallest distance of each pair of elements in each frame, periodic images included."""
    known: dict[str, FloatArray] = {}
    for block in blocks(frames):
        smallest_in_block(block, len(frames), known)
    return tabulate(known, len(frames))


def smallest_in_block(block: Block, n_frames: int, known: dict[str, FloatArray]) -> None:
    """Enter the smallest distances of a block into ``known``: (n_frames,) by pair, infinite where there is none."""
    for name, own in block.pairs():
        values = known.setdefault(name, np.full(n_frames, np.inf))
        if own.any():
            values[block.frames] = block.distances[:, own].min(axis=1)
        one, two = name.split("-")
        if one == two:
            values[block.frames] = np.minimum(values[block.frames], block.image_distance)


def tabulate(known: dict[str, FloatArray], n_frames: int) -> SmallestDistances:
    """Return what ``smallest_in_block`` entered, as a table."""
    columns = {name: np.where(np.isinf(known[name]), np.nan, known[name]) for name in sorted(known)}
    columns = {name: values for name, values in columns.items() if not np.isnan(values).all()}
    return SmallestDistances(tuple(columns), np.array(list(columns.values())).reshape(len(columns), n_frames).T)


def blocks(frames: Frames) -> Iterator[Block]:
    """Yield the distances of all frames, in blocks of frames with the same atoms and periodicity."""
    groups: dict[bytes, list[int]] = {}
    for index in range(len(frames)):
        key = frames.numbers[frames.slice(index)].tobytes() + frames.pbc[index].tobytes()
        groups.setdefault(key, []).append(index)
    for members in groups.values():
        numbers = frames.numbers[frames.slice(members[0])]
        first, second = np.triu_indices(len(numbers), 1)
        size = max(1, MOST_VALUES // max(1, len(first)))
        for start in range(0, len(members), size):
            part = np.array(members[start : start + size], dtype=np.int64)
            atoms = frames.offsets[part][:, None] + np.arange(len(numbers))
            cells = _reduced(frames.cells[part], frames.pbc[part[0]])
            distances, image = _minimum_image(frames.positions[atoms], cells, frames.pbc[part[0]], first, second)
            yield Block(part, numbers, first, second, distances, image)


def _minimum_image(
    positions: FloatArray, cells: FloatArray, pbc: BoolArray, first: IntArray, second: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Return distances (m, P) and the shortest lattice vector (m,) for positions (m, a, 3) and reduced cells (m, 3, 3).

    The nearest image is the one nearest in fractional coordinates, or one of that one's 26 neighbours (as in
    ``ase.geometry.minkowski_reduction``). Of a lattice vector L and -L the better one gives
    |d|^2 + |L|^2 - 2 |d L|.
    """
    vectors = positions[:, second] - positions[:, first]
    if not pbc.any():
        return np.linalg.norm(vectors, axis=2), np.full(len(positions), np.inf)
    vectors -= np.where(pbc, np.round(vectors @ np.linalg.inv(cells)), 0.0) @ cells
    lattice = HALF_SPACE[(HALF_SPACE[:, ~pbc] == 0).all(axis=1)] @ cells
    lengths = np.einsum("mik,mik->mi", lattice, lattice)
    gain = np.zeros(vectors.shape[:2])
    for number in range(lattice.shape[1]):
        along = np.abs((vectors @ lattice[:, number, :, None])[..., 0])
        np.minimum(gain, lengths[:, number, None] - 2 * along, out=gain)
    squares = np.einsum("mpk,mpk->mp", vectors, vectors) + gain
    return np.sqrt(np.maximum(squares, 0.0)), np.sqrt(lengths.min(axis=1))


def _reduced(cells: FloatArray, pbc: BoolArray) -> FloatArray:
    """Return cells (m, 3, 3) whose vectors are as short as can be, completed where a direction is not periodic."""
    cells = np.array(cells)
    if not pbc.any():
        return cells
    for index in range(len(cells)) if not pbc.all() else ():
        periodic = np.where(pbc[:, None], cells[index], 0.0)
        cells[index] = periodic
        cells[index][~pbc] = np.linalg.svd(periodic)[2][int(pbc.sum()) :]
    lengths = np.linalg.norm(cells, axis=2)
    sums = np.linalg.norm(HALF_SPACE @ cells, axis=2)
    longest = np.where(HALF_SPACE != 0, lengths[:, None, :], 0.0).max(axis=2)
    for index in np.flatnonzero((sums < longest * (1 - 1e-9)).any(axis=1)).tolist():
        cells[index] = minkowski_reduce(cells[index], pbc=pbc)[0]
    return cells
