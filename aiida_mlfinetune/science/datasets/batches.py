"""Frames sorted into jobs: one composition, order of atoms and periodicity a job, neighbours alike."""

from __future__ import annotations

import numpy as np

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import IntArray
from aiida_mlfinetune.science.datasets.selection import order_by_similarity


def batch_indices(
    frames: Frames, frames_per_job: int, *, mixed: bool = False, kinds: IntArray | None = None
) -> list[IntArray]:
    """Return the indices of the frames of each job, at most ``frames_per_job`` of them and about as many in each.

    Equal frames are computed once: only the first of them is in a batch. ``mixed`` allows several compositions in one
    job; frames of different ``kinds`` (n,) never share one. The largest frames come first, so that jobs that are run
    side by side take about as long as each other.

    Raises:
        FramesError: less than one frame a job.
    """
    if frames_per_job < 1:
        raise FramesError(f"frames_per_job is {frames_per_job}: a job needs at least one frame")
    first: dict[str, int] = {}
    for index, digest in enumerate(frames.content_hashes()):
        first.setdefault(digest, index)
    unique = list(first.values())
    kept = frames.select(unique)
    groups: dict[bytes, list[int]] = {}
    for index in order_by_similarity(kept).tolist():
        key = b"" if mixed else kept.numbers[kept.slice(index)].tobytes() + kept.pbc[index].tobytes()
        if kinds is not None:
            key += bytes(str(kinds[unique[index]]), "ascii")
        groups.setdefault(key, []).append(unique[index])
    largest_first = sorted(groups.values(), key=lambda group: -int(frames.n_atoms[group[0]]))
    return [
        np.asarray(part, dtype=np.int64)
        for group in largest_first
        for part in np.array_split(np.array(group), -(-len(group) // frames_per_job))
    ]
