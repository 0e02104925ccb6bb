"""CP2K's output files as arrays, in the units of this package (eV, angstrom, fs)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aiida_mlfinetune.common.units import BAR_EV_A3, GPA_EV_A3, HARTREE_BOHR_EV_ANGSTROM, HARTREE_EV

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_NUMBER = r"[-+]?\d+\.\d+(?:[EeDd][-+]?\d+)?"
_EVENT = re.compile(
    r"(?P<scf>SCF run (?:(?P<not>NOT converged|terminated)|converged))"
    r"|MD\| Step number[ \t]+(?P<step>\d+)[ \t]*\n"
    r"|ENERGY\| Total FORCE_EVAL[^\n]*?:?[ \t]+(?P<energy>" + _NUMBER + r"|\*+|NaN)[ \t]*\n"
    r"|(?P<stress>STRESS\| Analytical stress tensor \[(?P<unit>\w+)\]\n"
    r"[^\n]*\n(?P<rows>(?:[ \t]*STRESS\|[ \t]+[xyz][^\n]*\n){3}))"
)
_VERSION = re.compile(r"CP2K version (\S+)")
_STRESS_UNITS = {"gpa": GPA_EV_A3, "bar": BAR_EV_A3}
_ABORT = re.compile(r"\[ABORT\](?P<body>.*?)(?:\n\s*\*{20}|===== Routine|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of energy and forces, in the order of standard output.

    Attributes:
        energy: eV, NaN if not printed as a number.
        converged: whether the last self-consistency of this evaluation converged.
        stress: (3, 3) eV/angstrom^3 in ASE's sign (positive = tensile), without the kinetic part; None if not printed.
    """

    energy: float
    converged: bool
    stress: FloatArray | None


@dataclass(frozen=True)
class Cp2kStdout:
    """What standard output tells.

    Attributes:
        version: such as ``2023.1``, empty if not found.
        ended: whether CP2K reached its own end.
        out_of_walltime: whether CP2K stopped at the wall-clock limit it was given.
        abort_message: the text of the ABORT box, empty without one.
        n_warnings: as counted by CP2K, -1 if it did not get that far.
        first_step: MD step of the first evaluation; the others follow one by one.
        evaluations: finished evaluations of the energy.
    """

    version: str
    ended: bool
    out_of_walltime: bool
    abort_message: str
    n_warnings: int
    first_step: int
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class XyzTrajectory:
    """Frames of ``*-pos-1.xyz`` or ``*-frc-1.xyz``.

    Attributes:
        symbols: (N,) as written, kind names included.
        steps: (n,) MD steps.
        times_fs: (n,) times.
        energies: (n,) potential energies in eV.
        values: (n, N, 3) in the unit of the file (``read_positions`` and ``read_forces`` convert).
    """

    symbols: tuple[str, ...]
    steps: IntArray
    times_fs: FloatArray
    energies: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class EnergyTable:
    """The table ``*-1.ener`` of an MD run; all arrays are (n,).

    Attributes:
        steps: MD steps.
        times_fs: times.
        kinetic: kinetic energy in eV.
        temperatures_K: instantaneous temperature.
        potential: potential energy in eV.
        conserved: conserved quantity in eV.
        seconds: wall-clock time of the step.
    """

    steps: IntArray
    times_fs: FloatArray
    kinetic: FloatArray
    temperatures_K: FloatArray  # noqa: N815 - the unit
    potential: FloatArray
    conserved: FloatArray
    seconds: FloatArray


def parse_stdout(text: str) -> Cp2kStdout:
    """Parse standard output.

    An evaluation starts at its self-consistency and is finished by its ``ENERGY|`` line; a ``STRESS|`` block belongs to
    the energy above it.  CP2K prints pressure-like stress (positive = compressive), ASE's is minus that.
    """
    evaluations: list[Evaluation] = []
    converged, first_step = True, -1
    for event in _EVENT.finditer(text):
        if event["scf"]:
            converged = not event["not"]
        elif event["step"]:
            if first_step < 0:
                first_step = int(event["step"]) - len(evaluations) + 1
        elif event["energy"]:
            evaluations.append(Evaluation(_number(event["energy"]) * HARTREE_EV, converged, None))
            converged = True
        elif event["stress"] and evaluations:
            last = evaluations[-1]
            evaluations[-1] = Evaluation(last.energy, last.converged, _stress(event["rows"], event["unit"]))
    version = _VERSION.search(text)
    abort = _ABORT.search(text)
    warnings = re.search(r"The number of warnings for this run is :\s+(\d+)", text)
    return Cp2kStdout(
        version=version[1] if version else "",
        ended="PROGRAM STOPPED IN" in text or "PROGRAM ENDED AT" in text,
        out_of_walltime="exceeded requested execution time" in text.lower(),
        abort_message=_box_text(abort["body"]) if abort else "",
        n_warnings=int(warnings[1]) if warnings else -1,
        first_step=max(first_step, 0),
        evaluations=tuple(evaluations),
    )


