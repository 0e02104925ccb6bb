"""``aiida-mlfinetune model``: show and import."""

from __future__ import annotations

import re

import pytest
from aiida import orm
from click.testing import CliRunner

from aiida_mlfinetune.cli import main
from aiida_mlfinetune.data import foundations
from aiida_mlfinetune.data.foundations import Foundation
from aiida_mlfinetune.data.model import MaceModelData

pytestmark = pytest.mark.usefixtures("aiida_profile_clean")


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["model", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_an_unknown_file_is_refused_unless_trusted(tiny_model_file):
    output = run("import", tiny_model_file, code=1)
    assert "not that of a known foundation" in output
    assert "--trust" in output
    assert orm.QueryBuilder().append(MaceModelData).count() == 0
    output = run("import", tiny_model_file, "--trust", "--level", "gfn1-xtb/cp2k", "--label", "mine")
    node = orm.load_node(int(re.search(r"Model (\d+):", output).group(1)))
    assert node.label == "mine"
    assert node.passport.levels == {"Default": "gfn1-xtb/cp2k"}


def test_levels_are_given_by_head(tiny_model_file):
    run("import", tiny_model_file, "--trust", "--level", "Default=pbe/vasp")
    assert orm.QueryBuilder().append(MaceModelData).first(flat=True).passport.levels == {"Default": "pbe/vasp"}
    assert "names no head" in run("import", tiny_model_file, "--trust", "--level", "pbe/vasp", "--level", "a=b", code=2)
    assert "that the model lacks" in run("import", tiny_model_file, "--trust", "--level", "other=pbe/vasp", code=1)


def test_the_passport_of_a_node_is_shown(tiny_model):
    tiny_model.store()
    output = run("show", tiny_model.pk)
    for text in (
        tiny_model.sha256,
        "ScaleShiftMACE",
        "cutoff 3.5 angstrom",
        "gfn1-xtb/cp2k",
        "-102.712388",
        "imported",
    ):
        assert text in output


def test_a_foundation_is_shown_by_its_name(tiny_model, tiny_model_file, monkeypatch):
    entry = Foundation("tiny", tiny_model_file, tiny_model.passport, "MIT")
    monkeypatch.setitem(foundations.FOUNDATIONS, "tiny", entry)
    assert "Foundation tiny, licence MIT" in run("show", "tiny")
    assert orm.QueryBuilder().append(MaceModelData).count() == 0


def test_what_is_no_model_is_refused():
    assert "no foundation 'huge' is known" in run("show", "huge", code=1)
    number = orm.Int(1).store()
    assert "is a Int, not a model" in run("show", number.pk, code=1)
    assert "no node '99999'" in run("show", 99999, code=1)


@pytest.mark.parametrize("command", [[], ["import"], ["show"]])
def test_help_tells_what_to_do_next(command):
    output = run(*command, "--help")
    assert "Next:" in output or "New here?" in output
