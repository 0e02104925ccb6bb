"""Batches of frames for labelling jobs, and what comes back from them."""

from __future__ import annotations

import itertools

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.frames import Frames
from aiida_mlfinetune.science.merging import labelled_indices, transfer_labels
from aiida_mlfinetune.science.selection import order_by_similarity

BATCH, LABELLED, FAILED = "batch_", "labelled_", "failed_"
NO_OUTPUT = "its job failed without output; see the process"


@calcfunction
def make_batches(dataset: DatasetData, frames_per_job: orm.Int) -> dict[str, DatasetData]:
    """Return views ``batch_<number>`` of frames of one composition, neighbours alike, ``frames_per_job`` at most."""
    frames = dataset.frames
    order = order_by_similarity(frames)
    kinds = [frames.numbers[frames.slice(i)].tobytes() + frames.pbc[i].tobytes() for i in order]
    starts = [0, *(k for k in range(1, len(order)) if kinds[k] != kinds[k - 1]), len(order)]
    groups = [order[a:b] for a, b in itertools.pairwise(starts)]
    parts = [part for group in groups for part in np.array_split(group, -(-len(group) // frames_per_job.value))]
    return {f"{BATCH}{number:04d}": DatasetData.subset(dataset, part) for number, part in enumerate(parts)}


@calcfunction
def retry_batch(batch: DatasetData, failed: orm.Dict) -> DatasetData:
    """Return those frames of a batch that failed for a reason that was not their own."""
    return DatasetData.subset(batch, retried(failed))


def retried(failed: orm.Dict) -> list[int]:
    """Return the indices in a batch of the frames that another job may label."""
    return sorted(int(index) for index, entry in failed.get_dict().items() if entry["retry"])


@calcfunction
def collect_labels(dataset: DatasetData, **pieces: orm.Data) -> dict[str, orm.Data]:
    """Return ``dataset``, the frames that have labels now, in their order, and ``failed``, the others with the reason.

    Inputs are, by the number of a job, its frames ``batch_<number>``, and where it has them its outputs
    ``labelled_<number>`` and ``failed_<number>``. Later numbers are later tries. ``failed`` holds, by the index of a
    frame in ``dataset`` as a string, ``content_hash`` and ``reason``.

    Raises:
        LabelsError: no job labelled any frame.
    """
    donors = [pieces[name] for name in sorted(pieces) if name.startswith(LABELLED)]
    if not donors:
        raise LabelsError("no frame was labelled")
    frames = transfer_labels(dataset.frames, Frames.concatenate([donor.frames for donor in donors]))
    (key,) = {key for donor in donors for key in donor.levels}
    good = labelled_indices(frames, key, need_forces=True)
    reasons: dict[str, str] = {}
    for name in sorted(name for name in pieces if name.startswith(BATCH)):
        number = name.removeprefix(BATCH)
        told = pieces[FAILED + number].get_dict() if FAILED + number in pieces else {}
        for index, digest in enumerate(pieces[name].frames.content_hashes()):
            reasons[digest] = told.get(str(index), {}).get("reason", NO_OUTPUT)
    hashes = dataset.frames.content_hashes()
    bad = sorted(set(range(len(frames))) - set(good.tolist()))
    sources = {**dataset.level_sources, key: [source for donor in donors for source in donor.level_sources[key]]}
    return {
        "dataset": DatasetData(frames.select(good), sources),
        "failed": orm.Dict({str(i): {"content_hash": hashes[i], "reason": reasons[hashes[i]]} for i in bad}),
    }
