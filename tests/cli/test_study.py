"""A study file is checked strictly, and messages name the offender and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiida_mlfinetune.cli.study import read_study
from aiida_mlfinetune.common.errors import StudyError


def write(folder: Path, text: str) -> Path:
    (folder / "ice.cif").touch()
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_study_of_one_line(tmp_path: Path):
    study = read_study(write(tmp_path, "crystal: ice.cif"))
    assert study.crystal == tmp_path / "ice.cif"
    assert (study.protocol, study.temperature_K, study.label) == (None, None, "ice")
    assert study.code("i-pi") == "i-pi@localhost"


def test_a_full_study(tmp_path: Path):
    text = (
        "crystal: ice.cif\nprotocol: fast\ntemperature_K: 150\npressure_bar: 10.5\nfoundation: 12\nlabel: mine\n"
        "codes: {cp2k: cp2k@cluster}\noverrides: {training: {parameters: {seed: 2}}}\n"
    )
    study = read_study(write(tmp_path, text))
    assert (study.temperature_K, study.pressure_bar, study.foundation) == (150.0, 10.5, "12")
    assert (study.code("cp2k"), study.code("python")) == ("cp2k@cluster", "python@localhost")
    assert study.overrides == {"training": {"parameters": {"seed": 2}}}
    assert study.label == "mine"


def test_a_crystal_of_the_package_is_named(tmp_path: Path):
    study = read_study(write(tmp_path, "crystal: carbon-dioxide"))
    assert (study.crystal, study.label) == ("carbon-dioxide", "carbon-dioxide")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crystal: ice.cif\ntemprature_K: 100", "unknown key 'temprature_K'; did you mean 'temperature_K'"),
        ("crystal: ice.cif\nxyzzy: 1", "unknown key 'xyzzy'; known keys are crystal, protocol"),
        ("crystal: ice.cif\ncodes: {ipi: a@b}", "codes: unknown key 'ipi'; did you mean 'i-pi'"),
        ("protocol: fast", "names no crystal"),
        ("crystal: snow.cif", "there is no file"),
        ("crystal: ice.cif\ntemperature_K: cold", "temperature_K must be a number, got 'cold'"),
        ("crystal: ice.cif\npressure_bar: true", "pressure_bar must be a number, got True"),
        ("crystal: ice.cif\nprotocol: [fast]", "protocol must be a text"),
        ("crystal: ice.cif\noverrides: 3", "overrides must hold keys and values, got 3"),
        ("- crystal", "must hold keys and values"),
        ("crystal: [", "is not valid YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(StudyError) as caught:
        read_study(write(tmp_path, text))
    assert message in str(caught.value)
