"""``run`` turns a study into a builder, and refuses what cannot be, before anything is submitted."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiida import orm
from ase.build import molecule
from ase.io import write
from click.testing import CliRunner

from aiida_mlfinetune.cli import main
from aiida_mlfinetune.cli.build import read_crystal, study_builder
from aiida_mlfinetune.cli.study import Study
from aiida_mlfinetune.common.errors import MoleculesError, StudyError
from aiida_mlfinetune.science.crystals.crystals import ammonia

SCRATCH = {"foundation": None}


@pytest.fixture
def codes(cp2k_code, python_code, ipi_code) -> dict[str, str]:
    return {"cp2k": cp2k_code.full_label, "python": python_code.full_label, "i-pi": ipi_code.full_label}


@pytest.fixture
def crystal(tmp_path: Path) -> Path:
    path = tmp_path / "ammonia.cif"
    write(path, ammonia())
    return path


def test_a_study_becomes_a_builder(codes, crystal: Path):
    study = Study(
        crystal, protocol="demo", temperature_K=80.0, pressure_bar=5.0, codes=codes, overrides=SCRATCH, label="mine"
    )
    builder = study_builder(study)
    assert builder.metadata.label == "mine"
    assert builder.crystal.get_formula() == "H12N4"
    assert builder.dynamics_crystal.parameters["temperature_K"] == 80.0
    assert builder.dynamics_crystal.parameters["pressure_bar"] == 5.0
    assert builder.sampling_gas.md["temperature_K"] == 80.0
    assert builder.foundation is None


def test_a_model_may_sample(codes):
    builder = study_builder(Study("ice-xi", protocol="demo", codes=codes, sampling_model="ice-xtb"))
    assert builder.sampling_model.sha256 == builder.foundation.sha256
    assert builder.model_sampling_gas.dynamics.parameters["ensemble"] == "nvt"


def test_overrides_reach_the_stage_they_are_for(codes):
    overrides = {**SCRATCH, "dynamics_gas": {"parameters": {"n_steps": 77}}}
    builder = study_builder(Study("ammonia", protocol="demo", codes=codes, overrides=overrides))
    assert builder.dynamics_gas.parameters["n_steps"] == 77
    assert builder.dynamics_crystal.parameters["n_steps"] != 77


@pytest.mark.parametrize(
    "overrides", [{"dynamic_gas": {}}, {"dynamics_gas": {"parameters": {"nsteps": 7}}}], ids=["stage", "parameter"]
)
def test_a_misspelt_override_is_refused(codes, overrides):
    with pytest.raises(StudyError, match=r"dynamic_gas|nsteps"):
        study_builder(Study("ammonia", protocol="demo", codes=codes, overrides={**SCRATCH, **overrides}))


def test_an_unknown_protocol_is_refused(codes):
    with pytest.raises(StudyError, match="quick"):
        study_builder(Study("ammonia", protocol="quick", codes=codes, overrides=SCRATCH))


def test_a_code_that_is_not_there_is_named(codes):
    with pytest.raises(StudyError, match=r"no code 'i-pi@nowhere' for i-pi: run `aiida-mlfinetune setup`"):
        study_builder(Study("ammonia", protocol="demo", codes={**codes, "i-pi": "i-pi@nowhere"}))


@pytest.mark.parametrize("name", ["no-such-model", "999999"])
def test_an_unknown_foundation_is_refused(codes, name: str):
    with pytest.raises(StudyError, match="unknown foundation"):
        study_builder(Study("ammonia", protocol="demo", codes=codes, foundation=name))


def test_a_foundation_that_is_no_model_is_refused(codes):
    node = orm.Int(3).store()
    with pytest.raises(StudyError, match="is no MACE model"):
        study_builder(Study("ammonia", protocol="demo", codes=codes, foundation=str(node.pk)))


def test_a_cut_molecule_is_refused(codes, tmp_path: Path):
    atoms = ammonia()
    del atoms[-1]
    write(tmp_path / "cut.cif", atoms)
    with pytest.raises(MoleculesError):
        study_builder(Study(tmp_path / "cut.cif", protocol="demo", codes=codes, overrides=SCRATCH))


def test_a_molecule_is_no_crystal(tmp_path: Path):
    write(tmp_path / "water.xyz", molecule("H2O"))
    with pytest.raises(StudyError, match="holds no crystal"):
        read_crystal(tmp_path / "water.xyz")


def test_a_file_that_is_no_structure_is_refused(tmp_path: Path):
    (tmp_path / "notes.cif").write_text("nothing of use\n", encoding="utf-8")
    with pytest.raises(StudyError, match="cannot be read as a structure"):
        read_crystal(tmp_path / "notes.cif")


def test_dry_run_checks_and_describes_but_submits_nothing(codes, crystal: Path):
    path = crystal.with_name("study.yaml")
    lines = "".join(f"  {program}: {label}\n" for program, label in codes.items())
    path.write_text(
        f"crystal: ammonia.cif\nprotocol: demo\noverrides: {{foundation: null}}\ncodes:\n{lines}", encoding="utf-8"
    )
    before = orm.QueryBuilder().append(orm.ProcessNode).count()
    result = CliRunner().invoke(main, ["run", str(path), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "crystal of 4 x H3N" in result.output
    assert orm.QueryBuilder().append(orm.ProcessNode).count() == before


def test_a_misspelt_key_is_refused(codes, crystal: Path):
    path = crystal.with_name("study.yaml")
    path.write_text("crystal: ammonia.cif\ntemprature_K: 3\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["run", str(path)])
    assert result.exit_code == 1
    assert "did you mean 'temperature_K'" in result.output
