"""Frames that are in a set twice: equal ones, and those that differ by order, place or orientation only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from aiida_mlfinetune.science.datasets.distances import Block, SmallestDistances, blocks, smallest_in_block, tabulate
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray

TOLERANCE_A = 0.001
"""Frames whose sorted distances agree within this (angstrom) are near duplicates."""
QUANTILES = np.linspace(0.0, 1.0, 6)


@dataclass(frozen=True)
class Duplicates:
    """Frames that are in a set more than once.

    Attributes:
        equal: groups of the indices of equal frames (by content hash).
        near: pairs of frames, not equal, of the same composition and volume whose sorted distances of each pair of
            elements all agree within ``TOLERANCE_A``: what an exchange of equal atoms, a translation, a rotation or a
            reflection leaves as it is. Of equal frames only the first is compared.
    """

    equal: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, int], ...]

    @property
    def n_surplus(self) -> int:
        """Number of frames that could go without a loss: all but one of each group of equal frames."""
        return sum(len(group) - 1 for group in self.equal)


def find_duplicates(frames: Frames) -> Duplicates:
    """Return which frames are in the set more than once."""
    return survey_distances(frames)[1]


def survey_distances(frames: Frames) -> tuple[SmallestDistances, Duplicates]:
    """Return the smallest distances by pair of elements and the duplicates, for which distances are needed once."""
    places: dict[str, list[int]] = {}
    for index, digest in enumerate(frames.content_hashes()):
        places.setdefault(digest, []).append(index)
    firsts = {group[0] for group in places.values()}
    smallest: dict[str, FloatArray] = {}
    prints: dict[tuple[str, bytes], list[tuple[int, FloatArray]]] = {}
    formulas = frames.formulas
    for block in blocks(frames):
        smallest_in_block(block, len(frames), smallest)
        rough = np.concatenate([_rough(block), _edges(frames, block)], axis=1)
        for row, index in enumerate(block.frames.tolist()):
            if index in firsts:
                prints.setdefault((formulas[index], frames.pbc[index].tobytes()), []).append((index, rough[row]))
    near = [pair for members in prints.values() for pair in _near(frames, members)]
    equal = tuple(tuple(group) for group in places.values() if len(group) > 1)
    return tabulate(smallest, len(frames)), Duplicates(equal, tuple(sorted(near)))


def _rough(block: Block) -> FloatArray:
    """Return (m, numbers) that change by no more than the largest change of the sorted distances: quantiles of them."""
    parts = []
    for _, own in block.pairs():
        ordered = np.sort(block.distances[:, own], axis=1)
        if ordered.shape[1]:
            chosen = np.round(QUANTILES * (ordered.shape[1] - 1)).astype(np.int64)
            parts += [ordered[:, chosen], ordered.mean(axis=1, keepdims=True)]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(block.frames), 0))


def _edges(frames: Frames, block: Block) -> FloatArray:
    """Return (m, 1) the edge of a cube of the cell's volume, 0 where the frame is not periodic in three directions."""
    return np.asarray(np.cbrt(np.nan_to_num(frames.volumes[block.frames]))[:, None])


def _near(frames: Frames, members: list[tuple[int, FloatArray]]) -> list[tuple[int, int]]:
    """Return the pairs of near duplicates among frames of one composition, given with their rough fingerprints."""
    indices = [index for index, _ in members]
    tree = cKDTree(np.stack([rough for _, rough in members]))
    found = []
    known: dict[int, NDArray[np.float64]] = {}
    for i, j in sorted(tree.query_pairs(TOLERANCE_A, p=np.inf)):
        one, two = (known.setdefault(k, _fingerprint(frames, k)) for k in (indices[i], indices[j]))
        if np.abs(one - two).max(initial=0.0) <= TOLERANCE_A:
            found.append((min(indices[i], indices[j]), max(indices[i], indices[j])))
    return found


def _fingerprint(frames: Frames, index: int) -> FloatArray:
    """Return all distances of a frame, sorted within each pair of elements."""
    (block,) = blocks(frames.select([index]))
    return np.concatenate([np.sort(block.distances[0, own]) for _, own in block.pairs()])
