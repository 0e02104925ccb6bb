"""What i-PI writes: the table of properties, binary trajectories, and the end of its log. Pure: bytes and text in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = (
    "BinaryTrajectory",
    "Ending",
    "parse_cell_motion",
    "parse_ending",
    "parse_properties",
    "read_trajectory",
    "seconds_per_step",
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_COLUMNS = re.compile(r"#\s*(?:column|cols\.)\s+(\d+)(?:-(\d+))?\s+-->\s+(\S+)\s*:")
_TITLE = re.compile(r"Step:\s*(\d+)\s+Bead:\s*(\d+)\s+\S+\{[^}]*\}\s+cell\{[^}]*\}")
_TIMINGS = re.compile(r"Average timings at MD step\s+(\d+)\. t/step:\s*(\S+)")
_LONGEST_TITLE = 200


@dataclass(frozen=True)
class BinaryTrajectory:
    """Frames of one file in i-PI's own format.

    Attributes:
        steps: (n,) MD steps.
        cells: (n, 3, 3) cells as i-PI has them (columns are vectors), in the unit of the file.
        values: (n, n_atoms, 3) positions or forces, in the unit of the file.
        symbols: names of the atoms.
    """

    steps: IntArray
    cells: FloatArray
    values: FloatArray
    symbols: tuple[str, ...]


@dataclass(frozen=True)
class Ending:
    """Why i-PI ended, as far as its log tells.

    Attributes:
        finished: it came to its last step.
        out_of_walltime: it stopped at its limit on wall time.
        exit_file: it found a file ``EXIT``.
        killed: it was asked to stop by a signal.
    """

    finished: bool
    out_of_walltime: bool
    exit_file: bool
    killed: bool


def parse_properties(text: str, columns: Sequence[tuple[str, int]] = ()) -> dict[str, FloatArray]:
    """Return the columns of a properties file by their names, unit included (such as ``potential{ase}``).

    A last line that is cut, as by a full disk or a kill, is dropped. A restarted run writes no header: ``columns``,
    pairs of name and number of columns, stands in for it.

    Args:
        text: content of the file.
        columns: what to expect where there is no header.

    Returns:
        arrays (n,), or (n, k) for properties of k columns.

    Raises:
        ValueError: no header and no ``columns``, or lines that are not numbers.
    """
    layout = list(columns)
    header = [match.groups() for match in map(_COLUMNS.match, text.splitlines()) if match]
    if header:
        layout = [(name, int(last or first) - int(first) + 1) for first, last, name in header]
    if not layout:
        raise ValueError("the properties file has no header that names its columns")
    width = sum(size for _, size in layout)
    complete = text[: text.rfind("\n") + 1]
    rows = [line.split() for line in complete.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if rows and len(rows[-1]) != width:
        rows.pop()
    if any(len(row) != width for row in rows):
        raise ValueError(f"a line of the properties file does not have the {width} columns of its header")
    table = np.array(rows, dtype=np.float64).reshape(len(rows), width)
    arrays: dict[str, FloatArray] = {}
    start = 0
    for name, size in layout:
        arrays[name] = table[:, start] if size == 1 else table[:, start : start + size]
        start += size
    return arrays


def read_trajectory(content: bytes) -> BinaryTrajectory:
    """Return the frames of a file of format ``bin``; a last frame that is cut is dropped.

    Layout of a frame (i-PI 3, ``io_binary``): 9 doubles (cell), 1 integer (atoms), 3 doubles an atom, 1 integer
    (length of the names), the names joined by ``|`` and the title, both in UTF-32. All frames are of equal length, so
    that the file is read as one array.

    Raises:
        ValueError: not such a file.
    """
    head = 9 * 8
    if len(content) < head + 8:
        return BinaryTrajectory(np.zeros(0, np.int64), np.zeros((0, 3, 3)), np.zeros((0, 0, 3)), ())
    n_atoms = int(np.frombuffer(content, "<i8", 1, head)[0])
    names_at = head + 8 + 24 * n_atoms
    if n_atoms < 1 or len(content) < names_at + 8:
        return _nothing_but_a_cut_frame(n_atoms)
    n_names = int(np.frombuffer(content, "<i8", 1, names_at)[0])
    title_at = names_at + 8 + 4 * n_names
    if not 0 < n_names < 8 * n_atoms:
        raise ValueError(f"not a binary trajectory of i-PI: names of {n_names} characters for {n_atoms} atoms")
    match = _TITLE.match(content[title_at : title_at + 4 * _LONGEST_TITLE].decode("utf-32-le", "replace"))
    if match is None:
        return _nothing_but_a_cut_frame(n_atoms)
    frame = np.dtype(
        [
            ("cell", "<f8", (3, 3)),
            ("n_atoms", "<i8"),
            ("values", "<f8", (n_atoms, 3)),
            ("n_names", "<i8"),
            ("names", f"<U{n_names}"),
            ("title", f"<U{match.end()}"),
        ]
    )
    frames = np.frombuffer(content, frame, len(content) // frame.itemsize)
    if not ((frames["n_atoms"] == n_atoms) & (frames["n_names"] == n_names)).all():
        raise ValueError("the frames of the binary trajectory are not of equal length")
    titles = [_TITLE.match(title) for title in frames["title"]]
    steps = [int(title.group(1)) for title in titles if title is not None]
    if len(steps) != len(frames):
        raise ValueError("a frame of the binary trajectory does not name its step")
    symbols = tuple(str(frames["names"][0]).split("|")) if len(frames) else ()
    return BinaryTrajectory(
        np.array(steps, dtype=np.int64),
        np.array(frames["cell"], dtype=np.float64),
        np.array(frames["values"], dtype=np.float64),
        symbols,
    )


def _nothing_but_a_cut_frame(n_atoms: int) -> BinaryTrajectory:
    if not 1 <= n_atoms < 10**8:
        raise ValueError(f"not a binary trajectory of i-PI: it says that it holds {n_atoms} atoms")
    return BinaryTrajectory(np.zeros(0, np.int64), np.zeros((0, 3, 3)), np.zeros((0, n_atoms, 3)), ())


def parse_cell_motion(text: str) -> dict[int, float]:
    """Return the kinetic energy of the cell in eV by step, from what the driver wrote; a cut last line is dropped."""
    rows = [line.split() for line in text[: text.rfind("\n") + 1].splitlines() if not line.startswith("#")]
    return {int(row[0]): float(row[1]) for row in rows if len(row) == 2}


def parse_ending(stdout: str) -> Ending:
    """Return why i-PI ended."""
    return Ending(
        finished="@ SIMULATION: Exiting cleanly" in stdout and "Bye bye!" not in stdout,
        out_of_walltime="Wall clock time expired" in stdout or "Maximum wallclock time elapsed" in stdout,
        exit_file="EXIT file detected" in stdout,
        killed="Kill signal" in stdout,
    )


def seconds_per_step(stdout: str) -> float | None:
    """Return the mean wall time of a step, from the second to the last that i-PI reports; None for very short runs.

    i-PI reports every hundred steps the mean since its last report; the first report is of the first step alone, which
    is slow, since buffers are made in it.
    """
    reports = [(int(step), float(seconds)) for step, seconds in _TIMINGS.findall(stdout)]
    if len(reports) < 2:
        return None
    total = sum((b[0] - a[0]) * b[1] for a, b in pairwise(reports))
    return total / (reports[-1][0] - reports[0][0])