def read_positions(text: str) -> XyzTrajectory:
    """Read ``*-pos-1.xyz`` (angstrom); a last frame that is cut off is left out.

    Raises:
        ValueError: no complete frame, frames of different atoms, or something that is not a number.
    """
    return _read_xyz(text, 1.0)


def read_forces(text: str) -> XyzTrajectory:
    """Read ``*-frc-1.xyz`` (hartree/bohr) with values in eV/angstrom; otherwise as ``read_positions``."""
    return _read_xyz(text, HARTREE_BOHR_EV_ANGSTROM)


def read_cells(text: str) -> tuple[IntArray, FloatArray]:
    """Read ``*-1.cell``: (n,) steps, and (n, 3, 3) cell vectors as rows (angstrom); a cut-off last line is left out."""
    table = _table(text, 12)
    return table[:, 0].astype(np.int64), table[:, 2:11].reshape(-1, 3, 3)


def read_restart_step(text: str) -> int:
    """Return the MD step that a restart file (``*-1.restart``) holds; 0 if it says nothing of steps."""
    found = re.search(r"^\s*STEP_START_VAL\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def read_energies(text: str) -> EnergyTable:
    """Read ``*-1.ener``; a cut-off last line is left out."""
    table = _table(text, 7)
    return EnergyTable(
        steps=table[:, 0].astype(np.int64),
        times_fs=table[:, 1],
        kinetic=table[:, 2] * HARTREE_EV,
        temperatures_K=table[:, 3],
        potential=table[:, 4] * HARTREE_EV,
        conserved=table[:, 5] * HARTREE_EV,
        seconds=table[:, 6],
    )


def _read_xyz(text: str, factor: float) -> XyzTrajectory:
    lines = text.split("\n")
    n_atoms = int(lines[0]) if lines[0].strip() else 0
    block = n_atoms + 2
    # The last line counts only if it was ended by a line feed: "0.1234" may have been on its way to "0.12345678".
    n_frames = (len(lines) - 1) // block
    if n_atoms < 1 or n_frames < 1:
        raise ValueError("the trajectory holds no complete frame")
    headers = [lines[frame * block + 1] for frame in range(n_frames)]
    rows = [line for frame in range(n_frames) for line in lines[frame * block + 2 : (frame + 1) * block]]
    columns = np.array(" ".join(rows).split(), dtype=str)
    if columns.size != 4 * n_atoms * n_frames:
        raise ValueError("the trajectory holds lines that are not a symbol and three numbers")
    columns = columns.reshape(n_frames, n_atoms, 4)
    if (columns[:, :, 0] != columns[0, :, 0]).any():
        raise ValueError("the frames of the trajectory hold different atoms")
    numbers = [re.findall(r"=\s*([^,\s]+)", header) for header in headers]
    return XyzTrajectory(
        symbols=tuple(str(symbol) for symbol in columns[0, :, 0]),
        steps=np.array([int(values[0]) for values in numbers], dtype=np.int64),
        times_fs=np.array([float(values[1]) for values in numbers]),
        energies=np.array([_number(values[2]) for values in numbers]) * HARTREE_EV,
        values=_floats(columns[:, :, 1:]) * factor,
    )


def _floats(values: NDArray[np.str_]) -> FloatArray:
    """Convert printed numbers; fields that overflowed (asterisks) become NaN."""
    try:
        return values.astype(np.float64)
    except ValueError:
        return np.array([_number(value) for value in values.reshape(-1)]).reshape(values.shape)


def _table(text: str, n_columns: int) -> FloatArray:
    """Return the rows of a table of numbers, without comments, and without a last line that is cut off."""
    lines = [line.split() for line in text.split("\n")[:-1] if line.strip() and not line.lstrip().startswith("#")]
    if lines and len(lines[-1]) < n_columns:
        lines.pop()
    if not lines:
        raise ValueError("the table holds no complete line")
    return np.array([[_number(value) for value in line[:n_columns]] for line in lines], dtype=np.float64)


def _stress(rows: str, unit: str) -> FloatArray:
    if unit.lower() not in _STRESS_UNITS:
        raise ValueError(f"the stress is printed in {unit}, not in GPa or bar: remove STRESS_UNIT from the input")
    values = [[_number(value) for value in row.split()[2:5]] for row in rows.strip().split("\n")]
    return -_STRESS_UNITS[unit.lower()] * np.array(values, dtype=np.float64)


def _number(text: str) -> float:
    if text.startswith("*"):
        return float("nan")
    return float(text.replace("D", "E").replace("d", "e"))


def _box_text(body: str) -> str:
    """Return the words inside one of CP2K's boxes, which has a stick figure in its first ten columns."""
    lines = body.split("\n")
    words = [lines[0], *(line[10:] for line in lines[1:])]
    return " ".join(" ".join(line.rstrip(" *") for line in words).split())
