"""Pilots with real CP2K, tblite and the stand-in for VASP: what they say of the whole set, and the truth."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.common.errors import FramesError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.raw.json_lines import read_json_lines
from aiida_mlfinetune.parsers.raw.timings import cp2k_timing
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.plans.labelling import compositions, make_plan
from aiida_mlfinetune.workchains.labelling.pilot import Labelling, pilot_builder, pilot_costs
from aiida_mlfinetune.workchains.protocols.vasp_levels import load_vasp_level
from tests.fixtures.codes import PREPEND
from tests.fixtures.vasp import FAMILY
from tests.fixtures.waters import two_waters

BUSY = re.compile(r"BUSY wall ([\d.]+) cpu ([\d.]+) ([\d.]+)")
CLOCKED = """#!/bin/bash
TIMEFORMAT='BUSY wall %R cpu %U %S'
time {cp2k} "$@"
"""


def waters(n: int, start: float = 0.0) -> list[Atoms]:
    """Return two waters in a cell, n times, a hydrogen moved a little further in each."""
    images = []
    for shift in start + 0.2 * np.arange(n) / n:
        atoms = two_waters()
        atoms.positions[1, 1] += shift
        images.append(atoms)
    return images


def store(images) -> DatasetData:
    return DatasetData(Frames.from_atoms(images)).store()


def jobs(node: orm.ProcessNode) -> list[orm.CalcJobNode]:
    return [job for job in node.called_descendants if isinstance(job, orm.CalcJobNode)]


@pytest.fixture
def clocked_code(aiida_code_installed, aiida_localhost, tmp_path):
    """Real CP2K, which tells how many seconds it had a core for beside how long it took."""
    script = tmp_path / "cp2k.sh"
    script.write_text(CLOCKED.format(cp2k=shutil.which("cp2k.psmp")))
    script.chmod(0o755)
    return aiida_code_installed(
        label=f"clocked-{tmp_path.name}",
        computer=aiida_localhost,
        default_calc_job_plugin="cp2k",
        filepath_executable=str(script),
        prepend_text=PREPEND,
    )


def text_of(job: orm.CalcJobNode) -> str:
    return job.outputs.retrieved.base.repository.get_object_content("aiida.out")


def told(job: orm.CalcJobNode) -> float:
    """Return the seconds of a job as CP2K accounts them, which leaves out what MPI waits for at its start."""
    timing = cp2k_timing(text_of(job), job.inputs.dataset.n_frames)
    return timing.start_s + timing.first_s + sum(timing.next_s)


def slowness(node: orm.ProcessNode) -> float:
    """Return how many times longer the jobs of a labelling took than they had a core for."""
    clocks = [tuple(map(float, BUSY.search(text_of(job)).groups())) for job in jobs(node)]
    return sum(map(told, jobs(node))) / sum(clock[1] + clock[2] for clock in clocks)


def prediction_and_truth(code, start: float):
    """Return the plan for 20 frames, and the seconds that CP2K says it took for them, job by job.

    The seconds are those of a machine as busy as at the pilot: other work on it may come and go in between.
    """
    data = store(waters(20, start))
    labelling = Labelling(code, "gfn1-xtb", "demo", max_concurrent=1)
    groups = compositions(data.frames)
    _, pilot = run_get_node(pilot_builder(labelling, data, groups))
    assert pilot.is_finished_ok, pilot.exit_message
    assert pilot.inputs.dataset.n_frames == 3
    costs, cores = pilot_costs(pilot, data, groups)
    plan = make_plan(groups, costs, cores=cores, wallclock_s=3600, max_concurrent=1, frames_per_job=10)

    outputs, whole = run_get_node(labelling.builder(data, 10))
    assert outputs["dataset"].n_frames == 20
    timings = [cp2k_timing(text_of(job), 10) for job in jobs(whole)]
    busier = slowness(whole) / slowness(pilot)
    seconds = [told(job) / busier for job in jobs(whole)]
    print(f"{sum(seconds) / plan.wall_s.estimate:.2f} of the estimate, {busier:.2f} times as busy")
    assert max(timing.memory for timing in timings) <= plan.memory.high
    return plan, seconds


def test_twenty_frames_cost_what_the_pilot_says(clocked_code):
    """One repetition is allowed: a machine that changes its pace within a job cannot be corrected for."""
    for start in (0.0, 0.3):
        plan, seconds = prediction_and_truth(clocked_code, start)
        if sum(seconds) in plan.wall_s:
            break
    assert (plan.n_frames, plan.n_jobs, plan.cores, len(seconds)) == (20, 2, 1, 2)
    assert sum(seconds) in plan.wall_s
    assert sum(seconds) / 3600 in plan.core_hours
    # a range that says something
    assert plan.wall_s.high < 3 * plan.wall_s.low


def test_each_composition_gets_a_pilot_and_frames_are_told_apart_in_one_job(python_code):
    images = [*waters(5), *(molecule("H2O") for _ in range(4))]
    for index, atoms in enumerate(images[5:]):
        atoms.positions[1, 1] += 0.05 * index
    data = store(images)
    groups = compositions(data.frames)
    assert [(group.name, len(group.pilot)) for group in groups] == [("H4O2", 3), ("H2O without a cell", 3)]
    labelling = Labelling(python_code, "gfn1-xtb-tblite", "demo")
    _, pilot = run_get_node(pilot_builder(labelling, data, groups))
    (job,) = jobs(pilot)
    assert job.inputs.dataset.n_frames == 6
    (crystal, gas), cores = pilot_costs(pilot, data, groups)
    assert cores == 1
    lines = read_json_lines(job.outputs.retrieved.base.repository.get_object_content("labels.jsonl"))[1:]
    seconds = [line["seconds"] for line in lines]
    assert all(value > 0 for value in seconds)
    assert [line["index"] for line in lines] == list(range(6))
    np.testing.assert_allclose(crystal.next.estimate, np.mean(seconds[1:3]))
    np.testing.assert_allclose(gas.first.estimate, seconds[3])
    np.testing.assert_allclose(gas.next.estimate, np.mean(seconds[4:]))
    # Python, numpy, ASE and tblite come first, and take memory
    assert lines[0]["elapsed_s"] > crystal.start.estimate > 0
    assert crystal.memory.estimate == lines[-1]["peak_memory_MiB"] > 20

    with pytest.raises(StudyError, match=f"labelled no frame of dataset {(other := store(waters(4, 0.5))).pk}"):
        pilot_costs(pilot, other, compositions(other.frames))
    larger = store([*images, *(image * (2, 1, 1) for image in waters(3))])
    with pytest.raises(FramesError, match="says nothing of H8O4"):
        pilot_costs(pilot, larger, compositions(larger.frames))


def test_a_program_that_tells_no_times_is_named(python_code, monkeypatch):
    data = store(waters(3))
    groups = compositions(data.frames)
    _, pilot = run_get_node(pilot_builder(Labelling(python_code, "gfn1-xtb-tblite", "demo"), data, groups))
    (job,) = jobs(pilot)
    text = job.outputs.retrieved.base.repository.get_object_content("labels.jsonl")
    monkeypatch.setattr(
        "aiida_mlfinetune.workchains.labelling.pilot._retrieved", lambda *_: text.replace("seconds", "duration")
    )
    with pytest.raises(StudyError, match=rf"jobs \[{job.pk}\] of the pilot do not tell what their frames cost"):
        pilot_costs(pilot, data, groups)


def test_vasp_takes_one_job_a_frame(vasp, potcars):
    data = store(waters(5))
    groups = compositions(data.frames)
    level = load_vasp_level("kaur2025-vasp", {"potentials": {"family": FAMILY}})
    labelling = Labelling(vasp.code, level, "demo")
    assert labelling.by_vasp
    outputs, pilot = run_get_node(pilot_builder(labelling, data, groups))
    assert pilot.is_finished_ok, pilot.exit_message
    assert outputs["dataset"].n_frames == 3
    (own,), cores = pilot_costs(pilot, data, groups)
    elapsed = [job.outputs.misc["run_stats"]["elapsed_time"] for job in jobs(pilot)]
    assert len(elapsed) == 3
    np.testing.assert_allclose((own.first.low, own.first.high), (min(elapsed), max(elapsed)), rtol=1e-12)
    assert (own.start.high, own.memory.estimate, cores) == (0.0, 10000 / 1024, 1)
    plan = make_plan(groups, [own], cores=1, wallclock_s=3600, max_concurrent=2, frames_per_job=1)
    assert plan.n_jobs == 5
    np.testing.assert_allclose(plan.wall_s.estimate, 3 * np.mean(elapsed))


def test_the_level_of_a_pilot_is_settled_by_the_whole_set(cp2k_code):
    """The smallest cell sets the radius of exact exchange, also if the pilot has not got it."""
    images = waters(5)
    images[0].set_cell(images[0].cell * 0.95)
    data = store(images)
    labelling = Labelling(cp2k_code, "pbe0-admm", "demo")
    builder = pilot_builder(labelling, data, compositions(data.frames))
    assert builder.dataset.n_frames == 3
    assert 0 not in builder.dataset.indices
    assert builder.level.get_dict() == labelling.builder(data, 1).level.get_dict()
    alone = labelling.builder(builder.dataset, 1).level
    assert builder.level["exchange"]["radius_A"] < alone["exchange"]["radius_A"]
