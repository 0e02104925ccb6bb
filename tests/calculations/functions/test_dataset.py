"""The algebra of datasets keeps the graph whole."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm

from aiida_mlfinetune.calculations.functions import dataset as functions
from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.merging import drop_levels
from tests.fixtures.frames import PBE, XTB, make_frames

pytestmark = pytest.mark.usefixtures("aiida_profile_clean")


@pytest.fixture
def dataset(labelled_frames) -> DatasetData:
    """Four crystal and three gas frames with two levels."""
    return DatasetData(labelled_frames, {XTB.key: ["job 1"]}).store()


def inputs_of(node) -> set[int]:
    return {link.node.pk for link in node.creator.base.links.get_incoming().all()}


def test_a_subset_is_linked_to_its_parent(dataset):
    indices = orm.List([3, 1])
    view = functions.subset(dataset, indices)
    assert view.is_subset
    assert inputs_of(view) == {dataset.pk, indices.pk}
    assert view.level_sources == {XTB.key: ["job 1"]}


def test_any_number_of_datasets_are_joined_in_the_order_of_their_names(labelled_frames, dataset):
    other = DatasetData(make_frames(1, 1, seed=8)).store()
    view = functions.subset(dataset, orm.List([2]))
    joined = functions.join(b=other, a=dataset, c=view)
    expected = Frames.concatenate([labelled_frames, other.frames, labelled_frames.select([2])])
    assert joined.content_hash == expected.content_hash()
    assert inputs_of(joined) == {dataset.pk, other.pk, view.pk}
    assert joined.level_sources == {XTB.key: ["job 1"]}


def test_a_split_gives_three_views(dataset):
    sets = functions.split(dataset, orm.Dict({"valid": 2, "test": 2, "seed": 3}))
    assert {name: node.n_frames for name, node in sets.items()} == {"train": 3, "valid": 2, "test": 2}
    assert all(node.is_subset and dataset.pk in inputs_of(node) for node in sets.values())
    assert set(functions.split(dataset, orm.Dict({"valid": 2}))) == {"train", "valid"}


def test_a_split_of_equal_frames_is_refused(dataset):
    doubled = functions.join(a=dataset, b=functions.subset(dataset, orm.List([0])))
    with pytest.raises(FramesError, match="equal to others of the same dataset"):
        functions.split(doubled, orm.Dict({"valid": 2}))


def test_selected_frames_are_a_view_of_the_trajectory(dataset):
    view = functions.select_frames(dataset, orm.Dict({"n_frames": 3, "seed": 1, "equilibration": 0.4}))
    assert view.is_subset
    assert view.n_frames == 3
    assert view.indices.min() >= 3
    assert view.frames.steps.tolist() == dataset.frames.steps[view.indices].tolist()


def test_selected_frames_at_other_volumes_are_a_new_dataset(dataset):
    crystal = functions.subset(dataset, orm.List([0, 1, 2, 3]))
    selection = {
        "n_frames": 2,
        "method": "stride",
        "seed": 7,
        "volume_range": [1.1, 1.2],
        "reference_volume_A3": 190.0,
    }
    scaled = functions.select_frames(crystal, orm.Dict(selection))
    assert not scaled.is_subset
    assert not scaled.levels
    assert ((scaled.frames.volumes > 1.1 * 190) & (scaled.frames.volumes < 1.2 * 190)).all()
    assert scaled.frames.steps.tolist() == [10, 30]
    assert scaled.frame_sources == ["crystal run"]
    del selection["reference_volume_A3"]
    with pytest.raises(FramesError, match="needs 'reference_volume_A3'"):
        functions.select_frames(crystal, orm.Dict(selection))


def test_a_misspelt_entry_of_a_selection_is_refused(dataset):
    with pytest.raises(FramesError, match=r"unknown entries in a selection of frames: \['n_frame'\]"):
        functions.select_frames(dataset, orm.Dict({"n_frame": 3}))


def test_levels_of_the_same_frames_are_merged(labelled_frames, dataset):
    bare = DatasetData(drop_levels(labelled_frames, [XTB.key, PBE.key])).store()
    half = DatasetData(labelled_frames.without_level(PBE.key).select([5, 0]), {XTB.key: ["job 2"]}).store()
    other = DatasetData(labelled_frames.without_level(PBE.key).select([1]), {XTB.key: ["job 3"]}).store()
    merged = functions.merge_labels(bare, first=half, second=other)
    assert np.flatnonzero(merged.frames.labels(XTB.key).has_energy).tolist() == [0, 1, 5]
    assert merged.level_sources == {XTB.key: ["job 2", "job 3"]}
    assert inputs_of(merged) == {bare.pk, half.pk, other.pk}


def test_one_level_is_added_and_dropped(labelled_frames, dataset):
    without = functions.without_levels(dataset, orm.List([XTB.key]))
    assert list(without.levels) == [PBE.key]
    assert without.level_sources == {}
    again = functions.add_level(without, dataset, orm.Str(XTB.key))
    assert again.content_hash == dataset.content_hash
    assert again.level_sources == {XTB.key: ["job 1"]}
