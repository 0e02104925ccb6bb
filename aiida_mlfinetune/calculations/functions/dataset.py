"""The algebra of datasets, as calcfunctions: every edge of the graph is kept."""

from __future__ import annotations

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.crystals.volumes import frames_in_random_cells
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.merging import drop_levels, transfer_labels
from aiida_mlfinetune.science.datasets.selection import Selection, select_indices
from aiida_mlfinetune.science.datasets.splits import SplitSizes, split_frames

REFERENCE_VOLUME = "reference_volume_A3"


@calcfunction
def subset(dataset: DatasetData, indices: orm.List) -> DatasetData:
    """Return the frames of a dataset at ``indices`` (from 0), in that order, as a view."""
    return DatasetData.subset(dataset, indices.get_list())


@calcfunction
def join(**datasets: DatasetData) -> DatasetData:
    """Join any number of datasets, given as keyword inputs, in the alphabetical order of their names."""
    parts = [datasets[name] for name in sorted(datasets)]
    return DatasetData(Frames.concatenate([part.frames for part in parts]), _level_sources(*parts))


@calcfunction
def split(dataset: DatasetData, parameters: orm.Dict) -> dict[str, DatasetData]:
    """Split a dataset into the views ``train``, ``valid`` and ``test`` (the latter two only where not empty).

    ``parameters`` are those of ``science.splits.SplitSizes``: train, valid, test (all counts or all fractions; without
    ``train`` it gets the rest), seed, min_separation (steps).
    """
    sets = split_frames(dataset.frames, SplitSizes.from_dict(parameters.get_dict()))
    return {name: DatasetData.subset(dataset, indices) for name, indices in sets.items() if len(indices)}


@calcfunction
def select_frames(dataset: DatasetData, selection: orm.Dict) -> DatasetData:
    """Take frames from a trajectory after equilibration, as a view, or at random volumes, as a new dataset.

    ``selection`` holds n_frames, method (``random`` or ``stride``), seed, equilibration (fraction that is left out),
    and optionally volume_range (lowest and highest volume relative to ``reference_volume_A3``, in cubic angstrom) and
    largest_shear: then cells are changed with rigid molecules, and labels are dropped.
    """
    values = selection.get_dict()
    reference_volume = values.pop(REFERENCE_VOLUME, None)
    choice = Selection.from_dict(values)
    indices = select_indices(dataset.n_frames, choice)
    if not choice.changes_cells or choice.seed is None:
        return DatasetData.subset(dataset, indices)
    if choice.volume_range is not None and reference_volume is None:
        raise FramesError(f"a selection with 'volume_range' needs {REFERENCE_VOLUME!r}, the volume it is relative to")
    frames = dataset.frames.select(indices)
    return DatasetData(
        frames_in_random_cells(frames, choice.volume_range, reference_volume, choice.seed, choice.largest_shear)
    )


@calcfunction
def merge_labels(dataset: DatasetData, **labelled: DatasetData) -> DatasetData:
    """Add the levels of other datasets to the frames of ``dataset`` that they share, found by content hash.

    Frames that no other dataset labels stay, with the label missing.
    """
    parts = [labelled[name] for name in sorted(labelled)]
    donors = Frames.concatenate([part.frames for part in parts])
    return DatasetData(transfer_labels(dataset.frames, donors), _level_sources(dataset, *parts))


@calcfunction
def add_level(dataset: DatasetData, labelled: DatasetData, level: orm.Str) -> DatasetData:
    """Add one level of ``labelled`` to the frames of ``dataset`` that it shares, found by content hash."""
    frames = transfer_labels(dataset.frames, labelled.frames, [level.value])
    sources = dict(dataset.level_sources)
    if level.value in labelled.level_sources:
        sources[level.value] = labelled.level_sources[level.value]
    return DatasetData(frames, sources)


@calcfunction
def without_levels(dataset: DatasetData, levels: orm.List) -> DatasetData:
    """Return the frames without the labels at ``levels``."""
    frames = drop_levels(dataset.frames, levels.get_list())
    return DatasetData(
        frames, {key: value for key, value in dataset.level_sources.items() if key in frames.labels_by_level}
    )


@calcfunction
def without_level_of(dataset: DatasetData, level: orm.Dict) -> DatasetData:
    """Drop the labels at the level that a specification (with its ``key``) would make, to be made anew."""
    sources = {key: value for key, value in dataset.level_sources.items() if key != level["key"]}
    return DatasetData(dataset.frames.without_level(level["key"]), sources)


def _level_sources(*datasets: DatasetData) -> dict[str, list[str]]:
    """Return the processes behind each level, in order of first appearance."""
    merged: dict[str, list[str]] = {}
    for dataset in datasets:
        for key, sources in dataset.level_sources.items():
            known = merged.setdefault(key, [])
            known.extend(source for source in sources if source not in known)
    return merged
