"""Time and memory of the analysis of a run, at 10 000 and 100 000 frames of 24 atoms.

A run is written as a dataset's file, block by block, and analysed from it as ``mlfinetune`` does: radial distribution
functions of three pairs, mean squared displacement, and averages with histogram of a series of energies; and apart from
these the coordination number of O by H with its free energy. Each of the two, at each length, is done in a process of
its own, whose peak of memory is compared with that before. Prints one JSON line last: seconds (``_cpu``: processor
time, which other load on the machine does not lengthen), the ratio of the times (10 is linear) and the growth of memory
in MiB at either length; the same with ``coordination_``, and ``coordination_bytes_per_frame``, by which the memory
grows from one length to the other. Of all the rest it does not grow beyond a block of frames, some 14 000 here. But the
coordination number of every centre in every frame is a result: measured were 17 bytes a frame and centre at the peak,
of which 8 are kept, and 70 a frame. Usage: ``analysis_cost.py [SHORT LONG]``.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from aiida_mlfinetune.science.crystals.crystals import ice_xi
from aiida_mlfinetune.science.observables.coordination import coordination, coordination_numbers
from aiida_mlfinetune.science.observables.histograms import histogram
from aiida_mlfinetune.science.observables.msd import diffusion
from aiida_mlfinetune.science.observables.rdf import radial_distributions
from aiida_mlfinetune.science.observables.trajectory import StoredTrajectory, atoms_of

LENGTHS = (10_000, 100_000)
PAIRS = (("O", "O"), ("O", "H"), ("H", "H"))
R_MAX_A = 2.2
COORDINATION = "coordination_"
"""The part of the analysis whose memory grows; the other has no name."""
R_MIN_A = 1.3
TEMPERATURE_K = 100.0
BLOCK = 1000


def write_run(path: Path, n: int) -> None:
    """Write ``n`` frames of a crystal that trembles, one block after the other."""
    atoms = ice_xi()
    rng = np.random.default_rng(0)
    n_atoms = len(atoms)
    small = {
        "numbers": np.tile(atoms.numbers.astype(np.int16), n),
        "offsets": np.arange(n + 1, dtype=np.int64) * n_atoms,
        "cells": np.tile(atoms.cell.array, (n, 1, 1)),
        "pbc": np.ones((n, 3), dtype=bool),
        "steps": np.arange(n, dtype=np.int64),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, values in small.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, values)
        with archive.open("positions.npy", "w", force_zip64=True) as stream:
            header = {"descr": "<f8", "fortran_order": False, "shape": (n * n_atoms, 3)}
            np.lib.format.write_array_header_1_0(stream, header)
            for first in range(0, n, BLOCK):
                size = min(BLOCK, n - first)
                stream.write((atoms.positions + 0.05 * rng.normal(size=(size, n_atoms, 3))).tobytes())


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def analyse(path: Path, part: str) -> None:
    """Do one part of the analysis of a run, and print what it took."""
    with path.open("rb") as handle:
        n = len(StoredTrajectory(handle))
    energies = np.random.default_rng(1).normal(size=n)
    before, start, cpu = peak_mib(), time.perf_counter(), time.process_time()
    with path.open("rb") as handle:
        run = StoredTrajectory(handle)
        if part == COORDINATION:
            numbers = coordination_numbers(run, atoms_of(run, "O"), atoms_of(run, "H"), R_MIN_A)
        else:
            radial_distributions(run, PAIRS, R_MAX_A)
            diffusion(run, atoms_of(run, "O"), 10.0)
    if part == COORDINATION:
        coordination(numbers, TEMPERATURE_K)
    else:
        histogram(energies)
    print(json.dumps([time.perf_counter() - start, time.process_time() - cpu, peak_mib() - before]))


def main() -> None:
    if sys.argv[1:2] == ["analyse"]:
        analyse(Path(sys.argv[2]), sys.argv[3])
        return
    short, long = lengths = tuple(int(argument) for argument in sys.argv[1:3]) or LENGTHS
    result: dict[str, object] = {"benchmark": "analysis_cost", "n_atoms": len(ice_xi()), "n_frames": lengths}
    seconds, memories = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for n in lengths:
            path = Path(folder) / f"{n}.npz"
            write_run(path, n)
            for part in ("", COORDINATION):
                command = [sys.executable, __file__, "analyse", str(path), part]
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                wall, cpu, memory = json.loads(output.splitlines()[-1])
                seconds[part, n], memories[part, n] = cpu, memory
                result[f"{part}seconds_{n}"], result[f"{part}seconds_cpu_{n}"] = round(wall, 2), round(cpu, 2)
                result[f"{part}memory_growth_MiB_{n}"] = round(memory, 1)
                what = "coordination" if part else "analysis"
                told = f"{wall:.1f} s, {cpu:.1f} s of processor time, {memory:.1f} MiB"
                print(f"{what} of {n} frames: {told}", flush=True)
    for part in ("", COORDINATION):
        result[f"{part}time_ratio"] = round(seconds[part, long] / seconds[part, short], 2)
    grown = (memories[COORDINATION, long] - memories[COORDINATION, short]) * 2**20
    result["coordination_bytes_per_frame"] = round(grown / (long - short))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
