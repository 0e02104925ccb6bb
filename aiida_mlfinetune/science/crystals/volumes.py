"""Molecular crystals in other cells than those a trajectory visited, with molecules kept rigid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.linalg import expm

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.crystals.molecules import Molecules, deform_rigid, perceive_molecules
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray


def frames_in_random_cells(
    frames: Frames,
    volume_range: tuple[float, float] | None,
    reference_volume: float | None,
    seed: int,
    largest_shear: float = 0.0,
) -> Frames:
    """Return every frame at a random volume, and sheared at random.

    Volumes are drawn uniformly from ``volume_range`` times ``reference_volume``, or stay. The cell is then multiplied
    by exp(e), where e is symmetric and traceless, so that the volume stays: its direction is that of a matrix of
    normal random numbers, and its largest eigenvalue, in size, is drawn uniformly from 0 to ``largest_shear``.

    Molecules are perceived in the first frame of each composition, and stay rigid. Steps and sources are kept, labels
    are dropped: the geometry is a new one.

    Args:
        frames: n frames, periodic in three directions.
        volume_range: lowest and highest volume, relative to ``reference_volume``; None to leave volumes as they are.
        reference_volume: cubic angstrom.
        seed: of volumes and shears.
        largest_shear: without unit.

    Raises:
        FramesError: a frame is not periodic in three directions, or the reference volume is not positive.
        MoleculesError: the molecules cannot be perceived.
    """
    if (flat := np.flatnonzero(~frames.pbc.all(axis=1))).size:
        raise FramesError(
            f"frames {flat[:10].tolist()} are not periodic in three directions, so they have no cell to change: leave "
            "'volume_range' and 'largest_shear' out"
        )
    rng, volumes = np.random.default_rng(seed), frames.volumes
    if volume_range is not None:
        if reference_volume is None or not reference_volume > 0:
            raise FramesError(f"the reference volume is {reference_volume} cubic angstrom: give a positive one")
        volumes = rng.uniform(*volume_range, size=len(frames)) * reference_volume
    known: dict[bytes, Molecules] = {}
    deformed = []
    for image, volume in zip(frames, volumes.tolist(), strict=True):
        key = image.numbers.tobytes()
        if key not in known:
            known[key] = perceive_molecules(image)
        stretch = (volume / image.get_volume()) ** (1.0 / 3.0)
        shear = _random_shear(rng, largest_shear) if largest_shear else np.eye(3)
        deformed.append(deform_rigid(image, known[key], stretch * shear))
    return replace(
        Frames.from_atoms(deformed), steps=frames.steps, sources=frames.sources, source_index=frames.source_index
    )


def _random_shear(rng: np.random.Generator, largest: float) -> FloatArray:
    """Return a symmetric matrix (3, 3) of determinant 1."""
    matrix = rng.normal(size=(3, 3))
    strain = (matrix + matrix.T) / 2
    strain -= np.trace(strain) / 3 * np.eye(3)
    return np.asarray(expm(strain * rng.uniform(0.0, largest) / np.abs(np.linalg.eigvalsh(strain)).max()))
