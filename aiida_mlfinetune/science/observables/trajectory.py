"""A run of the same atoms, read block by block, so that memory does not grow with its length."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.averages.statistics import MIN_SAMPLES
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import BoolArray, FloatArray, IntArray

BLOCK_VALUES = 1_000_000
"""Coordinates that are held at a time."""
MINIMUM_IMAGE = 0.5
"""Up to this many heights of the cell an atom sees each other atom once."""
DIFFERENT_ATOMS = "the frames are not of the same atoms in the same order: give the frames of one run"
DIFFERENT_PERIODICITY = "the frames are not all periodic in the same directions: give the frames of one run"


@dataclass(frozen=True)
class Block:
    """Consecutive frames of a run.

    Attributes:
        start: index of the first frame.
        positions: (m, n_atoms, 3) angstrom.
        cells: (m, 3, 3) angstrom, rows are vectors.
    """

    start: int
    positions: FloatArray
    cells: FloatArray


class Trajectory(Protocol):
    """What observables of structure and motion read: frames of the same atoms in the same order, equally spaced."""

    numbers: NDArray[np.int16]
    """(n_atoms,) atomic numbers."""
    pbc: BoolArray
    """(3,) periodic directions."""
    n_beads: int
    """Consecutive frames that belong to one step: the beads of a path integral, 1 for classical nuclei."""

    def __len__(self) -> int:
        """Return the number of frames."""
        ...

    def blocks(self) -> Iterator[Block]:
        """Yield all frames in order, the beads of a step in one block; every call starts from the first."""
        ...


class FramesTrajectory:
    """Frames in memory as a trajectory."""

    def __init__(self, frames: Frames, start: int = 0, n_beads: int = 1, *, equally_spaced: bool = True) -> None:
        """Take the frames from index ``start`` on, ``n_beads`` of which belong to each step.

        ``equally_spaced`` says whether the steps have to be.

        Raises:
            FramesError: no frames, frames of different atoms, steps that are not equally spaced, or steps that lack
                beads.
        """
        n_frames = len(frames) - start
        if start < 0 or n_frames < 1:
            raise FramesError(f"cannot drop {start} of {len(frames)} frames")
        self.n_beads = n_beads
        self.numbers = frames.numbers[frames.slice(start)]
        self.pbc = frames.pbc[start]
        rest = frames.numbers[frames.offsets[start] :]
        if (np.diff(frames.offsets[start:]) != len(self.numbers)).any() or (
            rest.reshape(n_frames, -1) != self.numbers
        ).any():
            raise FramesError(DIFFERENT_ATOMS)
        if (frames.pbc[start:] != self.pbc).any():
            raise FramesError(DIFFERENT_PERIODICITY)
        if equally_spaced:
            check_spacing(frames.steps[start:], n_beads)
        self._positions = frames.positions[frames.offsets[start] :].reshape(n_frames, len(self.numbers), 3)
        self._cells = frames.cells[start:]

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._positions)

    def blocks(self) -> Iterator[Block]:
        """Yield all frames in order."""
        size = frames_per_block(len(self.numbers), self.n_beads)
        for first in range(0, len(self), size):
            yield Block(first, self._positions[first : first + size], self._cells[first : first + size])


class StoredTrajectory:
    """The geometry of a run in an open ``.npz`` file (``Frames.to_arrays``), of which one block is in memory at a time.

    The file must not be compressed (``numpy.savez``); it is read from its start at every call of ``blocks``.
    """

    def __init__(self, handle: IO[bytes], start: int = 0, n_beads: int = 1) -> None:
        """Take the frames from index ``start`` on, ``n_beads`` of which belong to each step.

        Raises:
            FramesError: as ``FramesTrajectory``.
        """
        self._archive = zipfile.ZipFile(handle)
        n_all = self._shape("offsets")[0] - 1
        if start < 0 or n_all - start < 1:
            raise FramesError(f"cannot drop {start} of {n_all} frames")
        self.start, self._n_frames, self.n_beads = start, n_all - start, n_beads
        first = next(self._rows("offsets", 2))
        n_atoms = int(first[1] - first[0])
        size = frames_per_block(n_atoms, n_beads)
        self.numbers = next(self._rows("numbers", n_atoms)).astype(np.int16)
        same_size = self._shape("positions")[0] == n_all * n_atoms
        if not same_size or any(
            (part.reshape(-1, n_atoms) != self.numbers).any() for part in self._rows("numbers", n_atoms * size)
        ):
            raise FramesError(DIFFERENT_ATOMS)
        pbc = np.concatenate(list(self._rows("pbc", size)))[start:]
        self.pbc = pbc[0]
        if (pbc != self.pbc).any():
            raise FramesError(DIFFERENT_PERIODICITY)
        check_spacing(np.concatenate(list(self._rows("steps", size)))[start:], n_beads)

    def __len__(self) -> int:
        """Return the number of frames."""
        return self._n_frames

    def blocks(self) -> Iterator[Block]:
        """Yield all frames in order."""
        n_atoms = len(self.numbers)
        size = frames_per_block(n_atoms, self.n_beads)
        at = 0
        for flat, cells in zip(self._rows("positions", size * n_atoms), self._rows("cells", size), strict=True):
            positions = flat.reshape(-1, n_atoms, 3)
            skipped = min(max(self.start - at, 0), len(positions))
            if skipped < len(positions):
                yield Block(at + skipped - self.start, positions[skipped:], cells[skipped:])
            at += len(positions)

    def _shape(self, name: str) -> tuple[int, ...]:
        with self._archive.open(f"{name}.npy") as stream:
            return _read_header(stream)[0]

    def _rows(self, name: str, size: int) -> Iterator[NDArray[Any]]:
        """Yield the rows of an array, ``size`` at a time."""
        with self._archive.open(f"{name}.npy") as stream:
            shape, dtype = _read_header(stream)
            bytes_per_row = math.prod(shape[1:]) * dtype.itemsize
            for first in range(0, shape[0], size):
                count = min(size, shape[0] - first)
                yield np.frombuffer(stream.read(count * bytes_per_row), dtype).reshape(count, *shape[1:])


class Centroids:
    """The centroids of a run with beads: their mean, step by step. A run of classical nuclei is its own."""

    n_beads = 1

    def __init__(self, trajectory: Trajectory) -> None:
        """Take a run whose beads are not wrapped apart, as i-PI writes it."""
        self.trajectory, self.numbers, self.pbc = trajectory, trajectory.numbers, trajectory.pbc

    def __len__(self) -> int:
        """Return the number of steps."""
        return n_steps(self.trajectory)

    def blocks(self) -> Iterator[Block]:
        """Yield the centroids in order."""
        beads = self.trajectory.n_beads
        for block in self.trajectory.blocks():
            positions = block.positions.reshape(-1, beads, *block.positions.shape[1:]).mean(axis=1)
            yield Block(block.start // beads, positions, block.cells[::beads])


def n_steps(trajectory: Trajectory) -> int:
    """Return the number of steps of a run, each of which has one frame a bead."""
    return len(trajectory) // trajectory.n_beads


def frames_per_block(n_atoms: int, n_beads: int = 1) -> int:
    """Return how many frames are held at a time: whole steps."""
    return n_beads * max(1, BLOCK_VALUES // (3 * n_atoms * n_beads))


def check_spacing(steps: IntArray, n_beads: int = 1) -> None:
    """Refuse frames whose steps (n,) are known and not equally spaced, or whose beads are not all there.

    Raises:
        FramesError: with the strides that occur.
    """
    whole = len(steps) % n_beads == 0 and (steps.reshape(-1, n_beads) == steps[::n_beads, None]).all()
    if not whole:
        raise FramesError(f"the frames of a run with {n_beads} beads must come in groups of {n_beads} of one step each")
    steps = steps[::n_beads]
    if (steps < 0).all():
        return
    strides = np.unique(np.diff(steps))
    if len(strides) > 1 or (strides < 1).any():
        raise FramesError(
            f"the frames of a run must be equally spaced, but their steps differ by {strides[:5].tolist()}"
        )


def check_enough(n_frames: int) -> None:
    """Refuse runs of fewer than 10 frames, which have no error.

    Raises:
        FramesError: what to do.
    """
    if n_frames < MIN_SAMPLES:
        raise FramesError(
            f"{n_frames} frames are left after equilibration, but at least {MIN_SAMPLES} are needed: run longer, or "
            "lower the stride"
        )


def atoms_of(trajectory: Trajectory, symbol: str) -> IntArray:
    """Return the indices of the atoms of an element.

    Raises:
        FramesError: there is none; the message lists the elements there are.
    """
    here = [chemical_symbols[z] for z in np.unique(trajectory.numbers)]
    if symbol not in here:
        raise FramesError(f"there is no element {symbol!r} in the trajectory: it holds {here}")
    return np.flatnonzero(trajectory.numbers == atomic_numbers[symbol])


def half_heights(cells: FloatArray) -> FloatArray:
    """Return (m,) half the smallest distance between opposite faces of cells (m, 3, 3).

    Within this radius an atom sees each other atom once, in its image nearest in fractional coordinates: a vector d has
    the fractional coordinate d n / h along each of the axes, with the normal n and the height h, and |d| < h / 2.
    """
    return np.asarray(0.5 / np.linalg.norm(np.linalg.inv(cells), axis=1).max(axis=1))


def check_radius(trajectory: Trajectory, radius: float, what: str, heights: float = MINIMUM_IMAGE) -> None:
    """Refuse a radius that is more than ``heights`` times the height of the cell, in any frame.

    Raises:
        FramesError: no cell, or a cell that is too small; the message names the largest radius.
    """
    if not trajectory.pbc.all():
        raise FramesError(f"{what} needs a cell that is periodic in three directions, but pbc is {trajectory.pbc}")
    lowest = 2 * min(float(half_heights(block.cells).min()) for block in trajectory.blocks())
    if radius > heights * lowest:
        raise FramesError(
            f"{what} up to {radius:g} angstrom needs a cell of {radius / heights:.2f} angstrom between opposite faces, "
            f"but {lowest:.2f} angstrom are the least in this trajectory: ask for at most "
            f"{math.floor(heights * lowest * 1000) / 1000:g} angstrom, or run a larger cell"
        )


def nearest_images(vectors: FloatArray, cells: FloatArray) -> FloatArray:
    """Return vectors (m, ..., 3) in cells (m, 3, 3) moved to the nearest image; right up to ``half_heights``."""
    shape = vectors.shape
    flat = vectors.reshape(shape[0], -1, 3)
    flat = flat - np.rint(flat @ np.linalg.inv(cells)) @ cells
    return np.asarray(flat.reshape(shape))


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype
