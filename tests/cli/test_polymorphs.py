"""A study file with several crystals: what it says, what is refused, and the plan that a dry run prints."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from aiida import orm
from click.testing import CliRunner

from aiida_mlfinetune.cli import main
from aiida_mlfinetune.cli.build import study_builder
from aiida_mlfinetune.cli.polymorphs import PolymorphStudy
from aiida_mlfinetune.cli.study import read_study
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.crystals.ices import IceSpec
from tests.fixtures.study import made_up_model
from tests.fixtures.vasp import upload_family

STUDIES = Path(__file__).parents[2] / "studies"


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_crystals_are_files_names_and_ices(tmp_path: Path):
    (tmp_path / "mine.cif").touch()
    study = read_study(
        write(tmp_path, "crystals: {ice-ic: ice-ic, ice-vi: {ice: VI, repeat: [1, 1, 2], seed: 4}, a: mine.cif}")
    )
    assert isinstance(study, PolymorphStudy)
    assert study.crystals == {
        "ice_ic": "ice-ic",
        "ice_vi": IceSpec("VI", (1, 1, 2), 4),
        "a": tmp_path / "mine.cif",
    }
    assert study.label == "study"


def test_crystals_in_a_list_name_themselves(tmp_path: Path):
    study = read_study(write(tmp_path, "crystals: [ice-ic, {ice: IX}]"))
    assert list(study.crystals) == ["ice_ic", "ice_ix"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crystals: [ice-ic]\nmode: [naive]", "unknown key 'mode'; did you mean 'modes'"),
        ("crystals: {ice-ic: ice-ic, ice_ic: ice-xi}", "two crystals are called 'ice_ic'"),
        ("crystals: {a: ice-ic, a: ice-xi}", "the name 'a' is there twice"),
        ("crystals: [ice-ic, ice-ic]", "two crystals are called 'ice-ic'"),
        ("crystals: {a: {ice: Iq}}", "there is no ice 'Iq' to be built: choose from"),
        ("crystals: {a: {ice: Ih, repeats: 2}}", "unknown key 'repeats'; did you mean 'repeat'"),
        ("crystals: {a: {ice: Ih, repeat: [1, 0, 1]}}", "make no cell"),
        ("crystals: {a: {ice: Ih, repeat: 2}}", "give three positive numbers"),
        ("crystals: {a: snow.cif}", "there is no file"),
        ("crystals: []", "crystals must list names"),
        ("crystals: {a: 3}", "give a file, a name or"),
        ("crystals: [ice-ic]\nlevels: {referense: x}", "did you mean 'reference'"),
        ("crystals: [ice-ic]\nlevels: {upgrade: revpbe-d3}", "an upgrade needs its level"),
        ("crystals: [ice-ic]\nlevels: {sampling: 3}", "give the name of a level, got 3"),
        ("crystals: [ice-ic]\npool: maybe", "pool must be true or false"),
        ("crystals: [ice-ic]\nruns: {a-b: {crystal: {}}, a_b: {crystal: {}}}", "two runs are called 'a_b'"),
        ("crystals: [ice-ic]\nruns: {a: {cristal: {}}}", "did you mean 'crystal'"),
        ("crystals: [ice-ic]\nruns: {a: 3}", "say what changes"),
        ("crystals: [ice-ic]\nruns: {a: {crystal: 3}}", "give names and values of the run's parameters"),
        ("crystals: [ice-ic]\nseeds: 3", "seeds must list numbers"),
        ("crystals: [ice-ic]\ncodes: {vaps: a@b}", "did you mean 'vasp'"),
        ("crystals: [ice-ic]\nexperiment: {ice-ic: {densty: 1}}", "did you mean 'density'"),
        (
            "crystals: [ice-ic, {ice: IX}]\nexperiment: {ice-ci: {density: 1}}",
            "experiment, ice-ci: there is no such crystal; the study has ice_ic, ice_ix",
        ),
        ("crystals: [ice-ic]\nexperiment: {ice-ic: {density: 0.9}, ice_ic: {density: 1}}", "'ice_ic' is there twice"),
        ("crystals: [ice-ic]\nexperiment: {ice-ic: 0.9}", "give `density` and others"),
        ("crystals: [ice-ic]\nexperiment: {ice-ic: {density: '0.9'}}", "density must be a number, got '0.9'"),
        ("crystals: [ice-ic]\nexperiment: {ice-ic: {density: true}}", "density must be a number, got True"),
        ("crystals: [ice-ic]\nexperiment: {ice-ic: {density: .nan}}", "density must be a number, got nan"),
        (
            "crystals: [ice-ic]\nexperiment: {ice-ic: {sublimation_enthalpy: [59]}}",
            "sublimation_enthalpy must be a number, got [59]",
        ),
        ("crystals: [ice-ic]\nexperiment: {ice-ic: {source: 1968}}", "source must be a text, got 1968"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(StudyError) as caught:
        read_study(write(tmp_path, text))
    assert message in str(caught.value)


@pytest.fixture
def codes(cp2k_code, python_code, ipi_code) -> dict[str, str]:
    return {"cp2k": cp2k_code.full_label, "python": python_code.full_label, "i-pi": ipi_code.full_label}


def dry_run(folder: Path, study: dict) -> str:
    path = write(folder, yaml.safe_dump(study))
    result = CliRunner().invoke(main, ["run", str(path), "--dry-run"])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_dry_run_of_ice_mini_prints_the_plan_and_submits_nothing(codes, tmp_path: Path):
    study = yaml.safe_load((STUDIES / "ice-mini.yaml").read_text(encoding="utf-8"))
    before = orm.QueryBuilder().append(orm.ProcessNode).count()
    text = dry_run(tmp_path, {**study, "codes": codes})
    assert orm.QueryBuilder().append(orm.ProcessNode).count() == before
    assert "2 crystals of H2O: ice_ic (8 molecules), ice_ix (12 molecules)" in text
    assert "110 frames at revpbe-d3-demo/cp2k" in text
    assert "6 trainings: naive, scratch; on 20, 40, 80 of 110 frames; seeds 1; one set for all" in text
    assert "8 beads" in text
    assert "200 labels" in text


def test_the_study_of_kaur_builds_and_its_plan_says_what_it_takes(codes, vasp, tmp_path: Path):
    study = yaml.safe_load((STUDIES / "kaur2025.yaml").read_text(encoding="utf-8"))
    upload_family(tmp_path / "potcars", "PBE.54")
    model = made_up_model().store()
    text = dry_run(tmp_path, {**study, "codes": {**codes, "vasp": vasp.code.full_label}, "foundation": model.uuid})
    assert "ice_ih (128 molecules), ice_ii (96 molecules), ice_vi (80 molecules), ice_viii (80 molecules)" in text
    assert "10000 steps of 0.5 fs, npt-isotropic, 100.0 K, at revpbe-d3/cp2k" in text
    assert "3000 frames at revpbe-d3/vasp" in text
    assert (
        "48 trainings: naive, scratch; on 150, 300, 480, 600, 960, 1200 of 1500 frames; seeds 1; a set for each" in text
    )
    assert "100000 steps of 0.5 fs, npt-flexible, 100.0 K, with each of 12 models of a set" in text
    assert "100 frames of each run of the production model at revpbe-d3/vasp" in text
    assert "75 frames of ice_ih, 150 frames of gas, at rpa-pbe0/cp2k" in text
    assert "not known: labelling, reweighting" in text


def test_a_level_that_no_code_can_do_is_refused(codes, tmp_path: Path):
    path = write(
        tmp_path,
        yaml.safe_dump(
            {"crystals": ["ice-ic"], "codes": {**codes, "vasp": "vasp@nowhere"}, "levels": {"reference": "pbe-d3-vasp"}}
        ),
    )
    result = CliRunner().invoke(main, ["run", str(path), "--dry-run"])
    assert result.exit_code == 1
    assert "there is no code 'vasp@nowhere' for vasp" in result.output


@pytest.mark.parametrize(
    ("levels", "overrides", "message"),
    [
        (
            {"reference": "revpbe-d3"},
            {"labelling": {"level": "gfn1-xtb"}},
            "levels.reference is 'revpbe-d3', but overrides.labelling.level is 'gfn1-xtb': give it once",
        ),
        (
            {"reference": {"teacher": "ice-xtb"}},
            {"labelling": {"level": "gfn1-xtb"}},
            "levels.reference is 'mace', but overrides.labelling.level is 'gfn1-xtb'",
        ),
        (
            {"sampling": "revpbe-d3"},
            {"sampling_gas": {"level": "gfn1-xtb"}},
            "levels.sampling is 'revpbe-d3', but overrides.sampling_gas.level is 'gfn1-xtb'",
        ),
        (
            {"sampling": {"model": "ice-xtb"}},
            {"sampling_model": "another"},
            "levels.sampling.model is 'ice-xtb', but overrides.sampling_model is 'another'",
        ),
        (
            {"reference": "revpbe-d3"},
            {"reweighting": {"labelling": {"level": "gfn1-xtb"}}},
            "reweighting.labelling has {'level': 'gfn1-xtb'}, but the reference is the level of the labels",
        ),
        (
            {},
            {"reweighting": {"labelling": {"level_overrides": {"key": "mine"}}}},
            "give it once, as labelling.level, or levels.reference in a study file",
        ),
    ],
)
def test_a_level_that_is_given_twice_is_refused(codes, tmp_path: Path, levels, overrides, message):
    study = {"crystals": ["ice-ic"], "protocol": "demo", "codes": codes, "levels": levels, "overrides": overrides}
    with pytest.raises(StudyError) as caught:
        study_builder(read_study(write(tmp_path, yaml.safe_dump(study))))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "overrides", "message"),
    [
        ({"modes": ["naive"]}, {"modes": ["scratch"]}, "modes is ['naive'], but overrides.modes is ['scratch']"),
        ({"pool": True}, {"pool": False}, "pool is True, but overrides.pool is False"),
        ({"foundation": "ice-xtb"}, {"foundation": "mace-mp-0a"}, "foundation is 'ice-xtb', but overrides.foundation"),
        ({"seeds": [1]}, {"learning_curve": {"seeds": [2]}}, "seeds is [1], but overrides.learning_curve.seeds is [2]"),
        (
            {"sizes": [20]},
            {"learning_curve": {"split": {"train": [40]}}},
            "sizes is [20], but overrides.learning_curve.split.train is [40]",
        ),
        (
            {"target": {"density_percent": 1.0}},
            {"target": {"density_percent": 2.0}},
            "target.density_percent is 1.0, but overrides.target.density_percent is 2.0",
        ),
    ],
)
def test_what_is_given_twice_is_refused(codes, tmp_path: Path, entries, overrides, message):
    study = {"crystals": ["ice-ic"], "protocol": "demo", "codes": codes, "overrides": overrides, **entries}
    with pytest.raises(StudyError) as caught:
        study_builder(read_study(write(tmp_path, yaml.safe_dump(study))))
    assert message in str(caught.value)


def test_the_same_level_may_be_given_twice(codes, tmp_path: Path):
    same = {"level": "revpbe-d3"}
    overrides = {"labelling": {**same, "frames_per_job": 7}, "reweighting": {"labelling": same}}
    study = {"crystals": ["ice-ic"], "codes": codes, "levels": {"reference": "revpbe-d3"}, "overrides": overrides}
    builder = study_builder(read_study(write(tmp_path, yaml.safe_dump({**study, "protocol": "demo"}))))
    assert builder.labelling.level["key"] == builder.reweighting.labelling.level["key"] == "revpbe-d3/cp2k"
    assert builder.reweighting.labelling.frames_per_job == 7


def test_a_model_may_play_the_reference(codes, tmp_path: Path):
    text = dry_run(
        tmp_path,
        {
            "crystals": ["ice-ic"],
            "protocol": "demo",
            "codes": codes,
            "levels": {"reference": {"teacher": "ice-xtb"}, "sampling": "gfn1-xtb"},
            "modes": ["naive"],
        },
    )
    assert "40 frames at ice-xtb/mace" in text
    assert "not known" not in text


def test_a_model_may_sample_and_then_cp2k_is_not_asked_for(codes, tmp_path: Path):
    text = dry_run(
        tmp_path,
        {
            "crystals": ["ice-ic"],
            "protocol": "demo",
            "codes": {name: label for name, label in codes.items() if name != "cp2k"},
            "levels": {"reference": {"teacher": "ice-xtb"}, "sampling": {"model": "ice-xtb"}},
            "modes": ["naive"],
        },
    )
    assert "with the sampling model; 20 frames of gas, 20 frames of ice_ic" in text
    with pytest.raises(StudyError, match=r"levels, sampling: name the model, as `\{model: ice-xtb\}`"):
        read_study(write(tmp_path, "crystals: [ice-ic]\nlevels: {sampling: {model: }}"))
