"""Checks on frames before they are computed or stored; each names the frame, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from aiida_mlfinetune.common.errors import FramesError, LabelsError, ModelError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import BoolArray, FloatArray

MIN_DISTANCE_A = 0.5
"""No two atoms, periodic images included, may be closer than this (angstrom)."""
FLAT_CELL = 1e-3
"""A cell is flat if the volume of its periodic vectors is less than this part of the product of their lengths."""
PAIRS_AT_A_TIME = 200_000
"""Pairs of atoms that are looked at together, where many frames are."""
PAIRS_LIMIT = 1000
"""Frames of more atoms than this are searched with a neighbour list instead of all pairs."""


def structure_problem(atoms: Atoms, minimum: float = MIN_DISTANCE_A) -> str | None:
    """Return what makes a structure impossible to compute, or None: the form that port validators return.

    Found are: no atoms, positions that are not finite, periodic directions whose cell vectors span no volume, and
    atoms closer than ``minimum`` angstrom, periodic images included.
    """
    return _problem(check_structure, atoms, minimum)


def check_structure(atoms: Atoms, minimum: float = MIN_DISTANCE_A) -> None:
    """Refuse what ``structure_problem`` finds.

    Raises:
        FramesError: names the atoms, or the cell, and the remedy.
    """
    _check_one(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, minimum)


def frames_problem(frames: Frames, minimum: float = MIN_DISTANCE_A) -> str | None:
    """Return what is wrong with the first frame that cannot be computed, or None."""
    return _problem(check_frames, frames, minimum)


def check_frames(frames: Frames, minimum: float = MIN_DISTANCE_A) -> None:
    """Refuse frames that cannot be computed.

    Raises:
        FramesError: names the frame, the atoms or the cell, and the remedy.
    """
    for index in _suspects(frames, minimum):
        own = frames.slice(index)
        try:
            _check_one(frames.numbers[own], frames.positions[own], frames.cells[index], frames.pbc[index], minimum)
        except FramesError as error:
            raise FramesError(f"frame {index}: {error}") from None


def unknown_elements(elements: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the elements that are not known, in order of first appearance."""
    known_set = set(known)
    return [element for element in dict.fromkeys(elements) if element not in known_set]


def elements_problem(elements: Iterable[str], known: Sequence[str], model: str = "the model") -> str | None:
    """Return which elements ``model`` does not know, or None."""
    if unknown := unknown_elements(elements, known):
        return (
            f"{model} does not know the elements {unknown}: it was trained on {list(known)}; use a foundation that "
            "knows them, or train from scratch"
        )
    return None


def check_elements(elements: Iterable[str], known: Sequence[str], model: str = "the model") -> None:
    """Refuse elements that a model does not know.

    Raises:
        ModelError: names them.
    """
    if (problem := elements_problem(elements, known, model)) is not None:
        raise ModelError(problem)


def shared_frames(first: Frames, second: Frames) -> list[tuple[int, int]]:
    """Return the pairs of indices of frames that stand in both sets, by content hash."""
    places: dict[str, int] = {}
    for index, digest in enumerate(second.content_hashes()):
        places.setdefault(digest, index)
    return [(i, places[digest]) for i, digest in enumerate(first.content_hashes()) if digest in places]


def overlap_problem(first: Frames, second: Frames, names: tuple[str, str] = ("training", "validation")) -> str | None:
    """Return which frames stand in two sets that must be disjoint, or None."""
    shared = shared_frames(first, second)
    if not shared:
        return None
    listed = ", ".join(f"{i} = {j}" for i, j in shared[:5]) + (", ..." if len(shared) > 5 else "")
    return (
        f"{len(shared)} of the {names[1]} frames are {names[0]} frames too ({names[0]} = {names[1]}: {listed}), so "
        f"errors on them say nothing: remove them from one of the sets, or split one dataset instead"
    )


def check_disjoint(first: Frames, second: Frames, names: tuple[str, str] = ("training", "validation")) -> None:
    """Refuse two sets that share frames.

    Raises:
        FramesError: names the frames.
    """
    if (problem := overlap_problem(first, second, names)) is not None:
        raise FramesError(problem)


def unique_indices(frames: Frames) -> list[int]:
    """Return the indices of the first of all equal frames, in ascending order."""
    places: dict[str, int] = {}
    for index, digest in enumerate(frames.content_hashes()):
        places.setdefault(digest, index)
    return list(places.values())


def check_no_duplicates(frames: Frames) -> None:
    """Refuse frames that are equal to others of the same set.

    Raises:
        FramesError: names them.
    """
    places: dict[str, int] = {}
    pairs = []
    for index, digest in enumerate(frames.content_hashes()):
        if places.setdefault(digest, index) != index:
            pairs.append((places[digest], index))
    if pairs:
        raise FramesError(
            f"frames are equal to others of the same dataset, such as {pairs[:5]}: they could stand in the training "
            "and in the validation set; keep one of each (science.checks.unique_indices gives their indices)"
        )


def check_has_forces(frames: Frames, level: str) -> None:
    """Refuse frames of which none has forces at ``level``.

    Raises:
        LabelsError: no forces, or no such level.
    """
    if not frames.labels(level).has_forces.any():
        raise LabelsError(
            f"no frame has forces at level {level!r}, but training needs them: label the frames with forces"
        )


