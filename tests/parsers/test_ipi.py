"""Every exit code of ``mlfinetune.ipi``, from folders as they come back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from aiida import orm

from aiida_mlfinetune.calculations.ipi import IpiCalculation
from aiida_mlfinetune.calculations.ipi_input import PROPERTIES, IpiFrame
from aiida_mlfinetune.parsers.ipi import IpiParser, columns
from tests.calculations.test_ipi import ice_cell, settings
from tests.parsers.raw.test_ipi_output import trajectory

COLUMNS = columns(1)
EXIT = IpiCalculation.exit_codes
N_ATOMS = 6
STEPS = (0, 4, 8)


def properties_text(temperature=100.0, steps=range(0, 10, 2), header=True) -> str:
    lines, column = [], 1
    for name, size in COLUMNS:
        lines.append(
            f"# column {column:3d}     --> {name} : x" if size == 1 else f"# cols. {column}-{column + 5} --> {name} : x"
        )
        column += size
    rows = [
        [step, 0.5 * step, -2.0, temperature, 0.1, -2.1, 1e-4, 64.0, 4, 4, 4, 0, 0, 0, 1, 2, 3, 4, 5, 6]
        for step in steps
    ]
    if not isinstance(temperature, float):
        for row, value in zip(rows, temperature, strict=True):
            row[3] = value
    return "\n".join([*(lines if header else []), *(" ".join(f"{x:.8e}" for x in row) for row in rows)]) + "\n"


def restart(step: int) -> str:
    return f"<simulation><step>{step}</step></simulation>"


@pytest.fixture
def job(prepare_job, ipi_code, tiny_model):
    """A job whose folder holds what a run of 20 steps would leave that came to step 8."""
    builder = IpiCalculation.get_builder()
    builder.code = ipi_code
    builder.model = tiny_model
    builder.structure = orm.StructureData(ase=ice_cell())
    builder.parameters = orm.Dict(settings())
    prepared = prepare_job(builder)
    (prepared.folder / IpiCalculation.OUTPUT_FILENAME).write_text("i-PI\n")
    (prepared.folder / IpiCalculation.PROPERTIES_FILENAME).write_text(properties_text())
    (prepared.folder / IpiCalculation.POSITIONS_FILENAME).write_bytes(trajectory(STEPS, N_ATOMS)[0])
    (prepared.folder / "RESTART").write_text(restart(8))
    return prepared


def write(job, **files):
    for name, content in files.items():
        path = job.folder / getattr(IpiCalculation, name, name)
        if content is None:
            path.unlink()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content)


def status(code):
    return None if code is None else code.status


def test_finished_run(job):
    write(job, RESTART=restart(20))
    outputs, code = job.parse(IpiParser)
    assert code is None
    assert outputs["trajectory"].frames.steps.tolist() == list(STEPS)
    stress = next(iter(outputs["trajectory"].frames.labels_by_level.values())).stress
    assert stress[0].trace() == pytest.approx(-6)  # minus the virial, and a rotation keeps the trace
    assert outputs["output_parameters"]["last_step"] == 8


def test_interrupted(job):
    outputs, code = job.parse(IpiParser)
    assert status(code) == EXIT.ERROR_INTERRUPTED.status
    assert "step 8 of 20" in code.message
    assert set(outputs) == {"trajectory", "properties", "output_parameters"}


def test_out_of_walltime(job):
    write(job, OUTPUT_FILENAME=" @simulation.run: Wall clock time expired! Bye bye!\n")
    assert status(job.parse(IpiParser)[1]) == EXIT.ERROR_OUT_OF_WALLTIME.status


def test_killed_before_any_restart_file(job):
    write(job, RESTART=restart(8)[:-9])
    outputs, code = job.parse(IpiParser)
    assert status(code) == EXIT.ERROR_INCOMPLETE.status
    assert "trajectory" in outputs


def test_no_output(job):
    write(job, PROPERTIES_FILENAME=None, POSITIONS_FILENAME=None, RESTART=None, OUTPUT_FILENAME="a\nKeyError: 'x'\n")
    outputs, code = job.parse(IpiParser)
    assert status(code) == EXIT.ERROR_NO_OUTPUT.status
    assert "KeyError: 'x'" in code.message
    assert set(outputs) == {"output_parameters"}


def test_restarted_run_that_got_no_row_written(job):
    write(job, PROPERTIES_FILENAME="", POSITIONS_FILENAME=b"")
    outputs, code = job.parse(IpiParser)
    assert status(code) == EXIT.ERROR_INTERRUPTED.status
    assert set(outputs) == {"output_parameters"}


def test_stopped_by_the_driver(job):
    write(job, STOP_FILENAME=json.dumps({"reason": "distance", "message": "two atoms are 0.3 A apart"}))
    outputs, code = job.parse(IpiParser)
    assert status(code) == EXIT.ERROR_EXPLODED.status
    assert "two atoms are 0.3 A apart" in code.message
    assert outputs["trajectory"].n_frames == 3


def test_last_sane_frame_is_turned_back(job):
    """The driver keeps it in i-PI's frame; the node has it in the structure's, forces too."""
    atoms = ice_cell()
    frame = IpiFrame.of(atoms)
    forces = np.random.default_rng(0).normal(size=(N_ATOMS, 3))
    last = {
        "cells": [frame.cell.T.tolist()],
        "positions": [frame.vectors_in(atoms.positions).tolist()],
        "energies": [-3.5],
        "forces": [frame.vectors_in(forces).tolist()],
    }
    write(job, STOP_FILENAME=json.dumps({"reason": "force", "message": "a force of 300 eV/A", "last": last}))
    outputs, code = job.parse(IpiParser)
    assert status(code) == EXIT.ERROR_EXPLODED.status
    (image,) = outputs["last_sane"].frames.to_atoms(next(iter(outputs["last_sane"].levels)))
    np.testing.assert_allclose(image.positions, atoms.positions, atol=1e-12)
    np.testing.assert_allclose(image.cell.array, atoms.cell.array, atol=1e-12)
    np.testing.assert_allclose(image.get_forces(), forces, atol=1e-12)
    assert image.get_potential_energy() == -3.5


def test_motion_of_the_cell_is_told_where_it_is_known(job):
    write(job, RESTART=restart(20), CELL_FILENAME="# step, eV\n2 1.5e-2\n4 2.0e-2\n8 3.0e-2\n10 4.")
    outputs, code = job.parse(IpiParser)
    assert code is None
    motion = outputs["properties"].get_array("cell_kinetic_energy_eV")
    np.testing.assert_array_equal(motion, [np.nan, 0.015, 0.02, np.nan, 0.03])


def test_temperature_beyond_bounds(job):
    write(job, RESTART=restart(20), PROPERTIES_FILENAME=properties_text([100.0, 100.0, 100.0, 9e4, np.nan]))
    outputs, code = job.parse(IpiParser)
    assert status(code) == EXIT.ERROR_EXPLODED.status
    assert "from step 6 on" in code.message
    assert outputs["trajectory"].frames.steps.tolist() == [0, 4]
    assert len(outputs["properties"].get_array("step")) == 5


@pytest.mark.parametrize(
    "files",
    [
        {"PROPERTIES_FILENAME": properties_text().replace("-2.0", "-2.x")},
        {"POSITIONS_FILENAME": b"\xff" * 400},
        {"POSITIONS_FILENAME": trajectory(STEPS, 3)[0]},
    ],
)
def test_damaged_files(job, files):
    write(job, **files)
    assert status(job.parse(IpiParser)[1]) == EXIT.ERROR_OUTPUT_UNREADABLE.status


def test_cut_files_give_what_is_complete(job):
    text, content = properties_text(), trajectory(STEPS, N_ATOMS)[0]
    write(job, PROPERTIES_FILENAME=text[: len(text) - 30], POSITIONS_FILENAME=content[:-5])
    outputs, code = job.parse(IpiParser)
    assert status(code) == EXIT.ERROR_INTERRUPTED.status
    assert outputs["properties"].get_array("step").tolist() == [0, 2, 4, 6]
    assert outputs["trajectory"].frames.steps.tolist() == [0, 4]


def test_header_of_the_tests_is_that_of_the_input():
    assert [name for name, _ in COLUMNS] == list(PROPERTIES)
