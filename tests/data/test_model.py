"""The model node: its hash follows the bytes and the passport, and nothing is unpickled."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aiida import orm

from aiida_mlfinetune.common.errors import ModelError
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.models.passport import Passport

pytestmark = pytest.mark.usefixtures("aiida_profile")


def test_bytes_and_passport_come_back(tiny_model, tiny_model_file):
    back = orm.load_node(tiny_model.store().pk)
    assert back.passport == tiny_model.passport
    assert back.content() == tiny_model_file.read_bytes()
    assert (back.elements, back.heads, back.sha256) == (["H", "O"], ["Default"], tiny_model.passport.sha256)
    with back.as_path() as path:
        assert path.name == MaceModelData.MODEL_FILENAME
        assert path.read_bytes() == back.content()
    assert not path.exists()


def test_the_hash_follows_bytes_and_passport(tiny_model, tiny_model_file):
    content, passport = tiny_model_file.read_bytes(), tiny_model.passport
    reference = tiny_model.store().base.caching.get_hash()
    assert MaceModelData(content, passport).store().base.caching.get_hash() == reference
    other = MaceModelData(content, replace(passport, seeds=[7]))
    assert other.store().base.caching.get_hash() != reference


def test_a_checksum_that_is_wrong_is_refused(tiny_model):
    with pytest.raises(ModelError, match="but its passport says"):
        MaceModelData(b"other bytes", tiny_model.passport)
    with pytest.raises(ModelError, match="empty model cannot be stored"):
        MaceModelData().store()


def test_passports_are_checked(tiny_model):
    passport = tiny_model.passport
    assert Passport.from_dict(passport.to_dict()) == passport
    with pytest.raises(ModelError, match="not a sha256"):
        replace(passport, sha256="abc")
    with pytest.raises(ModelError, match=r"no reference energy for \['C'\]"):
        replace(passport, elements=["H", "O", "C"])
    with pytest.raises(ModelError, match="that the model lacks"):
        replace(passport, levels={"other": "pbe"})
    with pytest.raises(ModelError, match=r"unknown entries in a passport: \['colour'\]"):
        Passport.from_dict({**passport.to_dict(), "colour": "blue"})
