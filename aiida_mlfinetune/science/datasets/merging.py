"""Labels carried from one set of frames to another: equal frames are found by content hash."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import IntArray, Labels


def transfer_labels(frames: Frames, donor: Frames, keys: Sequence[str] | None = None) -> Frames:
    """Return ``frames`` with the labels that ``donor`` has for equal frames.

    A level that ``frames`` has already is filled up where a label is missing; labels that are there are kept.

    Args:
        frames: n frames.
        donor: labelled frames, in any order; the first of equal frames counts.
        keys: levels to carry over, all by default.

    Raises:
        LabelsError: an unknown level, a key that means different levels in the two sets, or no frame in common.
    """
    wanted = sorted(donor.labels_by_level) if keys is None else list(keys)
    places: dict[str, int] = {}
    for index, digest in enumerate(donor.content_hashes()):
        places.setdefault(digest, index)
    pairs = [(i, places[digest]) for i, digest in enumerate(frames.content_hashes()) if digest in places]
    if not pairs:
        raise LabelsError("the labelled frames have no frame in common with those to be labelled (by content hash)")
    for key in wanted:
        theirs = donor.labels(key)
        level = theirs.level
        mine = frames.labels_by_level.get(key)
        if mine is not None:
            if (joined := mine.level.joined(level)) is None:
                raise LabelsError(f"level {key!r} means different things in the two sets: rename one")
            level = joined
        start = Labels.build(level, frames.offsets) if mine is None else mine
        energy, forces, stress = start.energy.copy(), start.forces.copy(), start.stress.copy()
        for i, j in pairs:
            if not start.has_energy[i]:
                energy[i] = theirs.energy[j]
            if not start.has_forces[i]:
                forces[frames.slice(i)] = theirs.forces[donor.slice(j)]
            if not start.has_stress[i]:
                stress[i] = theirs.stress[j]
        base = frames if mine is None else frames.without_level(key)
        frames = base.with_labels(Labels.build(level, frames.offsets, energy, forces, stress))
    return frames


def labelled_indices(frames: Frames, key: str, *, need_forces: bool = False) -> IntArray:
    """Return the indices of the frames with an energy (and forces) at level ``key``."""
    labels = frames.labels(key)
    mask = labels.has_energy & labels.has_forces if need_forces else labels.has_energy
    return np.asarray(np.flatnonzero(mask), dtype=np.int64)


def drop_levels(frames: Frames, keys: Sequence[str]) -> Frames:
    """Return the frames without the labels at ``keys``.

    Raises:
        LabelsError: an unknown level.
    """
    for key in keys:
        frames = frames.without_level(key)
    return frames
