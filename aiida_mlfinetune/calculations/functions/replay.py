"""Replay sets: which frames of a foundation's data are shown again, as calcfunctions.

``settings`` are those of ``science.replay.ReplaySettings``.
"""

from __future__ import annotations

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.training import replay as science

CANDIDATES, OTHERS = "candidates", "others"


@calcfunction
def replay_candidates(dataset: DatasetData, elements: orm.List, settings: orm.Dict) -> dict[str, DatasetData]:
    """Return, as views, the frames that match the ``elements`` of the new data, and the ``others``; each if any.

    Frames without labels at the level of the settings are in neither.
    """
    values, frames = science.ReplaySettings.from_dict(settings.get_dict()), dataset.frames
    matching = science.matching_frames(frames, elements.get_list(), values.elements, values.level)
    usable = science.matching_frames(frames, elements.get_list(), science.ElementRule.NONE, values.level)
    sets = {CANDIDATES: np.flatnonzero(matching), OTHERS: np.flatnonzero(usable & ~matching)}
    if not any(len(indices) for indices in sets.values()):
        raise FramesError(f"no frame has an energy at the level {values.level!r}")
    return {name: DatasetData.subset(dataset, indices) for name, indices in sets.items() if len(indices)}


@calcfunction
def fill_replay(settings: orm.Dict, **sets: DatasetData) -> dict[str, orm.Data]:
    """Return ``dataset``, all ``candidates`` and as many random ``others`` as are missing, and ``selection``."""
    values = science.ReplaySettings.from_dict(settings.get_dict())
    candidates, others = sets.get(CANDIDATES), sets.get(OTHERS)
    n_candidates = 0 if candidates is None else candidates.n_frames
    drawn = science.random_fill(n_candidates, 0 if others is None else others.n_frames, values.n_frames, values.seed)
    parts = [] if candidates is None else [candidates.indices]
    if others is not None and len(drawn):
        parts.append(others.indices[drawn])
    root = next(part for part in (candidates, others) if part is not None).parent
    return {
        "dataset": DatasetData.subset(root, np.concatenate(parts)),
        "selection": orm.Dict({"n_candidates": n_candidates, "n_random": len(drawn), "farthest_points": False}),
    }


@calcfunction
def farthest_replay(candidates: DatasetData, descriptors: orm.ArrayData, settings: orm.Dict) -> dict[str, orm.Data]:
    """Return ``dataset``, a view of the frames that farthest-point sampling takes of ``candidates``, and ``selection``.

    ``selection`` holds ``n_candidates`` and, in the unit-free measure of the descriptors, ``radius``: no candidate is
    farther from the chosen frames.
    """
    values = science.ReplaySettings.from_dict(settings.get_dict())
    found = science.FrameDescriptors(*(descriptors.get_array(name) for name in ("frame", "number", "mean")))
    found.check(candidates.frames)
    chosen, distances = science.farthest_points(found, values.n_frames, values.seed)
    selection = {
        "n_candidates": candidates.n_frames,
        "n_random": 0,
        "farthest_points": True,
        "radius": float(distances[-1]),
    }
    return {"dataset": DatasetData.subset(candidates, chosen), "selection": orm.Dict(selection)}
