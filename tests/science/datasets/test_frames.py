"""Frames and labels: identity, algebra, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.common.enums import EnergyKind
from aiida_mlfinetune.common.errors import FramesError, LabelsError
from aiida_mlfinetune.science.datasets.frames import Frames, read_labels, write_geometry
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from tests.fixtures.frames import PBE, XTB, make_frames


def test_mixed_compositions_and_molecules_without_cell_come_back(plain_frames):
    images = plain_frames.to_atoms()
    assert [len(image) for image in images] == [12] * 4 + [3] * 3
    assert plain_frames.formulas == ["C4O8"] * 4 + ["CO2"] * 3
    assert plain_frames.elements == ["C", "O"]
    assert not images[5].pbc.any()
    assert not images[5].cell.any()
    assert np.isnan(plain_frames.volumes[4:]).all()
    np.testing.assert_allclose(plain_frames.volumes[:4], [image.get_volume() for image in images[:4]])
    np.testing.assert_allclose(plain_frames.masses, [image.get_masses().sum() for image in images])
    assert Frames.from_atoms(images).content_hashes() == plain_frames.content_hashes()


def test_the_hash_of_a_frame_follows_its_geometry_alone(labelled_frames):
    bare = labelled_frames.without_level(XTB.key).without_level(PBE.key).with_source("x")
    assert bare.content_hashes() == labelled_frames.content_hashes()
    for name, index in (("positions", (0, 0)), ("cells", (0, 0, 0))):
        moved = getattr(bare, name).copy()
        moved[index] += 1e-12
        hashes = Frames(**{**vars(bare), name: moved}).content_hashes()
        assert hashes[0] != bare.content_hashes()[0]
        assert hashes[1:] == bare.content_hashes()[1:]


def test_negative_zeros_and_dtypes_do_not_change_the_hash(plain_frames):
    image = molecule("H2")
    image.positions[:, 0] = -0.0
    other = image.copy()
    other.positions[:, 0] = 0.0
    assert Frames.from_atoms([image]).content_hash() == Frames.from_atoms([other]).content_hash()


def test_the_hash_of_a_set_follows_order_labels_and_levels_but_not_sources(labelled_frames):
    reference = labelled_frames.content_hash()
    assert labelled_frames.select(range(7)).content_hash() == reference
    assert labelled_frames.select([1, 0, 2, 3, 4, 5, 6]).content_hash() != reference
    assert labelled_frames.without_level(PBE.key).content_hash() != reference
    renamed = Frames(**{**vars(labelled_frames), "sources": ("p", "q")})
    assert renamed.content_hash() == reference


def test_joining_the_parts_of_a_set_gives_the_set(labelled_frames):
    parts = [labelled_frames.select([0, 1]), labelled_frames.select([2, 3, 4]), labelled_frames.select([5, 6])]
    assert Frames.concatenate(parts).content_hash() == labelled_frames.content_hash()


def test_a_level_that_a_part_lacks_is_missing_there(labelled_frames):
    joined = Frames.concatenate([make_frames(2, 0, seed=3), labelled_frames])
    labels = joined.labels(XTB.key)
    assert labels.has_energy.tolist() == [False] * 2 + [True] * 7
    assert joined.select(range(2, 9)).content_hash() == labelled_frames.content_hash()


def test_one_key_cannot_mean_two_levels(labelled_frames):
    other = Level(XTB.key, method="GFN2-xTB")
    frames = make_frames(1, 0).with_labels(Labels.build(other, np.array([0, 12]), np.zeros(1)))
    with pytest.raises(LabelsError, match="means different things"):
        Frames.concatenate([labelled_frames, frames])


def test_labels_of_different_crystals_may_have_different_grids():
    """Those of one crystal need one reference cell; labels of molecules have none."""
    cells = {"a": np.eye(3) * 5.0, "b": np.eye(3) * 8.0, "like a": np.eye(3) * 5.1}

    def labelled(*names):
        settings = {"parameters": {"CUTOFF": 280}, "grid_cells": {"C4O8": [cells[name].tolist() for name in names]}}
        level = Level("dft/cp2k", settings=settings if names else {"parameters": {"CUTOFF": 280}})
        return make_frames(1, 0, seed=len(names)).with_labels(Labels.build(level, np.array([0, 12]), np.zeros(1)))

    for names, joined in {("a", "b"): ["a", "b"], ("a", "a"): ["a"], ("", "b"): ["b"], ("b", ""): ["b"]}.items():
        parts = [labelled(*filter(None, [name])) for name in names]
        level = Frames.concatenate(parts).labels("dft/cp2k").level
        assert level.settings["grid_cells"] == {"C4O8": [cells[name].tolist() for name in joined]}
    assert "grid_cells" not in Frames.concatenate([labelled(), labelled()]).labels("dft/cp2k").level.settings
    both = Frames.concatenate([labelled("a", "b"), labelled("b")]).labels("dft/cp2k").level
    assert both == labelled("a", "b").labels("dft/cp2k").level
    for names in (("a", "like a"), ("like a", "a")):
        with pytest.raises(LabelsError, match="means different things"):
            Frames.concatenate([labelled(name) for name in names])


def test_selected_sources_are_numbered_in_order_of_appearance(plain_frames):
    picked = plain_frames.select([6, 0])
    assert picked.sources == ("01234567-89ab-cdef-0123-456789abcdef", "crystal run")
    assert picked.source_index.tolist() == [0, 1]
    with pytest.raises(FramesError, match=r"must lie in 0\.\.6"):
        plain_frames.select([7])


def test_flat_arrays_hold_everything(labelled_frames):
    levels = [labelled_frames.labels(key).level for key in sorted(labelled_frames.labels_by_level)]
    back = Frames.from_arrays(labelled_frames.to_arrays(), levels, labelled_frames.sources)
    assert back.content_hash() == labelled_frames.content_hash()
    assert back.sources == labelled_frames.sources


def test_partial_and_energy_only_labels_keep_their_masks(labelled_frames):
    labels = labelled_frames.labels(PBE.key)
    assert labels.counts == {"energy": 5, "forces": 4, "stress": 2}
    only = Labels.build(Level("e"), labelled_frames.offsets, np.arange(7.0))
    frames = labelled_frames.with_labels(only)
    assert frames.labels("e").counts == {"energy": 7, "forces": 0, "stress": 0}
    assert set(frames.atoms(2, "e").calc.results) == {"energy", "free_energy"}


def test_an_ase_image_carries_the_labels_of_its_level(labelled_frames):
    image = labelled_frames.atoms(1, XTB.key)
    labels = labelled_frames.labels(XTB.key)
    assert image.get_potential_energy() == labels.energy[1]
    np.testing.assert_array_equal(image.get_stress(voigt=False), labels.stress[1])
    np.testing.assert_array_equal(image.get_forces(), labels.forces[12:24])


def test_unknown_and_repeated_levels_are_refused(labelled_frames):
    with pytest.raises(LabelsError, match=r"no labels at level 'typo': the frames hold \['gfn1-xtb/tblite'"):
        labelled_frames.labels("typo")
    with pytest.raises(LabelsError, match="is there already"):
        labelled_frames.with_labels(labelled_frames.labels(XTB.key))
    with pytest.raises(LabelsError, match="do not fit"):
        make_frames(2, 0).with_labels(labelled_frames.labels(XTB.key))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"energy": np.array([np.inf])}, "infinite"),
        ({"forces": np.array([[0, 0, 0], [0, np.nan, 0]])}, r"NaN for some atoms of frames \[0\]"),
        ({"stress": np.diag([1.0, np.nan, 1.0])[None]}, r"NaN in part for frames \[0\]"),
    ],
)
def test_broken_labels_are_refused(arrays, message):
    with pytest.raises(LabelsError, match=message):
        Labels.build(Level("x"), np.array([0, 2]), **arrays)


def test_levels_survive_json_and_refuse_what_they_do_not_know():
    assert Level.from_dict(PBE.to_dict()) == PBE
    assert PBE.to_dict()["energy"] == "sigma0"
    assert Level("x", energy="free").energy is EnergyKind.FREE
    assert Level("x", settings={"grid": (1, 2)}) == Level("x", settings={"grid": [1, 2]})
    with pytest.raises(LabelsError, match=r"unknown entries in a level of theory: \['functional'\]"):
        Level.from_dict({"key": "x", "functional": "pbe"})
    with pytest.raises(LabelsError, match="white space"):
        Level("my level")
    assert Level("x", settings={"cutoff": 0.1 + 0.2}) == Level("x", settings={"cutoff": 0.3})
    with pytest.raises(LabelsError, match="not plain JSON"):
        Level("x", settings={"f": object()})


def test_jobs_read_geometry_and_write_labels(tmp_path, plain_frames):
    write_geometry(tmp_path / "frames.npz", plain_frames)
    with np.load(tmp_path / "frames.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["cells", "numbers", "offsets", "pbc", "positions"]
        assert Frames.from_arrays(dict(arrays)).content_hashes() == plain_frames.content_hashes()
    np.savez(
        tmp_path / "labels.npz",
        energy=np.arange(7.0),
        forces=np.zeros((57, 3)),
        stress=np.full((7, 3, 3), np.nan),
    )
    assert read_labels(tmp_path / "labels.npz", XTB, plain_frames).counts == {"energy": 7, "forces": 7, "stress": 0}


def test_no_frames_are_frames_too():
    assert len(Frames.from_atoms([])) == 0
    assert Frames.from_atoms([Atoms("He")]).select([]).elements == []
