"""Official models: fetched once, known by their checksum from then on, opened only when they are used."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from aiida import orm

from aiida_mlfinetune.common.errors import DownloadError, ModelError
from aiida_mlfinetune.data import fetching, foundations
from aiida_mlfinetune.data.fetching import fetch, fetched_file, records
from aiida_mlfinetune.data.foundations import import_model, load_foundation
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.models.official import OfficialModel
from tests.data.test_foundations import Bomb

NAME = "tiny-official"


@pytest.fixture
def official(tmp_path, release, tiny_model_file, monkeypatch) -> OfficialModel:
    """An official model that the server of ``release`` sends, and an empty folder for fetched ones."""
    release.content = tiny_model_file.read_bytes()
    licence = fetching.OFFICIAL["mace-mp-0-small"].licence
    entry = OfficialModel(
        name=NAME,
        title="Tiny",
        method="GFN1-xTB",
        levels={"": "gfn1-xtb/cp2k"},
        dataset="nothing",
        n_elements=2,
        elements=("H", "O"),
        licence=licence,
        url=release.url,
        sha256="",
        mace_name="",
        references=(),
        note="",
    )
    monkeypatch.setitem(fetching.OFFICIAL, NAME, entry)
    monkeypatch.setattr(fetching, "foundations_folder", lambda: tmp_path / "folder")
    return entry


def change(monkeypatch, entry: OfficialModel, **values) -> None:
    monkeypatch.setitem(fetching.OFFICIAL, NAME, replace(entry, **values))


def test_the_first_checksum_is_recorded_and_the_file_is_fetched_once(official, release):
    path, record, first = fetch(NAME)
    assert first
    assert path.read_bytes() == release.content
    assert record.sha256 == hashlib.sha256(release.content).hexdigest()
    assert record.size == len(release.content)
    assert record.source == release.url
    assert records() == {NAME: record}
    release.status = 500
    assert fetch(NAME) == (path, record, False)
    assert len(release.requests) == 1
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["fetched.json", f"{NAME}.model"]


def test_an_interrupted_fetch_goes_on(official, release):
    release.cut_after = len(release.content) // 2
    with pytest.raises(DownloadError, match="broke after"):
        fetch(NAME)
    assert records() == {}
    release.cut_after = None
    path, _, first = fetch(NAME)
    assert first
    assert path.read_bytes() == release.content
    assert release.sent == len(release.content)


def test_a_file_that_was_changed_here_is_refused(official, release, tmp_path):
    path, record, _ = fetch(NAME)
    path.write_bytes(b"PK something else")
    changed = hashlib.sha256(b"PK something else").hexdigest()
    for use in (fetch, fetched_file, load_foundation):
        with pytest.raises(ModelError, match=rf"{changed}, but {record.sha256} was recorded"):
            use(NAME)


def test_a_release_that_was_changed_is_refused_and_not_kept(official, release):
    path, record, _ = fetch(NAME)
    path.unlink()
    release.content = b"PK a file of somebody else"
    with pytest.raises(ModelError, match=rf"the one recorded on .* is {record.sha256}: the file was changed") as error:
        fetch(NAME)
    assert str(path.parent / "fetched.json") in str(error.value)
    assert [entry.name for entry in path.parent.iterdir()] == ["fetched.json"]
    assert records() == {NAME: record}


def test_a_file_that_is_brought_must_be_the_one_that_is_known(official, release, tmp_path):
    path, record, _ = fetch(NAME)
    brought = tmp_path / "brought.model"
    brought.write_bytes(b"PK another one")
    with pytest.raises(ModelError, match=f"{brought} has the sha256"):
        fetch(NAME, source=brought)
    assert path.read_bytes() == release.content
    brought.write_bytes(release.content)
    assert fetch(NAME, source=brought) == (path, record, False)


def test_a_checksum_that_the_authors_state_is_checked_at_the_first_fetch(official, monkeypatch, release):
    change(monkeypatch, official, sha256="0" * 64)
    with pytest.raises(ModelError, match=f"the one that its authors state is {'0' * 64}"):
        fetch(NAME)
    assert records() == {}
    change(monkeypatch, official, sha256=hashlib.sha256(release.content).hexdigest())
    assert fetch(NAME)[2]


def test_a_licence_without_commercial_use_has_to_be_accepted(official, monkeypatch, release):
    change(monkeypatch, official, licence=fetching.OFFICIAL["mace-off23-small"].licence)
    with pytest.raises(
        ModelError, match=r"Academic Software License \(ASL\).*does not allow commercial.*--accept-licence"
    ):
        fetch(NAME)
    assert not release.requests
    path, record, _ = fetch(NAME, accept_licence=True)
    assert record.accepted == "ASL"
    path.unlink()
    assert fetch(NAME)[1] == record


def test_what_is_no_model_file_is_not_kept(official, release, tmp_path):
    release.content = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    with pytest.raises(ModelError, match="is not a model file of torch: it was not kept"):
        fetch(NAME)
    assert records() == {}
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_machine_without_internet_takes_a_file_that_was_brought(official, release, tiny_model_file):
    path, record, first = fetch(NAME, source=tiny_model_file)
    assert first
    assert not release.requests
    assert path.read_bytes() == tiny_model_file.read_bytes()
    assert record.source == str(tiny_model_file)


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ModelError, match=r"no official model 'mace-mp-9' is known: there are .*mace-mp-0-small"):
        fetch("mace-mp-9")


def test_records_that_cannot_be_read_are_not_overwritten(official, tmp_path):
    path, *_ = fetch(NAME)
    (path.parent / "fetched.json").write_text("{")
    with pytest.raises(ModelError, match=r"fetched.json, which records what was fetched, cannot be read"):
        fetch(NAME)
    assert (path.parent / "fetched.json").read_text() == "{"


def test_nothing_is_opened_by_fetching(official, release, tmp_path):
    trace = tmp_path / "trace"
    release.content = pickle.dumps(Bomb(trace))
    fetch(NAME)
    assert not trace.exists()


@pytest.mark.usefixtures("aiida_profile_clean")
def test_a_fetched_model_is_a_foundation_by_its_name(official, monkeypatch):
    with pytest.raises(ModelError, match=rf"is not here: fetch it with `aiida-mlfinetune model fetch {NAME}`"):
        load_foundation(NAME)
    _, record, _ = fetch(NAME)
    node = load_foundation(NAME)
    assert node.is_stored
    assert node.sha256 == record.sha256
    passport = node.passport
    assert passport.elements == ["H", "O"]
    assert passport.levels == {"Default": "gfn1-xtb/cp2k"}
    assert passport.settings == {"foundation": NAME, "source": official.url, "licence": "MIT"}
    monkeypatch.setattr(foundations, "describe_model", lambda path: pytest.fail("the file was opened again"))
    assert load_foundation(NAME).pk == node.pk
    assert orm.QueryBuilder().append(MaceModelData).count() == 1


@pytest.mark.usefixtures("aiida_profile_clean")
def test_a_fetched_file_is_imported_by_its_checksum(official, tiny_model_file, tmp_path):
    copy = tmp_path / "renamed.pt"
    copy.write_bytes(tiny_model_file.read_bytes())
    with pytest.raises(ModelError, match="not that of a known foundation"):
        import_model(copy)
    fetch(NAME)
    node = import_model(copy)
    assert node.passport.settings["foundation"] == NAME
    assert load_foundation(NAME).pk == node.pk
    relabelled = import_model(copy, levels="pbe/vasp")
    assert relabelled.passport.levels == {"Default": "pbe/vasp"}
    assert load_foundation(NAME).pk == node.pk


def test_records_live_in_the_configuration_folder_of_aiida(aiida_profile):
    from aiida.manage.configuration import get_config

    assert Path(get_config().dirpath) / "mlfinetune" / "foundations" == fetching.foundations_folder()


def test_records_are_plain_json(official):
    path, record, _ = fetch(NAME)
    content = json.loads((path.parent / "fetched.json").read_text())
    assert content[NAME]["sha256"] == record.sha256
