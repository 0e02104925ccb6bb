"""From the results of many VASP runs, one a frame, to a labelled dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.calculations.vasp_input import species_order, vasp_level
from aiida_mlfinetune.common.enums import EnergyKind
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.label_results import FrameFailure, FrameLabel, failures, labelled_dataset
from aiida_mlfinetune.parsers.raw.vasp_misc import misc_complaint, misc_energy, misc_forces, misc_stress
from aiida_mlfinetune.science.datasets.frames import Frames

MISC = "misc_"
NO_RUN = FrameFailure("no VASP run was started for this frame", retry=True)


def misc_name(index: int) -> str:
    """Return under which name ``collect_vasp_labels`` takes the results of a frame."""
    return f"{MISC}{index:06d}"


@calcfunction
def collect_vasp_labels(
    dataset: DatasetData, level: orm.Dict, reasons: orm.Dict, **miscs: orm.Dict
) -> dict[str, orm.Data]:
    """Return ``dataset``, the frames that have labels, and ``failed``, by index ``reason`` and ``retry`` of the others.

    ``miscs`` are the results of the runs that ended well, by ``misc_name`` of their frame; ``reasons`` holds entries
    of ``failed`` for the other runs. Energies are of the kind that the level names, forces in the frame's own order.
    """
    spec, frames, told = level.get_dict(), dataset.frames, reasons.get_dict()
    results: list[FrameLabel | FrameFailure] = []
    for index in range(len(frames)):
        misc = miscs.get(misc_name(index))
        if misc is not None:
            results.append(_result(misc.get_dict(), frames, index, EnergyKind(spec.get("energy", "free"))))
        elif str(index) in told:
            results.append(FrameFailure(**told[str(index)]))
        else:
            results.append(NO_RUN)
    outputs: dict[str, orm.Data] = {"failed": orm.Dict(dict(failures(results)))}
    if miscs:
        versions = dict.fromkeys(str(misc.get_dict().get("version", "")) for _, misc in sorted(miscs.items()))
        one = next(iter(miscs.values()))
        level_of = vasp_level(spec, ", ".join(version for version in versions if version))
        labelled = labelled_dataset(frames, level_of, results, _chain_uuid(one))
        if labelled is not None:
            outputs["dataset"] = labelled
    return outputs


def _result(misc: dict[str, Any], frames: Frames, index: int, kind: EnergyKind) -> FrameLabel | FrameFailure:
    if complaint := misc_complaint(misc):
        return FrameFailure(complaint, retry=False)
    own = frames.slice(index)
    energy, sorted_forces = misc_energy(misc, kind), misc_forces(misc, own.stop - own.start)
    stress = misc_stress(misc) if frames.pbc[index].all() else None
    lacking = [name for name, value in (("energy", energy), ("forces", sorted_forces)) if value is None]
    if frames.pbc[index].all() and stress is None:
        lacking.append("stress")
    if lacking or energy is None or sorted_forces is None:
        return FrameFailure(f"vasprun.xml lacks {' and '.join(lacking)}: it was not written to its end", retry=True)
    forces = np.empty_like(sorted_forces)
    forces[species_order(frames.numbers[own])] = sorted_forces
    return FrameLabel(energy, forces, stress)


def _chain_uuid(misc: orm.Dict) -> str:
    """Return the uuid of the outermost of the processes that ran VASP: all runs of a dataset lie below it."""
    process = misc.creator
    for _ in range(2):
        if process is not None and process.caller is not None:
            process = process.caller
    return process.uuid if process is not None else misc.uuid
