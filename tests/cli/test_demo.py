"""What the demo does around the run: find an interrupted one, print results, say what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiida import orm
from click.testing import CliRunner
from plumpy import ProcessState
from rich.console import Console

from aiida_mlfinetune.cli import main, programs
from aiida_mlfinetune.cli.demo import LABEL, show_results, unfinished
from tests.report import synthetic


def test_a_finished_run_is_summed_up(aiida_profile):
    node = synthetic.sublimation().top
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    show_results(node, console, Path("/somewhere/report.html"), 125.0)
    lines = console.export_text().splitlines()
    assert lines == [
        "",
        "density = 0.9942 +- 0.0031 g/cm^3",
        "sublimation_enthalpy = 58.31 +- 0.42 kJ/mol",
        "Errors are those of averages over time with this model; how far it is from its labels stands in the report.",
        "4 calculations run, 0 answered from cache; 2 min 05 s",
        "Report: /somewhere/report.html",
    ]


def test_an_interrupted_demo_is_found_and_an_ended_one_is_not(aiida_profile_clean):
    assert unfinished() is None
    ended, other, waiting = (orm.WorkChainNode(label=label) for label in (LABEL, "mine", LABEL))
    ended.set_process_state(ProcessState.FINISHED)
    other.set_process_state(ProcessState.WAITING)
    waiting.set_process_state(ProcessState.WAITING)
    for node in (ended, other, waiting):
        node.store()
    assert unfinished() == waiting


def test_missing_programs_end_the_demo_with_the_remedy(bare_profile, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(programs.shutil, "which", lambda _: None)
    monkeypatch.setattr(programs.sys, "executable", "/nowhere/python")
    monkeypatch.setenv("AIIDA_PATH", "")
    result = CliRunner().invoke(main, ["demo", "--folder", str(tmp_path)])
    assert result.exit_code == 1
    assert "install it (Debian: `apt-get install cp2k cp2k-data`)" in " ".join(result.output.split())
    assert "programs are missing: cp2k, i-pi" in result.output


@pytest.mark.parametrize("workers", ["0", "two"])
def test_a_bad_number_of_workers_is_refused(workers: str):
    assert CliRunner().invoke(main, ["demo", "--workers", workers]).exit_code == 2