def _problem(check: Callable[..., None], subject: Atoms | Frames, minimum: float) -> str | None:
    try:
        check(subject, minimum)
    except FramesError as error:
        return str(error)
    return None


def _suspects(frames: Frames, minimum: float) -> list[int]:
    """Return the frames, in order, that a look at many frames at once does not clear of all faults."""
    groups: dict[tuple[bytes, int], list[int]] = {}
    for index, size in enumerate(frames.n_atoms.tolist()):
        groups.setdefault((frames.pbc[index].tobytes(), size), []).append(index)
    suspects: list[int] = []
    for (_, n_atoms), members in groups.items():
        pbc = frames.pbc[members[0]]
        if pbc.any() != pbc.all() or not 1 < n_atoms <= PAIRS_LIMIT:
            suspects += members
            continue
        first, second = np.triu_indices(n_atoms, 1)
        count = max(1, PAIRS_AT_A_TIME // len(first))
        for start in range(0, len(members), count):
            part = np.array(members[start : start + count])
            positions = frames.positions[frames.offsets[part][:, None] + np.arange(n_atoms)]
            cells = frames.cells[part]
            clear = np.isfinite(positions).all(axis=(1, 2)) & np.isfinite(cells).all(axis=(1, 2))
            if pbc.all():
                volumes = np.abs(np.linalg.det(np.where(clear[:, None, None], cells, np.eye(3))))
                sizes = np.linalg.norm(cells, axis=2).prod(axis=1)
                clear &= (sizes > 0) & (volumes > 2 * FLAT_CELL * sizes)
                inverse = np.linalg.inv(np.where(clear[:, None, None], cells, np.eye(3)))
                clear &= (1.0 / np.linalg.norm(inverse, axis=1)).min(axis=1) > 2 * minimum
            vectors = positions[:, first] - positions[:, second]
            if pbc.all():
                vectors -= np.round(vectors @ inverse) @ np.where(clear[:, None, None], cells, np.eye(3))
            nearest = np.einsum("mpk,mpk->mp", vectors, vectors).min(axis=1)
            suspects += part[~(clear & (nearest >= minimum**2 * (1 + 1e-9)))].tolist()
    return sorted(suspects)


def _check_one(numbers: NDArray[Any], positions: FloatArray, cell: FloatArray, pbc: BoolArray, minimum: float) -> None:
    if len(positions) == 0:
        raise FramesError("there are no atoms")
    if not np.isfinite(positions).all():
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        raise FramesError(f"the positions of atoms {bad[:10].tolist()} are not finite numbers")
    if not np.isfinite(cell).all() or (pbc.any() and _is_flat(cell[pbc])):
        raise FramesError(
            f"the cell has no volume: it is periodic along {['abc'[k] for k in np.flatnonzero(pbc)]}, but its vectors "
            f"are {cell.tolist()} angstrom; give independent vectors, or set pbc to False for a molecule"
        )
    pair = _closest_pair(numbers, positions, cell, pbc, minimum)
    if pair is not None:
        i, j, distance = pair
        raise FramesError(
            f"atoms {i} ({chemical_symbols[numbers[i]]}) and {j} ({chemical_symbols[numbers[j]]}) are {distance:.3f} "
            f"angstrom apart, closer than {minimum} angstrom: remove duplicated atoms (such as copies on both faces of "
            "the cell), or correct the cell"
        )


def _is_flat(vectors: FloatArray) -> bool:
    lengths = np.linalg.norm(vectors, axis=1)
    volume = np.sqrt(max(0.0, float(np.linalg.det(vectors @ vectors.T))))
    return bool(lengths.min() == 0 or volume < FLAT_CELL * float(np.prod(lengths)))


def _closest_pair(
    numbers: NDArray[Any], positions: FloatArray, cell: FloatArray, pbc: BoolArray, minimum: float
) -> tuple[int, int, float] | None:
    """Return the closest pair (i, j, distance) below ``minimum``, the images of an atom itself included."""
    vectors = np.where(pbc[:, None], cell, 0.0)
    if not pbc.all():
        vectors[~pbc] = np.linalg.svd(vectors)[2][int(pbc.sum()) :]  # any vectors that complete the basis
    inverse = np.linalg.inv(vectors)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)
    if len(positions) > PAIRS_LIMIT or (pbc.any() and heights[pbc].min() <= 2 * minimum):
        first, second, lengths = neighbor_list("ijd", Atoms(numbers, positions, cell=cell, pbc=pbc), minimum)
        if not len(lengths):
            return None
        best = int(np.argmin(lengths))
        i, j = sorted((int(first[best]), int(second[best])))
        return i, j, float(lengths[best])
    # Every periodic height exceeds twice the distance sought, so rounding finds each image that counts.
    difference = positions[:, None, :] - positions[None, :, :]
    if pbc.any():
        difference = difference - np.where(pbc, np.round(difference @ inverse), 0.0) @ vectors
    squares = np.einsum("ijk,ijk->ij", difference, difference)
    np.fill_diagonal(squares, np.inf)
    row, column = divmod(int(np.argmin(squares)), len(positions))
    distance = float(np.sqrt(squares[row, column]))
    return (row, column, distance) if distance < minimum else None
