"""Many frames as one CP2K REFTRAJ run: its input sections and the text of its trajectory files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from aiida_mlfinetune.calculations.cp2k_cells import grid_section
from aiida_mlfinetune.calculations.cp2k_input import force_eval, lay_over, vacuum_edge_A
from aiida_mlfinetune.science.datasets.frames import Frames

COORDINATES_FILENAME = "first.xyz"
TRAJECTORY_FILENAME = "frames.xyz"
CELLS_FILENAME = "frames.cell"
PROJECT = "label"


def check_batch(frames: Frames) -> str | None:
    """Return why ``frames`` cannot be evaluated in one REFTRAJ run, or None."""
    sizes = set(frames.n_atoms.tolist())
    if len(sizes) != 1 or (frames.numbers.reshape(len(frames), -1) != frames.numbers[: sizes.pop()]).any():
        return (
            f"the frames differ in composition or in the order of atoms ({sorted(set(frames.formulas))}), and one "
            "CP2K job takes one composition: use the labelling work chain, which sorts frames into jobs"
        )
    if not (frames.pbc.all() or not frames.pbc.any()):
        return (
            "frames must all be periodic in three directions, or all without periodicity: use the labelling work "
            "chain, which sorts frames into jobs (frames periodic in one or two directions are not supported)"
        )
    if frames.pbc.all() and (volumes := frames.volumes).min() < 1e-3:
        return f"frame {int(volumes.argmin())} has a cell without volume: give it three independent lattice vectors"
    return None


def reftraj_input(
    spec: Mapping[str, Any],
    frames: Frames,
    walltime_s: int | None = None,
    convergence: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the whole CP2K input for a batch that passes ``check_batch``.

    Energies, forces and (for crystals) the stress of each frame go to standard output. ``walltime_s`` makes CP2K end
    regularly after that many seconds; ``convergence`` is laid over the FORCE_EVAL section of the level.
    """
    periodic = bool(frames.pbc.all())
    tree = lay_over(force_eval(spec, frames.elements, periodic), convergence or {})
    scheme = tree.setdefault("DFT", {}).setdefault("QS", {})
    if scheme.get("EXTRAPOLATION", "ASPC") == "ASPC":
        # Frames drawn from a trajectory do not follow each other smoothly. revPBE of 3 H2O, 10 fs apart, in time / in
        # random order: ASPC needs 9 / 15 SCF steps a frame, the wavefunction of the frame before 9 / 11, none 31.
        scheme["EXTRAPOLATION"] = "USE_PREV_WF"
        scheme.pop("EXTRAPOLATION_ORDER", None)
    tree.setdefault("PRINT", {})["FORCES"] = {"_": "ON", "NDIGITS": 16}
    tree["SUBSYS"]["CELL"].update({name: _vector(row) for name, row in zip("ABC", job_cell(spec, frames), strict=True)})
    if periodic:
        tree["SUBSYS"]["CELL"].update(grid_section(spec, frames))
    tree["SUBSYS"]["TOPOLOGY"] = {"COORD_FILE_NAME": COORDINATES_FILENAME, "COORD_FILE_FORMAT": "XYZ"}
    reftraj: dict[str, Any] = {
        "EVAL_FORCES": True,
        "FIRST_SNAPSHOT": 1,
        "LAST_SNAPSHOT": len(frames),
        "TRAJ_FILE_NAME": TRAJECTORY_FILENAME,
        "VARIABLE_VOLUME": periodic,
    }
    if periodic:
        reftraj["CELL_FILE_NAME"] = CELLS_FILENAME
    parameters: dict[str, Any] = {
        "GLOBAL": {"PROJECT": PROJECT, "RUN_TYPE": "MD", "PRINT_LEVEL": "LOW"},
        "FORCE_EVAL": tree,
        "MOTION": {
            "MD": {"ENSEMBLE": "REFTRAJ", "STEPS": len(frames), "REFTRAJ": reftraj},
            "PRINT": {name: {"_": "OFF"} for name in ("TRAJECTORY", "CELL", "RESTART", "RESTART_HISTORY")},
        },
    }
    if walltime_s is not None:
        parameters["GLOBAL"]["WALLTIME"] = walltime_s
    return parameters


def job_cell(spec: Mapping[str, Any], frames: Frames) -> np.ndarray:
    """Return (3, 3) the cell of the first frame; for molecules, the cube that holds every one of the batch."""
    if frames.pbc.all():
        return frames.cells[0]
    edge = max(vacuum_edge_A(spec, frames.positions[frames.slice(index)]) for index in range(len(frames)))
    return np.eye(3) * edge


def coordinates(spec: Mapping[str, Any], frames: Frames) -> np.ndarray:
    """Return (n, atoms, 3) the positions for CP2K to read, in angstrom: molecules in the middle of their cube."""
    positions = frames.positions.reshape(len(frames), -1, 3)
    if frames.pbc.all():
        return positions
    middle = (positions.min(axis=1, keepdims=True) + positions.max(axis=1, keepdims=True)) / 2
    return positions - middle + job_cell(spec, frames).diagonal() / 2


def xyz_text(frames: Frames, positions: np.ndarray) -> str:
    """Return a trajectory as CP2K's REFTRAJ reads it; its snapshots count from 1."""
    symbols = [chemical_symbols[z] for z in frames.numbers[frames.slice(0)]]
    lines: list[str] = []
    for number, rows in enumerate(positions, start=1):
        lines += [str(len(symbols)), f" i = {number} , time = {float(number)}"]
        lines += [f"{symbol} {_vector(row)}" for symbol, row in zip(symbols, rows, strict=True)]
    return "\n".join(lines) + "\n"


def cell_text(frames: Frames) -> str:
    """Return the cells as CP2K's REFTRAJ reads them: step, time, nine components and volume."""
    lines = ["# Step Time[fs] Ax Ay Az Bx By Bz Cx Cy Cz [Angstrom] Volume[Angstrom^3]"]
    for number, (cell, volume) in enumerate(zip(frames.cells, frames.volumes, strict=True), start=1):
        lines.append(f"{number} {float(number)} {_vector(cell.ravel())} {volume:.12f}")
    return "\n".join(lines) + "\n"


def _vector(values: np.ndarray) -> str:
    """Return numbers with as many digits as it takes to read the same ones back."""
    return " ".join(repr(float(value)) for value in values)
