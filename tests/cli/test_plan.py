"""``plan``: the command from a file to a prediction that can be acted on, and what it refuses."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest
from aiida import orm
from ase.io import write
from click.testing import CliRunner

from aiida_mlfinetune.cli import main
from aiida_mlfinetune.cli.plan import scheduler_options
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from tests.fixtures.waters import two_waters


def waters(n: int, start: float = 0.0):
    """Return two waters in a cell, n times, a hydrogen moved a little further in each."""
    images = []
    for shift in start + 0.05 * np.arange(n):
        atoms = two_waters()
        atoms.positions[1, 1] += shift
        images.append(atoms)
    return images


def run(*arguments: object):
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def processes() -> int:
    return orm.QueryBuilder().append(orm.CalcJobNode).count()


@pytest.fixture
def tblite(python_code) -> tuple[str, ...]:
    return ("--level", "gfn1-xtb-tblite", "--code", python_code.full_label)


@pytest.fixture
def frames(aiida_profile) -> DatasetData:
    return DatasetData(Frames.from_atoms(waters(4))).store()


def test_from_a_file_to_a_plan_that_can_be_submitted(tblite, tmp_path: Path, monkeypatch):
    file = tmp_path / "frames.xyz"
    write(file, waters(7), format="extxyz")
    done = run(file, *tblite, "--here", "--max-concurrent", 2, "--wallclock", 0.5, "--threads", 1)
    assert done.exit_code == 0, done.output
    assert "7 frames. Pilot: 3 frames of H4O2." in done.output
    assert "frames per job  4 at most" in done.output
    assert "jobs            2 of 1 core, 2 at a time" in done.output
    for word in ("core hours", "wall time", "longest job", "memory", " to "):
        assert word in done.output
    chain = orm.QueryBuilder().append(orm.WorkChainNode).order_by({orm.WorkChainNode: {"id": "desc"}}).first(flat=True)
    assert f"labels of the pilot are kept, in dataset {chain.outputs.dataset.pk} (process {chain.pk})" in done.output
    assert chain.outputs.dataset.n_frames == 3

    # what it says to do next is valid, and is what was planned for
    submitted = []
    monkeypatch.setattr("aiida.engine.submit", submitted.append)
    code = textwrap.dedent(done.output[done.output.index("  from aiida.engine import submit") :])
    exec(code, {"load_code": orm.load_code, "load_node": orm.load_node})
    (builder,) = submitted
    assert (builder.dataset.n_frames, builder.frames_per_job.value, builder.max_concurrent.value) == (7, 4, 2)
    options = builder.python.metadata.options
    assert (options.max_wallclock_seconds, options.prepend_text) == (1800, "export OMP_NUM_THREADS=1")

    # the same pilot again, for another plan
    count = processes()
    again = run(file, *tblite, "--pilot", chain.pk, "--frames-per-job", 7)
    assert again.exit_code == 0, again.output
    assert "jobs            1 of 1 core, 1 at a time" in again.output
    assert processes() == count
    other = run(file, "--level", "gfn2-xtb-tblite", "--code", tblite[-1], "--pilot", chain.pk)
    assert other.exit_code == 1
    assert "labelled at level 'gfn1-xtb/tblite' with other settings than those asked for" in other.output
    no_labelling = run(file, *tblite, "--pilot", chain.called[0].pk)
    assert no_labelling.exit_code == 1
    assert "not a labelling" in no_labelling.output


def test_a_pilot_that_fails_says_why(python_code, frames):
    broken = run(
        *(frames.pk, "--level", "gfn1-xtb-tblite", "--code", python_code.full_label, "--here"),
        *("--option", "prepend_text=exit 1"),
    )
    assert broken.exit_code == 1
    assert "Error: the pilot failed: AseLabelCalculation batch_0000" in broken.output


def test_what_a_level_was_measured_to_cost_is_said_first(cp2k_code, frames, monkeypatch):
    def stop(*_: object, **__: object):
        raise StudyError("no pilot today")

    monkeypatch.setattr("aiida_mlfinetune.workchains.labelling.pilot.pilot_builder", stop)
    done = run(frames.pk, "--level", "rpa-pbe0", "--code", cp2k_code.full_label)
    assert done.exit_code == 1
    assert "Measured at rpa-pbe0: one water molecule" in done.output
    assert "10 GB" in done.output


# bad input


def refusal(*arguments: object) -> str:
    count = processes()
    done = run(*arguments)
    assert done.exit_code == 1, done.output
    assert done.output.startswith("Error: ")
    assert processes() == count
    return done.output


def test_an_unknown_level(python_code, frames):
    text = refusal(frames.pk, "--level", "b3lyp", "--code", python_code.full_label)
    assert "unknown level 'b3lyp': choose from [" in text
    assert "'gfn1-xtb'" in text
    assert "'kaur2025-vasp'" in text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("987654", "no node '987654' in this profile"),
        ("no-such.xyz", "there is no file no-such.xyz, and a dataset is named by its pk or uuid"),
    ],
)
def test_an_unknown_dataset(tblite, source, message):
    assert message in refusal(source, *tblite)


def test_a_node_that_is_no_dataset(tblite):
    node = orm.Int(3).store()
    assert f"node {node.pk} is a Int, not a dataset" in refusal(node.pk, *tblite)


def test_a_file_that_holds_no_structures(tblite, tmp_path: Path):
    file = tmp_path / "notes.txt"
    file.write_text("nothing of use\n", encoding="utf-8")
    assert "cannot be read as structures" in refusal(file, *tblite)


def test_fewer_than_three_frames(tblite, aiida_profile):
    data = DatasetData(Frames.from_atoms(waters(2))).store()
    assert "holds 2 different frames, and a pilot takes 3" in refusal(data.pk, *tblite)


def test_an_unknown_code(frames):
    assert "there is no code 'cp2k@nowhere'" in refusal(frames.pk, "--level", "gfn1-xtb", "--code", "cp2k@nowhere")


def test_a_code_of_another_program(python_code, frames):
    text = refusal(frames.pk, "--level", "gfn1-xtb", "--code", python_code.full_label)
    assert "is not the right program" in text


def test_a_model_that_is_none(tblite, frames):
    assert "not a model" in refusal(frames.pk, *tblite, "--model", frames.pk)


def test_no_daemon(tblite, frames, monkeypatch):
    from aiida.engine.daemon.client import DaemonClient

    monkeypatch.setattr(DaemonClient, "is_daemon_running", False)
    done = run(frames.pk, *tblite)
    assert done.exit_code == 1
    assert "start it with `verdi daemon start 2`" in done.output


def test_options_of_the_scheduler():
    options = scheduler_options(2.5, 2, 8, 4, ["queue_name=long", "max_memory_kb=1000"])
    assert options == {
        "resources": {"num_machines": 2, "num_mpiprocs_per_machine": 8, "num_cores_per_mpiproc": 4},
        "max_wallclock_seconds": 9000,
        "withmpi": True,
        "prepend_text": "export OMP_NUM_THREADS=4",
        "queue_name": "long",
        "max_memory_kb": 1000,
    }
    with pytest.raises(StudyError, match="'long' is not of the form NAME=VALUE"):
        scheduler_options(1.0, extra=["long"])
