"""Batches of frames for labelling jobs, and what comes back from them."""

from __future__ import annotations

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.calculations.cp2k_cells import grid_numbers
from aiida_mlfinetune.calculations.cp2k_checks import settle_for
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.batches import batch_indices
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.merging import labelled_indices, transfer_labels

BATCH, LABELLED, FAILED, RUNG = "batch_", "labelled_", "failed_", "rung_"
NO_OUTPUT = "its job failed without output; see the process"


@calcfunction
def make_batches(
    dataset: DatasetData, frames_per_job: orm.Int, mixed: orm.Bool, level: orm.Dict | None = None
) -> dict[str, DatasetData]:
    """Return views ``batch_<number>``, neighbours alike, of ``frames_per_job`` frames at most.

    Equal frames are in one batch only, once. ``mixed``: frames of several compositions may share a batch. ``level``: a
    settled one of CP2K, by whose reference cells crystals are told apart.
    """
    frames, kinds = dataset.frames, None
    if level is not None:
        kinds = grid_numbers(level.get_dict(), frames)
    batches = batch_indices(frames, frames_per_job.value, mixed=mixed.value, kinds=kinds)
    return {f"{BATCH}{number:04d}": DatasetData.subset(dataset, part) for number, part in enumerate(batches)}


@calcfunction
def settle_cp2k(level: orm.Dict, dataset: DatasetData) -> orm.Dict:
    """Return a CP2K level with the exact-exchange radius, k-points and grids that hold for all of ``dataset``."""
    return orm.Dict(settle_for(level.get_dict(), dataset.frames))


@calcfunction
def retry_batch(batch: DatasetData, failed: orm.Dict) -> DatasetData:
    """Return those frames of a batch that failed for a reason that was not their own.

    If none was finished, the first goes to the end: should it be the one that brings jobs down, the others get labels.
    """
    rest = retried(failed)
    return DatasetData.subset(batch, rest if len(rest) < batch.n_frames else [*rest[1:], rest[0]])


@calcfunction
def climb_ladder(batch: DatasetData, failed: orm.Dict, ladder: orm.List, height: orm.Int) -> dict[str, orm.Data]:
    """Return ``batch``, the frames of a batch that did not converge, and ``rung`` number ``height`` of the ladder."""
    return {"batch": DatasetData.subset(batch, unconverged(failed)), "rung": orm.Dict(ladder[height.value])}


def retried(failed: orm.Dict) -> list[int]:
    """Return the indices in a batch of the frames that another job may label."""
    return sorted(int(index) for index, entry in failed.get_dict().items() if entry["retry"])


def unconverged(failed: orm.Dict) -> list[int]:
    """Return the indices in a batch of the frames that more help to converge may get a label."""
    return sorted(int(index) for index, entry in failed.get_dict().items() if entry.get("climb"))


@calcfunction
def collect_labels(dataset: DatasetData, **pieces: orm.Data) -> dict[str, orm.Data]:
    """Return ``dataset``, the frames that have labels now, in their order, and ``failed``, the others with the reason.

    Inputs are, by the number of a job, its frames ``batch_<number>``, where it has them its outputs
    ``labelled_<number>`` and ``failed_<number>``, and the ``rung_<number>`` of the ladder that it was on. Later numbers
    are later tries, and have the last word. ``failed`` holds, by the index of a frame in ``dataset`` as a string,
    ``content_hash``, ``reason`` and ``rungs``, those that were tried in vain; ``rescued`` holds, likewise,
    ``content_hash`` and ``rung`` of the frames that only a rung of the ladder gave a label. Without any labels there is
    no ``dataset``.
    """
    hashes = dataset.frames.content_hashes()
    donors = [pieces[name] for name in sorted(pieces) if name.startswith(LABELLED)]
    outputs: dict[str, orm.Data] = {}
    good: set[int] = set()
    if donors:
        (key,) = {key for donor in donors for key in donor.levels}
        frames = transfer_labels(dataset.frames, Frames.concatenate([donor.frames for donor in donors]), [key])
        indices = labelled_indices(frames, key, need_forces=True)
        sources = dict.fromkeys(source for donor in donors for source in donor.level_sources[key])
        outputs["dataset"] = DatasetData(frames.select(indices), {**dataset.level_sources, key: list(sources)})
        good = set(indices.tolist())
    reasons: dict[str, str] = {}
    rungs: dict[str, list[str]] = {}
    for name in sorted(name for name in pieces if name.startswith(BATCH)):
        number = name.removeprefix(BATCH)
        told = pieces[FAILED + number].get_dict() if FAILED + number in pieces else {}
        for index, digest in enumerate(pieces[name].frames.content_hashes()):
            reasons[digest] = told.get(str(index), {}).get("reason", NO_OUTPUT)
            if RUNG + number in pieces:
                rungs.setdefault(digest, []).append(pieces[RUNG + number]["name"])
    outputs["failed"] = orm.Dict(
        {
            str(index): {
                "content_hash": digest,
                "reason": reasons[digest],
                "rungs": list(dict.fromkeys(rungs.get(digest, []))),
            }
            for index, digest in enumerate(hashes)
            if index not in good
        }
    )
    outputs["rescued"] = orm.Dict(
        {
            str(index): {"content_hash": digest, "rung": rungs[digest][-1]}
            for index, digest in enumerate(hashes)
            if index in good and digest in rungs
        }
    )
    return outputs
