"""Steps per second of ``mlfinetune.ipi`` against a bare ASE loop with MACE's own calculator.

Same model, crystal (ice XI), precision and number of threads (OMP_NUM_THREADS, 1 by default); each side runs
in a process of its own, in turns. i-PI does more: NPT with a flexible cell and output, while the loop is NVT with
ASE's Langevin and writes nothing. A side's figure is the mean from its second to its last step; the ratio is the
median over the turns, in each of which both sides run under the same load.

``pimd_batch_ratio`` is the same for path integrals: steps per second of 8 beads (NVT, PILE) whose forces come from one
pass of the model, over those of 8 beads with a pass each. Prints one
JSON line last. Usage: ``md_overhead.py [STEPS [TURNS]]``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import mace  # noqa: F401 - first, as it makes torch read the tables of e3nn
import numpy as np
import torch
from _profile import local_code, local_computer, temporary_profile
from aiida import orm
from aiida.engine import run_get_node
from e3nn import o3
from mace import modules
from mace.calculators import MACECalculator

from aiida_mlfinetune.calculations.ipi import IpiCalculation
from aiida_mlfinetune.data.foundations import FOUNDATIONS
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.programs.mace_passport import describe_model
from aiida_mlfinetune.science.crystals.crystals import ice_xi
from aiida_mlfinetune.science.models.passport import Passport

FOUNDATION = "ice-xtb"
TEMPERATURE_K = 100.0
TIMESTEP_FS = 0.5
N_BEADS = 8

ASE_LOOP = """
import sys, time
import ase.io
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from mace.calculators import MACECalculator
import numpy as np, torch
import os
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
crystal, model, steps, temperature, timestep = sys.argv[1:]
atoms = ase.io.read(crystal)
atoms.calc = MACECalculator(model, device="cpu", default_dtype="float64")
rng = np.random.default_rng(1)
MaxwellBoltzmannDistribution(atoms, temperature_K=float(temperature), rng=np.random.RandomState(1))
md = Langevin(atoms, float(timestep) * units.fs, temperature_K=float(temperature), friction=0.01 / units.fs, rng=rng)
md.run(1)
start = time.perf_counter()
md.run(int(steps))
print((time.perf_counter() - start) / int(steps))
"""


def untrained_model(path: Path) -> Path:
    """Write a MACE of the usual size: two layers of 64x0e + 64x1o, 5 A."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        r_max=5.0,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=2,
        num_elements=2,
        hidden_irreps=o3.Irreps("64x0e + 64x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.array([[-13.0, -430.0]]),
        avg_num_neighbors=50.0,
        atomic_numbers=[1, 8],
        correlation=2,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=0.2,
        atomic_inter_shift=0.0,
        heads=["Default"],
    )
    torch.save(model, path)
    return path


def make_model(folder: Path) -> tuple[str, Path, Passport]:
    """Return name, file and passport of the package's foundation, or of an untrained model if there is none."""
    if FOUNDATION in FOUNDATIONS:
        foundation = FOUNDATIONS[FOUNDATION]
        return FOUNDATION, foundation.path, foundation.passport
    path = untrained_model(folder / "untrained.model")
    return "untrained", path, Passport(**describe_model(path))


def run_ipi(
    code: orm.InstalledCode, model: MaceModelData, structure: orm.StructureData, steps: int, **parameters: Any
) -> dict[str, Any]:
    """Return the outputs of a run, checked."""
    outputs, node = run_get_node(
        IpiCalculation,
        code=code,
        model=model,
        structure=structure,
        parameters={
            "ensemble": "npt-flexible",
            "temperature_K": TEMPERATURE_K,
            "timestep_fs": TIMESTEP_FS,
            "n_steps": steps + 1,
            "stride": 10,
            "seed": 1,
            **parameters,
        },
    )
    if not node.is_finished_ok:
        raise SystemExit(f"i-PI failed: {node.exit_message}")
    return outputs


def run_ase(crystal: Path, path: Path, steps: int, threads: int) -> float:
    """Return the seconds per step of the bare loop."""
    command = [
        sys.executable,
        "-c",
        ASE_LOOP,
        str(crystal),
        str(path),
        str(steps),
        str(TEMPERATURE_K),
        str(TIMESTEP_FS),
    ]
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
    )
    return float(result.stdout.split()[-1])


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    turns = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    if steps % 100:
        raise SystemExit("STEPS must be a multiple of 100, after which i-PI reports its timings")
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    with temporary_profile() as folder:
        code = local_code(local_computer(folder), "i-pi", "mlfinetune.ipi", threads)
        name, path, passport = make_model(folder)
        model = MaceModelData(path.read_bytes(), passport).store()
        atoms = ice_xi()
        crystal = folder / "crystal.xyz"
        ase.io.write(crystal, atoms)
        structure = orm.StructureData(ase=atoms).store()
        ours, theirs = [], []
        for turn in range(turns):
            if turn % 2:
                theirs.append(run_ase(crystal, path, steps, threads))
            outputs = run_ipi(code, model, structure, steps)
            ours.append(outputs["output_parameters"]["seconds_per_step"])
            if not turn % 2:
                theirs.append(run_ase(crystal, path, steps, threads))
            print(f"turn {turn + 1}: i-PI {ours[-1] * 1e3:.1f} ms, ASE {theirs[-1] * 1e3:.1f} ms a step", flush=True)
        beads: dict[int, list[float]] = {1: [], N_BEADS: []}
        quantum = {"ensemble": "nvt", "thermostat": "pile-l", "n_beads": N_BEADS, "stride": steps}
        for turn in range(turns):
            for batch in sorted(beads, reverse=bool(turn % 2)):
                path_integral = run_ipi(code, model, structure, steps, batch_size=batch, **quantum)
                beads[batch].append(path_integral["output_parameters"]["seconds_per_step"])
            print(
                f"turn {turn + 1}: {N_BEADS} beads one by one {beads[1][-1] * 1e3:.1f} ms, in one batch "
                f"{beads[N_BEADS][-1] * 1e3:.1f} ms a step",
                flush=True,
            )
        frames = outputs["trajectory"].frames
        key = next(iter(frames.labels_by_level))
        last = frames.atoms(len(frames) - 1)
        last.calc = MACECalculator(path, device="cpu", default_dtype="float64")
        difference = abs(last.get_potential_energy() - frames.labels(key).energy[-1])
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    batch_ratios = [b / a for a, b in zip(beads[N_BEADS], beads[1], strict=True)]
    result = {
        "benchmark": "md_overhead",
        "ratio": round(statistics.median(ratios), 3),
        "ipi_steps_per_second": round(1 / statistics.median(ours), 2),
        "ase_steps_per_second": round(1 / statistics.median(theirs), 2),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "pimd_batch_ratio": round(statistics.median(batch_ratios), 3),
        "pimd_batch_ratios": [round(ratio, 3) for ratio in batch_ratios],
        "pimd_steps_per_second": round(1 / statistics.median(beads[N_BEADS]), 2),
        "n_beads": N_BEADS,
        "energy_difference_eV": float(difference),
        "n_atoms": len(atoms),
        "n_steps": steps,
        "threads": threads,
        "model": name,
        "dtype": "float64",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
