"""``aiida-mlfinetune model assess``: from a model to a verdict, and the last verdict again."""

from __future__ import annotations

import pytest
from aiida import orm
from ase.build import molecule
from ase.io import write
from click.testing import CliRunner

from aiida_mlfinetune.cli import main
from aiida_mlfinetune.cli.model_assess import _structure
from tests.calculations.test_ipi import ice_cell


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["model", "assess", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_a_model_is_assessed_and_its_verdict_shown(tiny_model, python_code):
    """On a molecule, which has no volume, and without a run."""
    tiny_model.store()
    gas = orm.StructureData(ase=molecule("H2O")).store()
    arguments = ("--crystal", gas.pk, "--python", python_code.full_label, "--no-run", "--here", "--protocol", "demo")
    output = run(tiny_model.pk, *arguments)
    assert "isolated atom" in output
    assert "Not checked: volume, as the structure is not periodic" in output
    assert "Not checked: parity, as no test frames were given" in output
    assert "Not checked: nvt, as no run was asked for" in output
    assert "Next: aiida-mlfinetune report" in output
    count = orm.QueryBuilder().append(orm.ProcessNode).count()
    shown = run(tiny_model.pk)
    assert "isolated atom" in shown
    assert orm.QueryBuilder().append(orm.ProcessNode).count() == count


def test_a_crystal_is_a_file_a_name_or_a_node(aiida_profile, tmp_path):
    path = tmp_path / "ice.cif"
    write(path, ice_cell())
    stored = orm.StructureData(ase=ice_cell()).store()
    for source in (str(path), str(stored.pk)):
        assert _structure(source).get_formula() == "H4O2"
    assert _structure("ice-xi").get_formula() == "H16O8"


@pytest.mark.usefixtures("aiida_profile_clean")
def test_what_cannot_be_assessed_is_refused(tiny_model, python_code):
    tiny_model.store()
    assert "has not been assessed: say on which crystal" in run(tiny_model.pk, code=1)
    number = orm.Int(1).store()
    assert "is a Int, not a model" in run(number.pk, code=1)
    crystal = ("--crystal", "ice-xi")
    assert "there is no code 'none@nowhere'" in run(tiny_model.pk, *crystal, "--python", "none@nowhere", code=1)
    structure = ("--crystal", number.pk, "--python", python_code.full_label, "--no-run")
    assert "is a Int, not a structure" in run(tiny_model.pk, *structure, code=1)
