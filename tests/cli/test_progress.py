"""The tree of a run: states, progress of running jobs read from their folders, and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiida import orm
from aiida.common.datastructures import CalcJobState
from aiida.schedulers import JobState
from click.testing import CliRunner
from plumpy import ProcessState
from rich.console import Console

from aiida_mlfinetune.cli import main
from aiida_mlfinetune.cli.display import duration, failure, summary
from aiida_mlfinetune.cli.progress import ProcessView, State, Watcher
from aiida_mlfinetune.cli.running import RunningJobs
from aiida_mlfinetune.cli.status import follow
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.raw.progress import Progress
from tests.report import synthetic

ENER = "#  Step  Time\n   0  0.0\n   {step}  {step}.0\n"


def shown(view) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(summary(view))
    return console.export_text()


@pytest.fixture(scope="module")
def ended(aiida_profile):
    return synthetic.sublimation()


@pytest.fixture
def running(aiida_profile, aiida_localhost, tmp_path: Path):
    """A labelling of eight frames of which a job with five is running, in a folder that the test fills."""
    dataset = DatasetData(synthetic.frames(8, ()))
    chain = synthetic.process(
        orm.WorkChainNode,
        "LabellingWorkChain",
        inputs={"dataset": dataset},
        type_="aiida.workflows:mlfinetune.labelling",
    )
    chain.set_process_state(ProcessState.WAITING)
    job = orm.CalcJobNode(computer=aiida_localhost, process_type="aiida.calculations:mlfinetune.cp2k_label")
    job.set_process_label("Cp2kLabelCalculation")
    part = DatasetData(dataset.frames.select(range(5))).store()
    job.base.links.add_incoming(part, synthetic.LinkType.INPUT_CALC, "dataset")
    job.base.links.add_incoming(chain, synthetic.LinkType.CALL_CALC, "batch_1")
    job.set_remote_workdir(str(tmp_path))
    job.set_process_state(ProcessState.WAITING)
    job.set_state(CalcJobState.WITHSCHEDULER)
    job.set_scheduler_state(JobState.RUNNING)
    job.store()
    return chain, job, tmp_path


def test_an_ended_run_is_shown_whole(ended):
    with RunningJobs() as jobs:
        view = Watcher(jobs).view(ended.top)
    assert view.state is State.DONE
    assert [child.role for child in view.children] == [
        "sampling_crystal",
        "labelling_crystal",
        "training",
        "dynamics_crystal",
    ]
    assert [job.name for job in view.jobs()] == [
        "Cp2kMdCalculation",
        "Cp2kLabelCalculation",
        "MaceTrainCalculation",
        "IpiCalculation",
    ]
    text = shown(view)
    assert f"✓ Cp2kLabel batch_0 <{ended.label_job.pk}>  4 of 4 frames" in text
    assert "4 of 4 calculations so far are done" in text


def test_frames_of_a_running_job_are_counted_in_its_folder(running):
    chain, job, folder = running
    (folder / "aiida-1.ener").write_text(ENER.format(step=2), encoding="utf-8")
    with RunningJobs() as jobs:
        watcher = Watcher(jobs)
        view = watcher.view(chain)
        assert view.progress == Progress(2, 8, "frames")
        assert view.children[0].progress == Progress(2, 5, "frames")
        assert view.children[0].state is State.RUNNING
        assert view.children[0].seconds_left == pytest.approx(1.5 * view.children[0].elapsed)
        (folder / "aiida-1.ener").write_text(ENER.format(step=4), encoding="utf-8")
        text = shown(watcher.view(chain))
    assert f"▸ Cp2kLabel batch_1 <{job.pk}>" in text
    assert "4 of 5 frames" in text
    assert "left" in text


def test_a_job_that_has_not_written_anything_has_no_progress(running):
    chain, _, _ = running
    with RunningJobs() as jobs:
        view = Watcher(jobs).view(chain)
    assert view.children[0].progress is None
    assert view.progress == Progress(0, 8, "frames")


def test_a_queued_job_waits(running):
    chain, job, _ = running
    job.set_scheduler_state(JobState.QUEUED)
    with RunningJobs() as jobs:
        assert Watcher(jobs).view(chain).children[0].state is State.QUEUED


def test_epochs_of_a_training_are_read_with_their_total(aiida_profile, aiida_localhost, tmp_path: Path):
    job = orm.CalcJobNode(computer=aiida_localhost)
    job.set_process_label("MaceTrainCalculation")
    job.set_remote_workdir(str(tmp_path))
    job.store()
    (tmp_path / "progress.json").write_text(json.dumps({"epoch": 6, "max_num_epochs": 40}), encoding="utf-8")
    with RunningJobs() as jobs:
        assert jobs.progress(job) == Progress(7, 40, "epochs")


def test_a_failed_run_says_why(aiida_profile):
    node = synthetic.sublimation(failed=True).top
    with RunningJobs() as jobs:
        view = Watcher(jobs).view(node)
    assert view.state is State.FAILED
    assert "[401] the training failed & stopped" in shown(view)
    assert failure(view) == (
        f"SublimationWorkChain <{node.pk}> failed: [401] the training failed & stopped. "
        f"`verdi process report {node.pk}` tells more"
    )


def test_the_innermost_failure_is_named():
    job = ProcessView(3, "IpiCalculation", "iteration_01", State.FAILED, "[330] exploded.", 1.0, None, None, True)
    retried = ProcessView(2, "DynamicsWorkChain", "dynamics_gas", State.DONE, "", 1.0, None, None, False, (job,))
    chain = ProcessView(
        4, "DynamicsWorkChain", "dynamics_crystal", State.FAILED, "[401]", 1.0, None, None, False, (job,)
    )
    top = ProcessView(1, "SublimationWorkChain", "", State.FAILED, "[353]", 1.0, None, None, False, (retried, chain))
    assert retried.first_failure() is None
    assert failure(top).startswith("IpiCalculation iteration_01 <3> failed: [330] exploded. `verdi")


def test_a_finished_subtree_stays_as_it_was(ended):
    with RunningJobs() as jobs:
        watcher = Watcher(jobs)
        assert watcher.view(ended.top) is watcher.view(ended.top)


def test_status_command_shows_the_run_of_a_result(ended):
    result = CliRunner().invoke(main, ["status", str(ended.density.pk)])
    assert result.exit_code == 0
    assert f"Sublimation <{ended.top.pk}>" in result.output


def test_following_without_a_terminal_prints_each_job_once(ended):
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    follow(ended.top, console, interval=0.01)
    lines = console.export_text().splitlines()
    assert [line.split(" <")[0] for line in lines] == [
        "Cp2kMdCalculation",
        "Cp2kLabelCalculation",
        "MaceTrainCalculation",
        "IpiCalculation",
    ]


@pytest.mark.parametrize("command", ["status", "report"])
def test_an_unknown_number_is_refused(aiida_profile, command: str):
    result = CliRunner().invoke(main, [command, "999999"])
    assert result.exit_code == 1
    assert "no node '999999' in this profile" in result.output


def test_data_that_no_process_made_is_refused(aiida_profile):
    result = CliRunner().invoke(main, ["status", str(orm.Int(1).store().pk)])
    assert result.exit_code == 1
    assert "data that no process made" in result.output


def test_report_command_writes_one_page(ended, tmp_path: Path):
    path = tmp_path / "page.html"
    result = CliRunner().invoke(main, ["report", str(ended.top.pk), "-o", str(path)])
    assert result.exit_code == 0
    assert str(path) in result.output
    assert "58.31 ± 0.42" in path.read_text(encoding="utf-8")


def test_report_into_a_folder_that_is_not_there_is_refused(ended, tmp_path: Path):
    result = CliRunner().invoke(main, ["report", str(ended.top.pk), "-o", str(tmp_path / "no" / "page.html")])
    assert result.exit_code == 1
    assert "there is no folder" in result.output


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.4, "7 s"), (185, "3 min 05 s"), (59.7, "1 min 00 s"), (7500, "2 h 05 min")]
)
def test_durations_in_words(seconds: float, text: str):
    assert duration(seconds) == text
