"""The dataset node: equal content is an equal node, and a clone, a view or an archive loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.common.exceptions import ModificationNotAllowed
from aiida.engine import calcfunction
from aiida.manage.caching import enable_caching
from aiida.tools.archive import create_archive, import_archive

from aiida_mlfinetune.calculations.functions import dataset as functions
from aiida_mlfinetune.common.errors import FramesError, LabelsError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from tests.fixtures.frames import PBE, XTB, make_frames

pytestmark = pytest.mark.usefixtures("aiida_profile_clean")


@calcfunction
def shifted(dataset):
    """Return a dataset that is derived from another."""
    frames = dataset.frames
    return DatasetData(Frames(**{**vars(frames), "positions": frames.positions + 1.0, "sources": ("job", "gas")}))


def assert_equal(first: Frames, second: Frames) -> None:
    assert first.content_hash() == second.content_hash()
    for name, array in first.to_arrays().items():
        np.testing.assert_array_equal(array, second.to_arrays()[name])
    assert first.sources == second.sources
    assert {key: labels.level for key, labels in first.labels_by_level.items()} == {
        key: labels.level for key, labels in second.labels_by_level.items()
    }


def test_everything_comes_back_after_storing(labelled_frames):
    node = DatasetData(labelled_frames, {XTB.key: ["some uuid"]}).store()
    back = orm.load_node(node.pk)
    assert back is not node
    assert_equal(back.frames, labelled_frames)
    assert back.level_sources == {XTB.key: ["some uuid"]}
    assert back.base.repository.list_object_names() == [DatasetData.FRAMES_FILENAME]


def test_the_same_content_has_the_same_hash(labelled_frames):
    first, second = DatasetData(labelled_frames).store(), DatasetData(labelled_frames.select(range(7))).store()
    assert first.uuid != second.uuid
    assert first.base.caching.get_hash() == second.base.caching.get_hash()
    assert first.content_hash == second.content_hash


def test_sources_do_not_change_the_hash_but_labels_do(labelled_frames):
    reference = DatasetData(labelled_frames).store().base.caching.get_hash()
    renamed = Frames(**{**vars(labelled_frames), "sources": ("a", "b")})
    assert DatasetData(renamed, {XTB.key: ["c"]}).store().base.caching.get_hash() == reference
    assert DatasetData(labelled_frames.without_level(PBE.key)).store().base.caching.get_hash() != reference


def test_attributes_answer_without_opening_the_file(labelled_frames, monkeypatch):
    pk = DatasetData(labelled_frames).store().pk
    node = orm.load_node(pk)
    monkeypatch.setattr(DatasetData, "frames", property(lambda self: pytest.fail("the file was opened")))
    assert node.n_frames == 7
    assert node.elements == ["C", "O"]
    assert node.base.attributes.get("formulas") == {"C4O8": 4, "CO2": 3}
    assert (node.base.attributes.get("n_atoms_min"), node.base.attributes.get("n_atoms_max")) == (3, 12)
    assert sorted(node.levels) == [XTB.key, PBE.key]
    assert node.levels[PBE.key]["counts"] == {"energy": 5, "forces": 4, "stress": 2}
    assert Level.from_dict(node.levels[PBE.key]["level"]) == PBE
    labels = labelled_frames.labels(PBE.key)
    per_atom = (labels.energy / labelled_frames.n_atoms)[labels.has_energy]
    assert node.levels[PBE.key]["energy_eV_per_atom"] == pytest.approx(
        {"min": per_atom.min(), "mean": per_atom.mean(), "std": per_atom.std()}, abs=1e-12
    )


def test_labels_can_be_queried(labelled_frames):
    full, bare = DatasetData(labelled_frames).store(), DatasetData(make_frames()).store()
    query = orm.QueryBuilder().append(DatasetData, filters={"attributes.levels": {"has_key": PBE.key}})
    assert query.all(flat=True) == [full]
    query = orm.QueryBuilder().append(DatasetData, filters={"attributes.elements": {"contains": ["C"]}})
    assert {node.pk for node in query.all(flat=True)} == {full.pk, bare.pk}


def test_a_cached_clone_reads_back_equal(labelled_frames):
    source = DatasetData(labelled_frames).store()
    first, first_process = shifted.run_get_node(source)
    with enable_caching():
        clone, process = shifted.run_get_node(DatasetData(labelled_frames).store())
    assert process.base.caching.get_cache_source() == first_process.uuid
    assert clone.uuid != first.uuid
    assert_equal(orm.load_node(clone.pk).frames, first.frames)
    assert clone.base.caching.get_hash() == first.base.caching.get_hash()


def test_energy_only_frames_and_frames_without_labels(plain_frames):
    labels = Labels.build(Level("rpa"), plain_frames.offsets, np.arange(7.0))
    node = orm.load_node(DatasetData(plain_frames.with_labels(labels)).store().pk)
    assert node.levels["rpa"]["counts"] == {"energy": 7, "forces": 0, "stress": 0}
    assert np.isnan(node.frames.labels("rpa").forces).all()
    empty = Labels.build(Level("nothing"), plain_frames.offsets)
    node = orm.load_node(DatasetData(plain_frames.with_labels(empty)).store().pk)
    assert node.levels["nothing"]["energy_eV_per_atom"] == {}
    assert node.frames.labels("nothing").counts == {"energy": 0, "forces": 0, "stress": 0}


def test_levels_read_back_equal_whatever_numbers_define_them(plain_frames):
    level = Level("x", settings={"cutoff_eV": 408.17079582300001, "huge": 1e20, "list": (0.1 + 0.2, 7), "none": None})
    frames = plain_frames.with_labels(Labels.build(level, plain_frames.offsets, np.arange(7.0)))
    back = orm.load_node(DatasetData(frames).store().pk)
    assert back.frames.labels("x").level == level
    assert back.frames.content_hash() == back.content_hash


def test_a_view_stores_indices_only_and_reads_like_the_frames(labelled_frames):
    root = DatasetData(labelled_frames).store()
    view = orm.load_node(DatasetData.subset(root, [5, 0, 2]).store().pk)
    assert view.base.repository.list_object_names() == [DatasetData.INDICES_FILENAME]
    assert view.is_subset
    assert not root.is_subset
    assert view.parent.pk == root.pk
    assert view.n_frames == 3
    assert_equal(view.frames, labelled_frames.select([5, 0, 2]))
    assert view.content_hash == DatasetData(labelled_frames.select([5, 0, 2])).content_hash


def test_equal_views_of_equal_parents_are_equal_nodes(labelled_frames):
    first = DatasetData.subset(DatasetData(labelled_frames).store(), [1, 2]).store()
    second = DatasetData.subset(DatasetData(labelled_frames).store(), [1, 2]).store()
    assert first.base.caching.get_hash() == second.base.caching.get_hash()
    third = DatasetData.subset(DatasetData(labelled_frames).store(), [2, 1]).store()
    assert third.base.caching.get_hash() != first.base.caching.get_hash()


def test_a_view_of_a_view_refers_to_the_root(labelled_frames):
    root = DatasetData(labelled_frames).store()
    view = DatasetData.subset(root, [6, 4, 2, 0]).store()
    inner = orm.load_node(DatasetData.subset(orm.load_node(view.pk), [3, 1]).store().pk)
    assert inner.parent.pk == root.pk
    assert inner.indices.tolist() == [0, 4]
    assert_equal(inner.frames, labelled_frames.select([0, 4]))


def test_a_view_survives_an_archive(labelled_frames, tmp_path, aiida_profile):
    root = DatasetData(labelled_frames).store()
    view = functions.subset(root, orm.List([4, 1]))
    uuid = view.uuid
    create_archive([view], filename=tmp_path / "view.aiida")
    aiida_profile.reset_storage()
    import_archive(tmp_path / "view.aiida")
    back = orm.load_node(uuid)
    assert_equal(back.frames, labelled_frames.select([4, 1]))


def test_a_view_without_its_parent_says_what_to_do(labelled_frames, aiida_profile, tmp_path):
    view = DatasetData.subset(DatasetData(labelled_frames).store(), [4, 1]).store()
    create_archive([view], filename=tmp_path / "orphan.aiida")
    uuid = view.uuid
    aiida_profile.reset_storage()
    import_archive(tmp_path / "orphan.aiida")
    with pytest.raises(FramesError, match="not in this database: import the archive that holds it"):
        _ = orm.load_node(uuid).frames


def test_a_cached_view_is_read_from_the_clone_too(labelled_frames):
    root = DatasetData(labelled_frames).store()
    first = functions.subset(root, orm.List([4, 1]))
    with enable_caching():
        second, process = functions.subset.run_get_node(root, orm.List([4, 1]))
    assert process.base.caching.get_cache_source() is not None
    assert_equal(orm.load_node(second.pk).frames, first.frames)


def test_datasets_that_make_no_sense_are_refused(labelled_frames):
    with pytest.raises(FramesError, match="at least one frame"):
        DatasetData(labelled_frames.select([]))
    with pytest.raises(FramesError, match="empty dataset cannot be stored"):
        DatasetData().store()
    root = DatasetData(labelled_frames).store()
    with pytest.raises(FramesError, match="at least one frame"):
        DatasetData.subset(root, [])
    with pytest.raises(FramesError, match=r"must lie in 0\.\.6"):
        DatasetData.subset(root, [9])
    with pytest.raises(LabelsError, match="levels that the frames lack"):
        DatasetData(labelled_frames, {"typo": ["x"]})


def test_a_stored_dataset_cannot_be_changed(labelled_frames):
    node = DatasetData(labelled_frames).store()
    with pytest.raises(ModificationNotAllowed):
        node.base.attributes.set("n_frames", 3)
