"""N frames through our labelling against N separate jobs of one frame, same CP2K input, at a density functional.

The frames are ice Ic, eight molecules, every 10 fs of a short run at 100 K (as dense as 500 frames from 5 ps, and in
random order); the level is ``revpbe-d3-demo``; each job has one thread, and one job runs at a time. Both sides
go through AiiDA, in this process. Prints one JSON line last. Usage: ``labelling_batch.py [N]``.

- ``speedup``: wall time of N separate jobs over that of the labelling.
- ``overhead_share``: part of the wall time of the labelling that is not CP2K's own, from its start to its end.
- ``scf_steps_per_frame`` and ``scf_steps_per_frame_separate``: SCF steps of a frame on both sides, on average.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from _profile import local_code, local_computer, temporary_profile
from aiida import orm
from aiida.engine import run_get_node
from ase import units
from ase.md.langevin import Langevin
from tblite.ase import TBLite

from aiida_mlfinetune.calculations.cp2k_label import Cp2kLabelCalculation
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.crystals.crystals import ice_ic
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain

LEVEL = "revpbe-d3-demo"
TEMPERATURE_K = 100.0
STEPS_BETWEEN_FRAMES = 20
STEP_FS = 0.5
OPTIONS = {"resources": {"num_machines": 1, "num_mpiprocs_per_machine": 1}, "withmpi": False}


def ice_frames(n: int) -> Frames:
    """Return n frames of ice Ic (8 molecules) from a GFN1-xTB run, in random order."""
    rng = np.random.default_rng(1)
    crystal = ice_ic()
    crystal.calc = TBLite(method="GFN1-xTB", verbosity=0)
    images = []
    md = Langevin(crystal, STEP_FS * units.fs, temperature_K=TEMPERATURE_K, friction=0.02 / units.fs, rng=rng)
    md.run(200)
    md.attach(lambda: images.append(crystal.copy()), interval=STEPS_BETWEEN_FRAMES)
    md.run(STEPS_BETWEEN_FRAMES * n)
    return Frames.from_atoms(images[-n:]).select(rng.permutation(n))


def checked(node: orm.ProcessNode) -> orm.ProcessNode:
    """Return a process that finished, or stop."""
    if not node.is_finished_ok:
        raise SystemExit(f"{node.process_label} failed: {node.exit_message}")
    return node


def main(n: int) -> dict[str, Any]:
    """Measure both sides."""
    frames = ice_frames(n)
    with temporary_profile() as folder:
        code = local_code(local_computer(folder, poll_s=0.5), "cp2k.psmp", "cp2k")
        whole = DatasetData(frames).store()
        builder = LabellingWorkChain.get_builder_from_protocol(
            code, whole, level=LEVEL, protocol="demo", overrides={"frames_per_job": n}, options=OPTIONS
        )
        level = builder.level.store()
        start = time.perf_counter()
        outputs, node = run_get_node(builder)
        seconds = time.perf_counter() - start
        checked(node)
        (job,) = (child for child in node.called if isinstance(child, orm.CalcJobNode))
        parameters = job.outputs.output_parameters.get_dict()

        single, energies, separate_steps = 0.0, [], 0
        for index in range(n):
            one = DatasetData(frames.select([index])).store()
            alone = Cp2kLabelCalculation.get_builder()
            alone.code, alone.dataset, alone.level, alone.metadata.options = code, one, level, OPTIONS
            start = time.perf_counter()
            results, job = run_get_node(alone)
            single += time.perf_counter() - start
            checked(job)
            energies.append(results["dataset"].frames.labels(level["key"]).energy[0])
            separate_steps += sum(job.outputs.output_parameters["scf_steps"])
        difference = outputs["dataset"].frames.labels(level["key"]).energy - np.array(energies)
    return {
        "benchmark": "labelling_batch",
        "n_frames": n,
        "speedup": round(single / seconds, 2),
        "overhead_share": round(1 - parameters["wall_time_s"] / seconds, 4),
        "labelling_s": round(seconds, 1),
        "separate_jobs_s": round(single, 1),
        "cp2k_s": round(parameters["wall_time_s"], 1),
        "scf_steps_per_frame": round(sum(parameters["scf_steps"]) / n, 2),
        "scf_steps_per_frame_separate": round(separate_steps / n, 2),
        "largest_energy_difference_meV": round(float(np.abs(difference).max()) * 1e3, 4),
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)))
