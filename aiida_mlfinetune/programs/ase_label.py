"""Energies, forces and stress of many frames by any ASE calculator, one after the other.

Stand-alone: needs numpy, ASE and the calculator only. Run as ``python ase_label.py label.json``; the file holds
``calculator`` (``module:class``), ``kwargs``, ``model`` (file name, or null), ``energy`` (``free`` or ``sigma0``),
``frames`` and ``labels`` (file names). The arrays of ``frames`` are ``numbers``, ``positions``, ``offsets``, ``cells``
and ``pbc``.

``labels`` gets one JSON object a line, as soon as it is known: first ``code`` and ``code_version``, or ``refused`` if
the calculator cannot be made; then for each frame, in order, its ``index``, and ``energy`` (eV), ``forces`` (eV/A) and
``stress`` (3 x 3, eV/A^3, positive = tensile; null where the frame is not periodic in three directions or the
calculator has none), or ``error``; and what it cost: ``seconds``, ``elapsed_s`` (since the program began),
``peak_memory_MiB`` and ``threads`` (OMP_NUM_THREADS, or all cores). A job that is killed keeps the lines it wrote.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

START = time.monotonic()

import numpy as np  # noqa: E402 - the clock starts before the slow imports
from ase import Atoms  # noqa: E402
from ase.calculators.calculator import PropertyNotImplementedError  # noqa: E402


def read_frames(path: str | Path) -> Iterator[Atoms]:
    """Yield the frames of a file of flat arrays."""
    with np.load(path, allow_pickle=False) as arrays:
        offsets = arrays["offsets"]
        numbers, positions = arrays["numbers"].astype(int), arrays["positions"]
        cells, pbc = arrays["cells"], arrays["pbc"]
    for index in range(len(offsets) - 1):
        own = slice(int(offsets[index]), int(offsets[index + 1]))
        yield Atoms(numbers=numbers[own], positions=positions[own], cell=cells[index], pbc=pbc[index])


def make_calculator(job: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """Return the calculator, and the name and version of the package that it comes from."""
    module_name, _, class_name = job["calculator"].partition(":")
    module = importlib.import_module(module_name)
    kwargs = dict(job["kwargs"])
    if job["model"]:
        kwargs["model_paths"] = job["model"]
    calculator = getattr(module, class_name)(**kwargs)
    package = module_name.partition(".")[0]
    distribution = (metadata.packages_distributions().get(package) or [package])[0]
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        version = str(getattr(importlib.import_module(package), "__version__", ""))
    return calculator, {"code": distribution, "code_version": version}


def label(atoms: Atoms, calculator: Any, energy_kind: str) -> dict[str, Any]:
    """Return energy, forces and stress of one frame; nothing is carried over from the frame before."""
    if hasattr(calculator, "reset"):
        calculator.reset()
    atoms.calc = calculator
    try:
        energy = atoms.get_potential_energy(force_consistent=energy_kind == "free")
    except PropertyNotImplementedError:  # no smearing: there is one energy only
        energy = atoms.get_potential_energy()
    stress = None
    if atoms.pbc.all():
        try:
            stress = atoms.get_stress(voigt=False).tolist()
        except (NotImplementedError, PropertyNotImplementedError):
            stress = None
    return {"energy": float(energy), "forces": atoms.get_forces().tolist(), "stress": stress}


def costs(begin: float) -> dict[str, Any]:
    """Return what the frame that was begun at ``begin`` cost, and the program so far."""
    now = time.monotonic()
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return {
        "seconds": round(now - begin, 6),
        "elapsed_s": round(now - START, 6),
        "peak_memory_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    }


def main(path: str) -> int:
    """Run the job that the JSON file at ``path`` describes."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    with Path(job["labels"]).open("w", encoding="utf-8", buffering=1) as handle:

        def write(record: dict[str, Any]) -> None:
            handle.write(json.dumps(record) + "\n")
            handle.flush()

        try:
            calculator, code = make_calculator(job)
        except Exception as error:  # noqa: BLE001 - whatever it is, the user must read it
            write({"refused": f"{type(error).__name__}: {error}"})
            return 1
        write(code)
        for index, atoms in enumerate(read_frames(job["frames"])):
            begin = time.monotonic()
            try:
                record = label(atoms, calculator, job["energy"])
            except Exception as error:  # noqa: BLE001 - one frame that fails must not stop the others
                record = {"error": f"{type(error).__name__}: {error}"}
            write({"index": index, **record, **costs(begin)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
