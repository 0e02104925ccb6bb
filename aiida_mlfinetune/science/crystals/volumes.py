"""Molecular crystals at other volumes than those a trajectory visited, with molecules kept rigid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.crystals.molecules import Molecules, perceive_molecules, scale_rigid
from aiida_mlfinetune.science.datasets.frames import Frames


def frames_at_random_volumes(
    frames: Frames, volume_range: tuple[float, float], reference_volume: float, seed: int
) -> Frames:
    """Return every frame scaled to a volume drawn uniformly from ``volume_range`` times ``reference_volume``.

    Molecules are perceived in the first frame of each composition, and stay rigid. Steps and sources are kept, labels
    are dropped: the geometry is a new one.

    Args:
        frames: n frames, periodic in three directions.
        volume_range: lowest and highest volume, relative to ``reference_volume``.
        reference_volume: cubic angstrom.
        seed: of the volumes.

    Raises:
        FramesError: a frame is not periodic in three directions, or the reference volume is not positive.
        MoleculesError: the molecules cannot be perceived.
    """
    if (flat := np.flatnonzero(~frames.pbc.all(axis=1))).size:
        raise FramesError(
            f"frames {flat[:10].tolist()} are not periodic in three directions, so they have no volume to change: "
            "leave 'volume_range' out"
        )
    if not reference_volume > 0:
        raise FramesError(f"the reference volume is {reference_volume} cubic angstrom: give a positive one")
    volumes = np.random.default_rng(seed).uniform(*volume_range, size=len(frames)) * reference_volume
    known: dict[bytes, Molecules] = {}
    scaled = []
    for image, volume in zip(frames, volumes.tolist(), strict=True):
        key = image.numbers.tobytes()
        if key not in known:
            known[key] = perceive_molecules(image)
        scaled.append(scale_rigid(image, known[key], volume))
    return replace(
        Frames.from_atoms(scaled), steps=frames.steps, sources=frames.sources, source_index=frames.source_index
    )
