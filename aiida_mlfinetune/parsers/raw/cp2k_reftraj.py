"""The standard output of a CP2K REFTRAJ run, frame by frame; a run that was killed is read as far as it got."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from aiida_mlfinetune.common.units import HARTREE_BOHR_EV_ANGSTROM
from aiida_mlfinetune.parsers.raw.cp2k_output import Cp2kStdout, FloatArray, parse_stdout

_ENERGY = re.compile(r"ENERGY\| Total FORCE_EVAL")
_NUMBER = r"([-+]?\d+\.\d+(?:[ED][-+]?\d+)?)"
# Up to 2023 the columns are atom, kind, element, x, y, z; later they are atom, x, y, z, norm, after "FORCES|".
_FORCES = re.compile(
    r"(?:ATOMIC FORCES in \[a\.u\.\]|FORCES\|\s+Atomic forces \[hartree/bohr\])(?P<rows>.*?)\n[ \t]*"
    r"(?:FORCES\|[ \t]+)?(?:SUM|TOTAL)[^\n]*\n",
    re.DOTALL | re.IGNORECASE,
)
_FORCES_ROW = re.compile(
    r"^[ \t]*(?:FORCES\|)?[ \t]*\d+[ \t]+(?:\d+[ \t]+[A-Z][a-z]?[ \t]+)?" + r"[ \t]+".join([_NUMBER] * 3), re.MULTILINE
)
_SCF_STEPS = re.compile(r"SCF run converged in\s+(\d+) steps|Leaving inner SCF loop after reaching\s+(\d+) steps")
_SECONDS = re.compile(r"^ CP2K +1 +1\.0(?: +[\d.]+){3} +([\d.]+) *$", re.MULTILINE)
_CLOCK = r"PROGRAM {} AT\s+(\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{3}})"


@dataclass(frozen=True)
class EvaluatedFrame:
    """What CP2K printed for one frame.

    Attributes:
        energy: eV, NaN if not printed as a number.
        forces: (n, 3) eV/angstrom; None if not printed to the end.
        stress: (3, 3) eV/angstrom^3, ASE's sign; None if not printed to the end.
        converged: whether the SCF cycle met its threshold.
        scf_steps: number of SCF steps.
    """

    energy: float
    forces: FloatArray | None
    stress: FloatArray | None
    converged: bool
    scf_steps: int


@dataclass(frozen=True)
class ReftrajOutput:
    """A whole run.

    Attributes:
        frames: those that CP2K printed an energy for, in order.
        stdout: version, end, time limit and abort message.
        scf_out_of_time: whether the time limit ended the SCF cycle of the last of ``frames``.
        stopped_unconverged: whether CP2K aborted because the frame after ``frames`` did not converge, as releases after
            2023 do unless told otherwise.
        seconds: wall time from CP2K's start to its end, 0 if it did not end regularly.
    """

    frames: tuple[EvaluatedFrame, ...]
    stdout: Cp2kStdout
    scf_out_of_time: bool
    stopped_unconverged: bool
    seconds: float


def parse_reftraj(text: str, n_atoms: int) -> ReftrajOutput:
    """Read the standard output of a REFTRAJ run over frames of ``n_atoms`` atoms.

    Needs ``FORCE_EVAL/PRINT/FORCES`` and, for a stress, ``FORCE_EVAL/PRINT/STRESS_TENSOR``.
    """
    stdout = parse_stdout(text)
    pieces = _ENERGY.split(text)  # the SCF cycle of frame i ends piece i, its forces are in piece i + 1
    frames = [
        EvaluatedFrame(
            energy=evaluation.energy,
            forces=_forces(pieces[index + 1], n_atoms),
            stress=evaluation.stress,
            converged=evaluation.converged,
            scf_steps=sum(int(a or b) for a, b in _SCF_STEPS.findall(pieces[index])),
        )
        for index, evaluation in enumerate(stdout.evaluations)
    ]
    return ReftrajOutput(
        frames=tuple(frames),
        stdout=stdout,
        scf_out_of_time="SCF run terminated - exceeded requested execution time" in text,
        stopped_unconverged="NOT converged" in stdout.abort_message,
        seconds=_seconds(text),
    )


def _seconds(text: str) -> float:
    """Return the wall time from CP2K's start to its end: its own account leaves out what comes before its timers."""
    accounted = _SECONDS.search(text)
    if accounted is None:
        return 0.0
    clocks = [re.search(_CLOCK.format(word), text) for word in ("STARTED", "ENDED")]
    start, end = (datetime.fromisoformat(clock[1]) if clock else None for clock in clocks)
    return max(float(accounted[1]), (end - start).total_seconds() if start and end else 0.0)


def _forces(text: str, n_atoms: int) -> FloatArray | None:
    """Return (n_atoms, 3) eV/angstrom of the first table in ``text``, or None if it is not there to its end."""
    table = _FORCES.search(text)
    if table is None:
        return None
    rows = [[float(value.upper().replace("D", "E")) for value in row] for row in _FORCES_ROW.findall(table["rows"])]
    return np.array(rows, dtype=np.float64) * HARTREE_BOHR_EV_ANGSTROM if len(rows) == n_atoms else None
