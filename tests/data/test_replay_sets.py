"""The data that a foundation of the package was trained on."""

from __future__ import annotations

import pytest

from aiida_mlfinetune.calculations.cp2k_input import level_metadata
from aiida_mlfinetune.common.errors import ModelError
from aiida_mlfinetune.data.foundations import FOUNDATIONS
from aiida_mlfinetune.data.replay_sets import available_replay_sets, load_replay_set, read_replay_set
from aiida_mlfinetune.workchains.protocols.levels import load_level


def test_the_shipped_data_are_those_of_the_foundation():
    passport = FOUNDATIONS["ice-xtb"].passport
    frames = read_replay_set("ice-xtb")
    assert len(frames) == passport.settings["frames"] == 1594
    assert frames.elements == passport.elements
    assert set(frames.labels_by_level) == set(passport.levels.values())
    labels = frames.labels(passport.levels["Default"])
    assert labels.has_energy.all()
    assert labels.has_forces.all()
    assert labels.has_stress.any()


def test_labels_made_today_at_that_level_can_join_them():
    level = read_replay_set("ice-xtb").labels("gfn1-xtb/cp2k").level
    assert level == level_metadata(load_level("gfn1-xtb"), "2023.1")


@pytest.mark.usefixtures("aiida_profile")
def test_the_data_are_stored_once():
    first, second = load_replay_set("ice-xtb"), load_replay_set("ice-xtb")
    assert first.is_stored
    assert first.pk == second.pk
    assert first.content_hash == read_replay_set("ice-xtb").content_hash()


def test_data_that_do_not_ship_are_refused_with_the_names_there_are():
    assert available_replay_sets() == ["ice-xtb"]
    with pytest.raises(ModelError, match=r"'mace-mp-0' do not come with the package.*\['ice-xtb'\]"):
        read_replay_set("mace-mp-0")
