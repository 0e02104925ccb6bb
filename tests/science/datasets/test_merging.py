"""Labels find their frames by content."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from aiida_mlfinetune.science.datasets.merging import drop_levels, labelled_indices, transfer_labels
from tests.fixtures.frames import PBE, XTB, make_frames, random_labels


def test_labels_are_carried_to_equal_frames_in_any_order(labelled_frames):
    bare = drop_levels(labelled_frames, [XTB.key, PBE.key])
    merged = transfer_labels(bare, labelled_frames.select([6, 2, 5, 0, 1, 4, 3]))
    assert merged.content_hash() == labelled_frames.content_hash()


def test_frames_that_the_donor_lacks_stay_unlabelled(labelled_frames):
    bare = drop_levels(labelled_frames, [XTB.key, PBE.key])
    labels = transfer_labels(bare, labelled_frames.select([5, 1]), [XTB.key]).labels(XTB.key)
    assert np.flatnonzero(labels.has_energy).tolist() == [1, 5]
    np.testing.assert_array_equal(labels.forces[bare.slice(5)], labelled_frames.labels(XTB.key).forces[bare.slice(5)])


def test_only_missing_labels_are_filled_up(labelled_frames):
    other = random_labels(labelled_frames, PBE, np.random.default_rng(9))
    donor = labelled_frames.without_level(PBE.key).with_labels(other)
    merged, mine = transfer_labels(labelled_frames, donor).labels(PBE.key), labelled_frames.labels(PBE.key)
    np.testing.assert_array_equal(merged.energy, np.where(mine.has_energy, mine.energy, other.energy))
    assert merged.has_forces.all()


def test_one_key_with_two_meanings_is_refused(labelled_frames):
    other = Level(PBE.key, method="something else")
    donor = make_frames().with_labels(Labels.build(other, labelled_frames.offsets, np.zeros(7)))
    with pytest.raises(LabelsError, match="means different things"):
        transfer_labels(labelled_frames, donor)


def test_reference_cells_of_two_crystals_are_joined():
    levels = [
        Level("dft/cp2k", settings={"grid_cells": {"C4O8": [(np.eye(3) * edge).tolist()]}}) for edge in (5.0, 8.0, 5.1)
    ]
    frames, other, same = (
        make_frames(1, 0).with_labels(Labels.build(level, np.array([0, 12]), np.zeros(1))) for level in levels
    )
    merged = transfer_labels(frames, other).labels("dft/cp2k")
    assert merged.level.settings["grid_cells"] == {"C4O8": [(np.eye(3) * edge).tolist() for edge in (5.0, 8.0)]}
    with pytest.raises(LabelsError, match="means different things"):
        transfer_labels(frames, same)


def test_sets_without_a_common_frame_are_refused(labelled_frames):
    with pytest.raises(LabelsError, match="no frame in common"):
        transfer_labels(make_frames(seed=5), labelled_frames)
    with pytest.raises(LabelsError, match="no labels at level 'typo'"):
        transfer_labels(make_frames(), labelled_frames, ["typo"])


def test_labelled_frames_are_listed(labelled_frames):
    assert labelled_indices(labelled_frames, PBE.key).tolist() == [1, 2, 3, 4, 5]
    assert labelled_indices(labelled_frames, PBE.key, need_forces=True).tolist() == [1, 3, 4, 5]
