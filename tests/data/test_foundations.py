"""A model file becomes a node by its checksum, or because the user vouches for it."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
from aiida import orm

from aiida_mlfinetune.common.errors import ModelError
from aiida_mlfinetune.data import foundations
from aiida_mlfinetune.data.foundations import import_model, load_foundation, read_foundations
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.programs.mace_passport import describe_model
from aiida_mlfinetune.science.models.passport import Passport


class Bomb:
    """A pickle that leaves a trace when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def bomb(tmp_path):
    """A file that runs code when it is unpickled, and the trace that it would leave."""
    path, trace = tmp_path / "bomb.model", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Bomb(trace)))
    return path, trace


@pytest.fixture
def table(tmp_path, tiny_model_file, monkeypatch):
    """A table of foundations that holds the tiny model under the name ``tiny``."""
    folder = tmp_path / "foundations"
    folder.mkdir()
    shutil.copy(tiny_model_file, folder / "tiny.model")
    fields = {
        **describe_model(tiny_model_file),
        "levels": {"Default": "gfn1-xtb/cp2k"},
        "settings": {"licence": "MIT"},
    }
    (folder / "tiny.json").write_text(json.dumps(Passport.from_dict(fields).to_dict()))
    monkeypatch.setattr(foundations, "FOUNDATIONS", read_foundations(folder))
    return folder


def count() -> int:
    return orm.QueryBuilder().append(MaceModelData).count()


@pytest.mark.usefixtures("aiida_profile_clean")
def test_a_foundation_is_stored_once(table):
    first = load_foundation("tiny")
    second = load_foundation("tiny")
    assert first.is_stored
    assert first.pk == second.pk
    assert count() == 1
    assert first.passport.levels == {"Default": "gfn1-xtb/cp2k"}
    assert first.elements == ["H", "O"]
    assert first.content() == (table / "tiny.model").read_bytes()


def test_an_unknown_foundation_is_refused_with_the_names_there_are(table):
    with pytest.raises(ModelError, match=r"'huge' is known: the package ships \['tiny'\].*model import FILE --trust"):
        load_foundation("huge")


@pytest.mark.usefixtures("aiida_profile_clean")
def test_a_file_of_known_checksum_is_imported_without_being_opened(table, tmp_path, monkeypatch):
    monkeypatch.setattr(foundations, "describe_model", lambda path: pytest.fail("the file was opened"))
    copy = tmp_path / "renamed.pt"
    shutil.copy(table / "tiny.model", copy)
    node = import_model(copy)
    assert node.pk == load_foundation("tiny").pk
    assert node.base.repository.list_object_names() == [MaceModelData.MODEL_FILENAME]


@pytest.mark.usefixtures("aiida_profile")
def test_a_file_of_unknown_checksum_is_refused_and_not_opened(bomb):
    path, trace = bomb
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=rf"{digest}, which is not that of a known foundation.*--trust") as error:
        import_model(path)
    assert str(path) in str(error.value)
    assert not trace.exists()


@pytest.mark.usefixtures("aiida_profile_clean")
def test_a_trusted_file_is_opened_and_described(tiny_chno_model_file):
    node = import_model(tiny_chno_model_file, trust=True, levels="pbe-d3/vasp")
    assert node.elements == ["H", "C", "N", "O"]
    assert node.passport.levels == {"Default": "pbe-d3/vasp"}
    assert node.passport.r_max == 3.5
    assert import_model(tiny_chno_model_file).pk == node.pk
    assert import_model(tiny_chno_model_file, trust=True, levels={"Default": "pbe-d3/vasp"}).pk == node.pk
    assert count() == 1


@pytest.mark.usefixtures("aiida_profile")
def test_levels_of_heads_that_the_file_lacks_are_refused(tiny_chno_model_file):
    with pytest.raises(ModelError, match=r"heads \['pbe'\] that the model lacks"):
        import_model(tiny_chno_model_file, trust=True, levels={"pbe": "pbe-d3/vasp"})


@pytest.mark.usefixtures("aiida_profile")
def test_a_trusted_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "notes.model"
    path.write_text("not a model")
    with pytest.raises(ModelError, match=r"notes.model cannot be read as a MACE model"):
        import_model(path, trust=True)
    with pytest.raises(ModelError, match="there is no model file"):
        import_model(tmp_path / "missing.model")


@pytest.mark.usefixtures("aiida_profile")
def test_a_foundation_whose_file_was_changed_is_refused(table):
    (table / "tiny.model").write_bytes(b"something else")
    with pytest.raises(ModelError, match="but its passport says"):
        load_foundation("tiny")


def test_a_table_that_is_broken_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ModelError, match=r"x.json of a foundation cannot be read"):
        read_foundations(tmp_path)
    assert read_foundations(tmp_path / "none") == {}


def test_a_passport_without_its_file_is_refused(table):
    (table / "tiny.model").unlink()
    with pytest.raises(ModelError, match="'tiny' has a passport, but no file"):
        read_foundations(table)


def test_every_foundation_of_the_package_is_the_file_its_passport_describes():
    for foundation in foundations.FOUNDATIONS.values():
        content = foundation.path.read_bytes()
        assert hashlib.sha256(content).hexdigest() == foundation.passport.sha256
        assert len(content) <= 5_000_000
        assert set(foundation.passport.levels) == set(foundation.passport.heads)
        assert foundation.licence
