"""Any number of atomic configurations as flat arrays with offsets, and their labels at any number of levels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_masses, chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import ArrayLike, NDArray

from aiida_mlfinetune.common.errors import FramesError, LabelsError
from aiida_mlfinetune.science.datasets.levels import FloatArray, IntArray, Labels, Level

GEOMETRY_ARRAYS = ("numbers", "positions", "offsets", "cells", "pbc")


@dataclass(frozen=True)
class Frames:
    """Frames as flat arrays.

    Attributes:
        numbers: (N,) atomic numbers of all atoms of all frames.
        positions: (N, 3) angstrom.
        offsets: (n + 1,) frame i owns the atoms ``offsets[i]:offsets[i + 1]``.
        cells: (n, 3, 3) angstrom, rows are lattice vectors; zeros without a cell.
        pbc: (n, 3) periodic directions.
        steps: (n,) step of the run that a frame was taken from, -1 if unknown.
        source_index: (n,) index into ``sources``.
        sources: uuids (or free names) of the processes that made the frames.
        labels_by_level: labels by level key.
    """

    numbers: NDArray[np.int16]
    positions: FloatArray
    offsets: IntArray
    cells: FloatArray
    pbc: NDArray[np.bool_]
    steps: IntArray
    source_index: IntArray
    sources: tuple[str, ...] = ("",)
    labels_by_level: Mapping[str, Labels] = field(default_factory=dict)

    # construction -----------------------------------------------------------------------------------------------

    @classmethod
    def from_atoms(cls, frames: Iterable[Atoms], source: str = "", steps: Sequence[int] | None = None) -> Frames:
        """Make frames from ASE atoms; calculators and ``info`` are not read (see ``science.extxyz``)."""
        images = list(frames)
        n = len(images)
        offsets = np.concatenate([[0], np.cumsum([len(image) for image in images])]).astype(np.int64)
        return cls(
            numbers=np.concatenate([image.numbers for image in images] or [np.zeros(0)]).astype(np.int16),
            positions=np.concatenate([image.positions for image in images] or [np.zeros((0, 3))]).astype(np.float64),
            offsets=offsets,
            cells=np.array([image.cell.array for image in images], dtype=np.float64).reshape(n, 3, 3),
            pbc=np.array([image.pbc for image in images], dtype=bool).reshape(n, 3),
            steps=np.full(n, -1, dtype=np.int64) if steps is None else np.asarray(steps, dtype=np.int64),
            source_index=np.zeros(n, dtype=np.int64),
            sources=(source,),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Frames]) -> Frames:
        """Join sets of frames; a level that a part lacks is missing for the frames of that part.

        Raises:
            LabelsError: two parts hold different levels under one key.
        """
        if not parts:
            raise FramesError("nothing to concatenate: give at least one set of frames")
        sources = tuple(dict.fromkeys(source for part in parts for source in part.sources))
        lookup = {source: index for index, source in enumerate(sources)}
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.n_atoms for part in parts]))]).astype(np.int64)
        levels: dict[str, Level] = {}
        for part in parts:
            for key, labels in part.labels_by_level.items():
                level = levels.get(key, labels.level).joined(labels.level)
                if level is None:
                    raise LabelsError(f"level {key!r} means different things in the sets to be joined: rename one")
                levels[key] = level
        joined = cls(
            numbers=np.concatenate([part.numbers for part in parts]),
            positions=np.concatenate([part.positions for part in parts]),
            offsets=offsets,
            cells=np.concatenate([part.cells for part in parts]),
            pbc=np.concatenate([part.pbc for part in parts]),
            steps=np.concatenate([part.steps for part in parts]),
            source_index=np.concatenate(
                [np.array([lookup[s] for s in part.sources], dtype=np.int64)[part.source_index] for part in parts]
            ),
            sources=sources,
        )
        for key, level in levels.items():
            pieces = [
                part.labels_by_level[key] if key in part.labels_by_level else Labels.build(level, part.offsets)
                for part in parts
            ]
            joined = joined.with_labels(
                Labels.build(
                    level,
                    offsets,
                    np.concatenate([piece.energy for piece in pieces]),
                    np.concatenate([piece.forces for piece in pieces]),
                    np.concatenate([piece.stress for piece in pieces]),
                )
            )
        return joined

    def with_labels(self, labels: Labels) -> Frames:
        """Return the frames with one more level.

        Raises:
            LabelsError: the level is there already, or its arrays do not fit the frames.
        """
        if labels.level.key in self.labels_by_level:
            raise LabelsError(f"level {labels.level.key!r} is there already: drop it first, or use another key")
        if len(labels.energy) != len(self) or len(labels.forces) != len(self.numbers):
            raise LabelsError(f"labels of level {labels.level.key!r} do not fit the frames they are given for")
        return replace(self, labels_by_level={**self.labels_by_level, labels.level.key: labels})

    def without_level(self, key: str) -> Frames:
        """Return the frames without the level ``key``."""
        self.labels(key)
        return replace(self, labels_by_level={k: v for k, v in self.labels_by_level.items() if k != key})

    def with_source(self, source: str) -> Frames:
        """Return the frames as all made by the process ``source``."""
        return replace(self, sources=(source,), source_index=np.zeros(len(self), dtype=np.int64))

    def select(self, indices: ArrayLike) -> Frames:
        """Return the frames at ``indices``, in that order, with all their labels.

        Raises:
            FramesError: an index is out of range.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise FramesError(f"frame indices must lie in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        sizes = self.n_atoms[chosen]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        atoms = np.repeat(self.offsets[:-1][chosen] - offsets[:-1], sizes) + np.arange(int(offsets[-1]))
        used, source_index = _first_seen(self.source_index[chosen])
        return Frames(
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            offsets=offsets,
            cells=self.cells[chosen],
            pbc=self.pbc[chosen],
            steps=self.steps[chosen],
            source_index=source_index,
            sources=tuple(self.sources[index] for index in used) or ("",),
            labels_by_level={
                key: Labels(
                    labels.level,
                    labels.energy[chosen],
                    labels.forces[atoms],
                    labels.stress[chosen],
                    labels.has_energy[chosen],
                    labels.has_forces[chosen],
                    labels.has_stress[chosen],
                )
                for key, labels in self.labels_by_level.items()
            },
        )

    # reading ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.offsets) - 1

    def slice(self, index: int) -> slice:
        """Return the atoms of frame ``index`` as a slice into the per-atom arrays."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def labels(self, key: str) -> Labels:
        """Return the labels at level ``key``.

        Raises:
            LabelsError: no such level; the message lists those there are.
        """
        try:
            return self.labels_by_level[key]
        except KeyError:
            raise LabelsError(
                f"no labels at level {key!r}: the frames hold {sorted(self.labels_by_level) or 'no level at all'}"
            ) from None

    def atoms(self, index: int, level: str | None = None) -> Atoms:
        """Return frame ``index`` as ASE atoms, with the labels of ``level`` as its calculator's results."""
        own = self.slice(index)
        image = Atoms(
            numbers=self.numbers[own].astype(int),
            positions=self.positions[own],
            cell=self.cells[index],
            pbc=self.pbc[index],
        )
        if level is not None:
            labels = self.labels(level)
            results: dict[str, Any] = {}
            if labels.has_energy[index]:
                results["energy"] = results["free_energy"] = float(labels.energy[index])
            if labels.has_forces[index]:
                results["forces"] = labels.forces[own]
            if labels.has_stress[index]:
                results["stress"] = full_3x3_to_voigt_6_stress(labels.stress[index])
            image.calc = SinglePointCalculator(image, **results)
        return image

    def to_atoms(self, level: str | None = None) -> list[Atoms]:
        """Return all frames as ASE atoms."""
        return [self.atoms(index, level) for index in range(len(self))]

    def __iter__(self) -> Iterator[Atoms]:
        """Iterate over the frames as ASE atoms without labels."""
        return (self.atoms(index) for index in range(len(self)))

    @property
    def n_atoms(self) -> IntArray:
        """(n,) number of atoms of each frame."""
        return np.diff(self.offsets)

    @property
    def elements(self) -> list[str]:
        """Chemical symbols that occur, sorted by atomic number."""
        return [chemical_symbols[z] for z in np.unique(self.numbers)]

    @property
    def formulas(self) -> list[str]:
        """Formula (Hill order) of each frame."""
        cache: dict[bytes, str] = {}
        names = []
        for index in range(len(self)):
            own = np.sort(self.numbers[self.slice(index)])
            key = own.tobytes()
            if key not in cache:
                cache[key] = Atoms(numbers=own.astype(int)).get_chemical_formula()
            names.append(cache[key])
        return names

    @property
    def volumes(self) -> FloatArray:
        """(n,) volume of each cell in cubic angstrom, NaN where a frame is not periodic in three directions."""
        volumes: FloatArray = np.abs(np.linalg.det(self.cells))
        return np.where(self.pbc.all(axis=1), volumes, np.nan)

    @property
    def masses(self) -> FloatArray:
        """(n,) total mass of each frame in atomic mass units."""
        per_atom = atomic_masses[self.numbers]
        cumulative = np.concatenate([[0.0], np.cumsum(per_atom)])
        return np.asarray(cumulative[self.offsets[1:]] - cumulative[self.offsets[:-1]])

    # identity ---------------------------------------------------------------------------------------------------

    def content_hashes(self) -> list[str]:
        """Return a hash of species, positions, cell and periodicity of each frame (not of its labels)."""
        numbers, positions, cells, pbc = (
            memoryview(_canonical_bytes(array)) for array in (self.numbers, self.positions, self.cells, self.pbc)
        )
        atom, frame = (2, 24), (72, 3)  # bytes of number and position, and of cell and periodicity
        hashes = []
        bounds = self.offsets.tolist()
        for index in range(len(self)):
            start, end = bounds[index], bounds[index + 1]
            digest = hashlib.sha256(numbers[atom[0] * start : atom[0] * end])
            digest.update(positions[atom[1] * start : atom[1] * end])
            digest.update(cells[frame[0] * index : frame[0] * (index + 1)])
            digest.update(pbc[frame[1] * index : frame[1] * (index + 1)])
            hashes.append(digest.hexdigest()[:32])
        return hashes

    def content_hash(self) -> str:
        """Return a hash of the whole set: frames in order, steps, levels and labels, but not the sources' names."""
        digest = hashlib.sha256()
        for name, array in self.to_arrays().items():
            digest.update(name.encode())
            digest.update(_canonical_bytes(array))
        for key in sorted(self.labels_by_level):
            digest.update(json.dumps(self.labels_by_level[key].level.to_dict(), sort_keys=True).encode())
        return digest.hexdigest()

    # flat layout ------------------------------------------------------------------------------------------------

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything but sources and level metadata as named arrays, levels numbered in order of their keys."""
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in GEOMETRY_ARRAYS}
        arrays["steps"], arrays["source_index"] = self.steps, self.source_index
        for number, key in enumerate(sorted(self.labels_by_level)):
            labels = self.labels_by_level[key]
            if labels.has_energy.any():
                arrays[f"level{number}_energy"] = labels.energy
            if labels.has_forces.any():
                arrays[f"level{number}_forces"] = labels.forces
            if labels.has_stress.any():
                arrays[f"level{number}_stress"] = labels.stress
        return arrays

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], levels: Sequence[Level] = (), sources: Sequence[str] = ("",)
    ) -> Frames:
        """Build frames from what ``to_arrays`` returned and the level metadata sorted by key."""
        n = len(arrays["offsets"]) - 1
        frames = cls(
            numbers=np.asarray(arrays["numbers"], dtype=np.int16),
            positions=np.asarray(arrays["positions"], dtype=np.float64),
            offsets=np.asarray(arrays["offsets"], dtype=np.int64),
            cells=np.asarray(arrays["cells"], dtype=np.float64),
            pbc=np.asarray(arrays["pbc"], dtype=bool),
            steps=np.asarray(arrays.get("steps", np.full(n, -1)), dtype=np.int64),
            source_index=np.asarray(arrays.get("source_index", np.zeros(n)), dtype=np.int64),
            sources=tuple(sources) or ("",),
        )
        for number, level in enumerate(levels):
            prefix = f"level{number}_"
            frames = frames.with_labels(
                Labels.build(
                    level,
                    frames.offsets,
                    arrays.get(f"{prefix}energy"),
                    arrays.get(f"{prefix}forces"),
                    arrays.get(f"{prefix}stress"),
                )
            )
        return frames


def _first_seen(values: IntArray) -> tuple[IntArray, IntArray]:
    """Return the distinct values in order of first appearance, and the place of each value among them."""
    distinct, first, places = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    return distinct[order], np.asarray(ranks[places.reshape(-1)], dtype=np.int64)


def _canonical_bytes(array: NDArray[Any]) -> bytes:
    """Return bytes that are equal for equal values: contiguous, little endian, and without negative zeros."""
    values = np.ascontiguousarray(array)
    if values.dtype.kind == "f":
        values = values + 0.0
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def write_geometry(path: Path, frames: Frames) -> None:
    """Write species, positions, cells and periodicity for a job to read (``numpy.load``, no pickle)."""
    with path.open("wb") as handle:
        np.savez(handle, **{name: getattr(frames, name) for name in GEOMETRY_ARRAYS})


def read_labels(path: Path, level: Level, frames: Frames) -> Labels:
    """Read the arrays ``energy``, ``forces`` and ``stress`` that a job wrote for ``frames``."""
    with np.load(path, allow_pickle=False) as arrays:
        return Labels.build(level, frames.offsets, arrays["energy"], arrays["forces"], arrays["stress"])
