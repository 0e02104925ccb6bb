"""The table of official models says what the sources of MACE say."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from ase.data import chemical_symbols

import aiida_mlfinetune
from aiida_mlfinetune.common.errors import ModelError
from aiida_mlfinetune.science.models.official import read_official_models

PATH = Path(aiida_mlfinetune.__file__).parent / "foundations" / "official.yaml"
TABLE = read_official_models(PATH)
entries = pytest.mark.parametrize("model", TABLE.values(), ids=TABLE)


@pytest.fixture(scope="module")
def mace_sources() -> tuple[str, str]:
    """Source text of the table of the installed MACE, and its README."""
    package = distribution("mace-torch")
    found = next(file for file in package.files or [] if file.name == "foundations_models.py")
    return Path(found.locate()).read_text(encoding="utf-8"), package.read_text("METADATA") or ""


@entries
def test_every_address_is_one_that_mace_names(model, mace_sources):
    source, readme = mace_sources
    assert model.url in source or model.url in readme
    assert model.url.startswith(("https://github.com/ACEsuit/", "https://raw.githubusercontent.com/ACEsuit/"))
    if model.mace_name:
        assert f'"{model.mace_name}": "{model.url}"' in source


def test_every_name_of_mace_mp_is_in_the_table(mace_sources):
    table = re.search(r"mace_mp_urls = \{(.*?)\}", mace_sources[0], re.DOTALL).group(1)
    assert set(re.findall(r'"([^"]+)": "https', table)) == {model.mace_name for model in TABLE.values()} - {""}


@entries
def test_licences_are_those_of_the_readme(model, mace_sources):
    title = model.title.rsplit(" ", 1)[0]
    rows = [
        line
        for line in mace_sources[1].splitlines()
        if line.startswith(f"| {title.replace('MACE-MH', 'MACE-MH-0/1')} ")
    ]
    if rows:
        assert rows[0].rstrip(" |").rsplit("|", 1)[-1].strip() == model.licence.name


def test_only_the_mit_licence_needs_no_consent():
    assert {model.licence.name for model in TABLE.values() if not model.licence.commercial} == {"ASL"}
    assert all(TABLE[name].licence.name == "ASL" for name in ("mace-off23-medium", "mace-omat-0-medium", "mace-mh-1"))
    assert TABLE["mace-mpa-0-medium"].licence.name == "MIT"


@entries
def test_elements_and_checksums_are_stated_in_full_or_not_at_all(model):
    assert set(model.elements) <= set(chemical_symbols[1:])
    assert len(set(model.elements)) in (0, model.n_elements)
    assert len(model.sha256) in (0, 64)
    assert model.filename.endswith(".model")
    assert model.references


def test_models_that_the_field_starts_from_are_there():
    sizes = {f"mace-mp-0-{size}" for size in ("small", "medium", "large")}
    others = {"mace-mp-0b3-medium", "mace-mpa-0-medium", "mace-matpes-r2scan-0-medium", "mace-off23-large", "mace-mh-1"}
    assert sizes | others <= set(TABLE)


def test_the_level_of_a_file_with_one_head_is_that_of_its_head():
    model = TABLE["mace-mp-0-medium"]
    assert model.levels_of(["Default"]) == {"Default": "pbe+u/mptrj"}
    assert model.levels_of(["a", "b"]) == {}
    assert TABLE["mace-mh-1"].levels_of(["omat_pbe", "spice_wB97M"]) == {"omat_pbe": "pbe+u/omat"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licence": "BSD"}, "lacks or does not know 'BSD'"),
        ({"references": ["nobody"]}, "lacks or does not know 'nobody'"),
        ({"colour": "red"}, r"holds unknown names: \['colour'\]"),
        ({"method": None}, "lacks or does not know 'method'"),
    ],
)
def test_a_table_that_is_broken_is_refused(tmp_path, change, message):
    content = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    family = content["families"]["mace-mpa-0"]
    family.update(change)
    content["families"] = {"mace-mpa-0": {key: value for key, value in family.items() if value is not None}}
    path = tmp_path / "official.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ModelError, match=message):
        read_official_models(path)
