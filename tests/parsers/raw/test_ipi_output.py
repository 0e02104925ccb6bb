"""What i-PI writes, whole and cut."""

from __future__ import annotations

import io

import numpy as np
import pytest

from aiida_mlfinetune.parsers.raw.ipi_output import parse_ending, parse_properties, read_trajectory, seconds_per_step

PROPERTIES = """# column   1     --> step : The current simulation time step.
# column   2     --> potential{ase} : The physical system potential energy.
# cols.    3-8   --> cell_h{ase} : The simulation cell as a matrix.
  0.0e+00   -1.25e+00   1 2 3 4 5 6
  1.0e+01   -1.50e+00   1 2 3 4 5 7
"""


def trajectory(steps=(0, 10, 20), n_atoms=3, seed=0) -> tuple[bytes, np.ndarray]:
    """Return the bytes that i-PI's own writer makes, and the positions in them."""
    values = np.random.default_rng(seed).normal(size=(len(steps), n_atoms, 3))
    names = "|".join(["O", "H", "H"] * (n_atoms // 3))
    parts = []
    for step, frame in zip(steps, values, strict=True):
        title = f"Step:  {step:10d}  Bead:   {0:5d} positions{{ase}}  cell{{ase}}"
        pieces = (np.eye(3) * (step + 1), np.array([n_atoms]), frame, np.array([len(names)]))
        parts += [piece.tobytes() for piece in pieces]
        parts += [np.array([names]).tobytes(), np.array([title]).tobytes()]
    return b"".join(parts), values


def test_writer_of_ipi_agrees(tmp_path):
    from ipi.engine.atoms import Atoms
    from ipi.engine.cell import Cell
    from ipi.utils.io import print_file

    atoms, cell = Atoms(3), Cell(np.eye(3) * 11)
    atoms.names[:] = ["O", "H", "H"]
    content, values = trajectory(steps=(10,))
    atoms.q[:] = values.ravel()
    with (tmp_path / "x.bin").open("wb") as handle:
        title = "Step:  %10d  Bead:   %5d " % (10, 0)  # noqa: UP031 - as i-PI writes it
        print_file(
            "bin", atoms, cell, handle, title=title, key="positions", units="atomic_unit", cell_units="atomic_unit"
        )
    written = read_trajectory((tmp_path / "x.bin").read_bytes())
    ours = read_trajectory(content)
    for name in ("steps", "cells", "values"):
        assert (getattr(written, name) == getattr(ours, name)).all()
    assert written.symbols == ("O", "H", "H")


def test_properties_by_name():
    arrays = parse_properties(PROPERTIES)
    assert arrays["step"].tolist() == [0, 10]
    assert arrays["potential{ase}"].tolist() == [-1.25, -1.5]
    assert arrays["cell_h{ase}"].shape == (2, 6)


def test_properties_without_a_header():
    body = "".join(line for line in io.StringIO(PROPERTIES) if not line.startswith("#"))
    columns = (("step", 1), ("potential{ase}", 1), ("cell_h{ase}", 6))
    assert parse_properties(body, columns)["cell_h{ase}"][1, 5] == 7
    with pytest.raises(ValueError, match="no header"):
        parse_properties(body)


def test_a_cut_line_is_dropped():
    last_line = len(PROPERTIES.splitlines()[-1])
    for cut in range(1, last_line + 2):
        assert parse_properties(PROPERTIES[:-cut])["step"].tolist() == [0]


def test_damaged_properties():
    with pytest.raises(ValueError, match="8 columns"):
        parse_properties(PROPERTIES.replace("  0.0e+00", ""))
    with pytest.raises(ValueError, match="could not convert"):
        parse_properties(PROPERTIES.replace("-1.25e+00", "-1.25x"))


def test_trajectory_cut_anywhere():
    content, values = trajectory()
    size = len(content) // 3
    for length in range(len(content) + 1):
        read = read_trajectory(content[:length])
        n = length // size
        assert read.steps.tolist() == [0, 10, 20][:n]
        assert n == 0 or (read.values == values[:n]).all()
    assert read.cells[2, 0, 0] == 21


@pytest.mark.parametrize("content", [b"\xff" * 200, b"not a trajectory, but text that is long enough to look at" * 10])
def test_not_a_trajectory(content):
    with pytest.raises(ValueError, match="not a binary trajectory"):
        read_trajectory(content)


def test_frames_of_other_atoms_are_refused():
    first, _ = trajectory(steps=(0,))
    second, _ = trajectory(steps=(10,), n_atoms=6)
    with pytest.raises(ValueError, match="not of equal length"):
        read_trajectory(first + second)


def test_many_frames_are_read_quickly():
    import time

    content, values = trajectory(steps=range(2000), n_atoms=96)
    start = time.process_time()
    assert len(read_trajectory(content).steps) == 2000
    assert time.process_time() - start < 1.0
    assert values.nbytes < len(content)


def test_endings():
    assert parse_ending(" @simulation.run: Wall clock time expired! Bye bye!").out_of_walltime
    assert parse_ending("message=' @SOFTEXIT: Maximum wallclock time elapsed.'").out_of_walltime
    assert parse_ending(" @simulation.run: EXIT file detected! Bye bye!").exit_file
    assert parse_ending("@SOFTEXIT: Kill signal received").killed
    assert parse_ending("with message: ' @ SIMULATION: Exiting cleanly. ").finished


def test_seconds_per_step_leave_out_the_first():
    line = " @simulation.run: Average timings at MD step % 7d. t/step: %10.5e\n"  # as i-PI has it
    assert seconds_per_step(line % (0, 9.0)) is None
    log = line % (0, 9.0) + line % (100, 0.5) + "other\n" + line % (300, 0.2)
    assert seconds_per_step(log) == pytest.approx((100 * 0.5 + 200 * 0.2) / 300)
