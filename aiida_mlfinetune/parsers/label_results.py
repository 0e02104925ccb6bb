"""What the parsers of all labelling jobs share: from per-frame results to a dataset and a list of failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray, Labels, Level


@dataclass(frozen=True)
class FrameLabel:
    """Energy (eV), forces (n, 3) (eV/angstrom) and, where there is one, stress (3, 3) (eV/angstrom^3) of a frame."""

    energy: float
    forces: FloatArray
    stress: FloatArray | None

    @property
    def finite(self) -> bool:
        """Whether all of its numbers are numbers."""
        arrays = [np.array(self.energy), self.forces, *([] if self.stress is None else [self.stress])]
        return all(bool(np.isfinite(array).all()) for array in arrays)


@dataclass(frozen=True)
class FrameFailure:
    """Why a frame has no label.

    Attributes:
        reason: in words.
        retry: whether another job may succeed as it is (it was not the frame's fault).
        climb: whether the engine's ladder for frames that do not converge may help.
    """

    reason: str
    retry: bool
    climb: bool = False


NOT_REACHED = FrameFailure("the job ended before this frame was finished", retry=True)


def labelled_dataset(
    frames: Frames, level: Level, results: Sequence[FrameLabel | FrameFailure], source: str
) -> DatasetData | None:
    """Return the frames that succeeded, with the labels of ``level`` only, or None if there is none.

    Frames keep their sources and steps; ``source`` is the uuid of the process that made the labels.
    """
    good = [index for index, result in enumerate(results) if isinstance(result, FrameLabel)]
    labels = [result for result in results if isinstance(result, FrameLabel)]
    if not good:
        return None
    chosen = frames.select(good)
    for key in list(chosen.labels_by_level):
        chosen = chosen.without_level(key)
    missing = np.full((3, 3), np.nan)
    built = Labels.build(
        level,
        chosen.offsets,
        np.array([label.energy for label in labels]),
        np.concatenate([label.forces for label in labels]),
        np.array([missing if label.stress is None else label.stress for label in labels]),
    )
    return DatasetData(chosen.with_labels(built), level_sources={level.key: [source]})


def failures(results: Sequence[FrameLabel | FrameFailure]) -> Mapping[str, Mapping[str, str | bool]]:
    """Return ``reason`` and ``retry`` of each frame that failed, by its index as a string (a key of JSON).

    ``climb`` is there, and true, for a frame that did not converge.
    """
    return {
        str(index): {"reason": result.reason, "retry": result.retry, **({"climb": True} if result.climb else {})}
        for index, result in enumerate(results)
        if isinstance(result, FrameFailure)
    }
