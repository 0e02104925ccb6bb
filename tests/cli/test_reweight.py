"""``reweight`` checks everything before it submits, and says what it will do."""

from __future__ import annotations

import pytest
from aiida import orm
from aiida.common.links import LinkType
from click.testing import CliRunner

from aiida_mlfinetune.cli import main
from tests.workchains.test_reweighting import DFT, NPT, gas_run, make_run  # noqa: F401 - a fixture

OPTIONS = ("--protocol", "demo", "--dry-run")


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["reweight", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def trajectory(make_run):  # noqa: F811
    return make_run(NPT, n=40).store()


def test_a_dry_run_says_what_would_be_labelled_and_submits_nothing(trajectory, python_code):
    chain = orm.WorkChainNode().store()
    trajectory.base.links.add_incoming(chain, LinkType.RETURN, "trajectory")
    before = orm.QueryBuilder().append(orm.ProcessNode).count()
    for given in (trajectory, chain):
        output = run(given.pk, "--level", DFT.key, "--frames", 12, *OPTIONS)
        assert f"12 of 40 frames at {DFT.key}, which has labelled them already" in output
    assert orm.QueryBuilder().append(orm.ProcessNode).count() == before


def test_a_level_that_is_not_there_is_labelled(make_run, python_code):  # noqa: F811
    gas = make_run({"temperature_K": 100.0, "ensemble": "nvt"}, gas_run).store()
    output = run(gas.pk, "--level", "gfn1-xtb-tblite", "--code", python_code.full_label, *OPTIONS)
    assert "15 of 24 frames at gfn1-xtb-tblite, labelled with python" in output
    assert "there is no code 'cp2k@nowhere'" in run(gas.pk, "--level", "pbe-d3", "--code", "cp2k@nowhere", code=1)


def test_what_cannot_be_reweighted_is_refused(trajectory):
    assert "unknown level 'b3lyp'" in run(trajectory.pk, "--level", "b3lyp", *OPTIONS, code=1)
    assert "10" in run(trajectory.pk, "--level", DFT.key, "--frames", 3, *OPTIONS, code=1)
    number = orm.Int(1).store()
    assert "is a Int, not a run nor its trajectory" in run(number.pk, "--level", DFT.key, *OPTIONS, code=1)
    empty = orm.WorkChainNode().store()
    assert "left no trajectory" in run(empty.pk, "--level", DFT.key, *OPTIONS, code=1)
