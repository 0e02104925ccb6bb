"""Wall time of ``mlfinetune.mace_train`` in AiiDA's engine, against a bare ``mace_run_train`` with the same input.

Trains a small model from scratch on frames that ship with the package: first as a job, then bare with the files of that
job, alternately. The shortest of each is compared, as other work on the machine only ever adds time. Of the overhead it
is told what is spent around the program (``engine_s``: files, scheduler, parsing) and what within it beyond the bare
training (``program_s``: restart files, passport, predictions of validation and test frames; less than nothing where
it does without something that MACE does). Prints one JSON line last; required is an overhead of at most 5 s and 2 %.

Usage: ``training_overhead.py [EPOCHS [REPEATS]]``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _profile import local_code, local_computer, temporary_profile
from aiida import orm
from aiida.engine import run_get_node

import aiida_mlfinetune
from aiida_mlfinetune.calculations.mace_train import MaceTrainCalculation
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Level

LEVEL = Level("gfn1-xtb/cp2k", engine="cp2k", method="GFN1-xTB")
SIZES = {"train": 40, "valid": 10, "test": 10}
ALLOWED_S, ALLOWED_PART = 5.0, 0.02
PARAMETERS = {
    "mode": "scratch",
    "seed": 1,
    "num_channels": 32,
    "max_L": 0,
    "max_ell": 2,
    "correlation": 2,
    "num_interactions": 2,
    "r_max": 4.5,
    "num_radial_basis": 8,
    "radial_MLP": "[32, 32]",
    "loss": "stress",
    "energy_weight": 1000.0,
    "forces_weight": 100.0,
    "stress_weight": 1000.0,
    "batch_size": 4,
    "valid_batch_size": 10,
    "lr": 0.01,
    "ema": True,
    "ema_decay": 0.99,
}


def frames() -> dict[str, Frames]:
    """Return crystal frames of the set that ``ice-xtb`` was trained on, with their labels."""
    with np.load(Path(aiida_mlfinetune.__file__).parent / "foundations" / "ice-xtb.npz") as arrays:
        known = Frames.from_arrays(dict(arrays), [LEVEL])
    crystals = np.flatnonzero(known.pbc.all(axis=1) & (known.n_atoms <= 48))
    order = np.random.default_rng(0).permutation(crystals)
    ends = np.cumsum(list(SIZES.values()))
    return {name: known.select(part) for name, part in zip(SIZES, np.split(order[: ends[-1]], ends[:-1]), strict=True)}


def as_job(code: orm.AbstractCode, sets: dict[str, DatasetData], parameters: dict[str, Any]) -> tuple[float, Any]:
    """Return the wall time in s of a training by AiiDA, and its node."""
    builder = MaceTrainCalculation.get_builder()
    builder.code = code
    for name, dataset in sets.items():
        builder[name] = dataset
    builder.level = orm.Str(LEVEL.key)
    builder.parameters = orm.Dict(parameters)
    start = time.perf_counter()
    _, node = run_get_node(builder)
    seconds = time.perf_counter() - start
    if not node.is_finished_ok:
        raise SystemExit(f"the training failed: {node.exit_message}")
    return seconds, node


def bare(job: Path, folder: Path) -> float:
    """Return the wall time in s of ``mace_run_train`` with the input files of a job."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for pattern in ("mace.yaml", "*.xyz"):
        for path in job.glob(pattern):
            shutil.copyfile(path, folder / path.name)
    program = Path(sys.executable).with_name("mace_run_train")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        [program, "--config", "mace.yaml"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"mace_run_train failed: {done.stderr[-2000:]}")
    return seconds


def main(epochs: int, repeats: int) -> dict[str, Any]:
    """Train by both ways, and compare."""
    runs: dict[str, list[float]] = {"total": [], "bare": [], "program": []}
    with temporary_profile() as folder:
        code = local_code(local_computer(folder, poll_s=1.0), Path(sys.executable).name, "mlfinetune.mace_train")
        sets = {name: DatasetData(each).store() for name, each in frames().items()}
        for number in range(repeats):
            seconds, node = as_job(code, sets, {**PARAMETERS, "max_num_epochs": epochs})
            status = json.loads(node.outputs.retrieved.base.repository.get_object_content("status.json"))
            runs["total"].append(seconds)
            runs["program"].append(status["wall_s"])
            runs["bare"].append(bare(Path(node.outputs.remote_folder.get_remote_path()), folder / "bare"))
            print(f"round {number}: " + ", ".join(f"{name} {values[-1]:.2f} s" for name, values in runs.items()))
    total, alone, program = (min(runs[name]) for name in ("total", "bare", "program"))
    allowed = ALLOWED_S + ALLOWED_PART * alone
    return {
        "benchmark": "training_overhead",
        "overhead_s": round(total - alone, 2),
        "bare_s": round(alone, 2),
        "allowed_s": round(allowed, 2),
        "engine_s": round(total - program, 2),
        "program_s": round(program - alone, 2),
        "epochs": epochs,
        "n_train": SIZES["train"],
        "all_s": {name: [round(value, 2) for value in values] for name, values in runs.items()},
        "met": total - alone <= allowed,
    }


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:3]]
    print(json.dumps(main(*given, *(20, 2)[len(given) :])))
