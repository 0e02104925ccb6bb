"""Splits are seeded, disjoint, exact in size, and alike in composition."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.splits import (
    CHOICES,
    NestedSizes,
    SplitSizes,
    nested_split,
    nested_training_sets,
    split_frames,
)
from tests.fixtures.frames import make_frames


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Twenty crystal frames and ten gas frames."""
    return make_frames(20, 10)


def gas_counts(frames: Frames, sets) -> dict[str, int]:
    return {name: int((~frames.pbc[indices].any(axis=1)).sum()) for name, indices in sets.items()}


def test_sizes_are_exact_and_sets_are_disjoint(frames):
    sets = split_frames(frames, SplitSizes(train=12, valid=6, test=3, seed=4))
    assert {name: len(indices) for name, indices in sets.items()} == {"train": 12, "valid": 6, "test": 3}
    together = np.concatenate(list(sets.values()))
    assert len(set(together.tolist())) == 21
    hashes = frames.content_hashes()
    assert len({hashes[index] for index in together}) == 21


def test_the_rest_is_for_training(frames):
    sets = split_frames(frames, SplitSizes(valid=0.2, test=0.1, seed=4))
    assert {name: len(indices) for name, indices in sets.items()} == {"train": 21, "valid": 6, "test": 3}
    assert sorted(np.concatenate(list(sets.values())).tolist()) == list(range(30))


@pytest.mark.parametrize("seed", range(10))
def test_crystal_and_gas_are_in_every_set(frames, seed):
    sets = split_frames(frames, SplitSizes(train=15, valid=6, test=3, seed=seed))
    assert gas_counts(frames, sets) == {"train": 5, "valid": 2, "test": 1}


@pytest.mark.parametrize("seed", range(10))
def test_a_rare_composition_is_in_every_set_if_there_are_three_of_it(seed):
    frames = make_frames(40, 3)
    sets = split_frames(frames, SplitSizes(valid=4, test=4, seed=seed))
    assert gas_counts(frames, sets) == {"train": 1, "valid": 1, "test": 1}


def test_the_seed_alone_decides(frames):
    def split(seed):
        return [indices.tolist() for indices in split_frames(frames, SplitSizes(valid=5, test=5, seed=seed)).values()]

    assert split(1) == split(1)
    assert split(1) != split(2)


def test_equal_frames_cannot_be_split(frames):
    with pytest.raises(FramesError, match=r"frames are equal to others of the same dataset, such as \[\(3, 30\)\]"):
        split_frames(Frames.concatenate([frames, frames.select([3])]), SplitSizes(valid=3))


@pytest.mark.parametrize("seed", range(5))
def test_neighbours_in_time_do_not_stand_on_both_sides(frames, seed):
    sizes = SplitSizes(train=8, valid=4, test=4, seed=seed, min_separation=25)
    sets = split_frames(frames.select(range(20)), sizes)
    assert {name: len(indices) for name, indices in sets.items()} == {"train": 8, "valid": 4, "test": 4}
    for first in sets:
        for second in sets:
            if first != second:
                gaps = np.abs(frames.steps[sets[first]][:, None] - frames.steps[sets[second]][None, :])
                assert gaps.min() >= 25


def test_with_a_separation_every_run_has_its_share_of_every_set():
    runs = [make_frames(20, 0, seed=number).with_source(f"run {number}") for number in range(4)]
    frames = Frames.concatenate(runs)
    sets = split_frames(frames, SplitSizes(valid=16, test=8, seed=3, min_separation=15))
    for name, share in (("valid", 4), ("test", 2)):
        counts = np.bincount(frames.source_index[sets[name]], minlength=4)
        assert counts.tolist() == [share] * 4, name
    own = frames.source_index[sets["train"]][:, None] == frames.source_index[sets["valid"]][None, :]
    gaps = np.abs(frames.steps[sets["train"]][:, None] - frames.steps[sets["valid"]][None, :])
    assert gaps[own].min() >= 15


def test_a_separation_that_cannot_be_had_is_refused(frames):
    with pytest.raises(FramesError, match="lower 'min_separation'"):
        split_frames(frames.select(range(20)), SplitSizes(train=16, valid=2, test=2, min_separation=50))


def test_frames_of_unknown_step_are_not_taken_for_neighbours():
    frames = make_frames(8, 0)
    unknown = Frames(**{**vars(frames), "steps": np.full(8, -1)})
    sets = split_frames(unknown, SplitSizes(valid=4, min_separation=1000))
    assert len(sets["train"]) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"valid": 40}, "wants 40 frames|no frame for training"),
        ({"valid": 10, "train": 25}, "wants 35 frames"),
        ({"valid": 20, "test": 10}, "no frame for training"),
        ({"valid": 0.5, "test": 3}, "as counts or as fractions, not both"),
        ({"valid": 0.7, "test": 0.5}, "more than one"),
        ({"valid": -1}, "must be positive"),
        ({"valid": 2.5}, "whole numbers"),
        ({"valid": 0.01}, "leaves the valid set empty"),
        ({"valid": 3, "train": 0}, "must be positive"),
        ({"valid": 3, "min_separation": -5}, "min_separation"),
        ({"valid": 3, "sede": 1}, r"unknown entries in the parameters of a split: \['sede'\]"),
        ({"test": 3}, "need 'valid'"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(frames, values, message):
    with pytest.raises(FramesError, match=message):
        split_frames(frames, SplitSizes.from_dict(values))


def test_fractions_that_round_up_together_still_fit(frames):
    few = frames.select([0, 1, 2, 3, 4])
    sets = split_frames(few, SplitSizes(train=0.5, valid=0.3, test=0.2))
    assert sum(len(indices) for indices in sets.values()) == 5


def test_nested_sets_contain_the_smaller_ones(frames):
    sets = nested_training_sets(frames, [24, 6, 12], seed=3)
    assert list(sets) == [6, 12, 24]
    assert [len(indices) for indices in sets.values()] == [6, 12, 24]
    assert set(sets[6]) < set(sets[12]) < set(sets[24])
    assert gas_counts(frames, sets) == {6: 2, 12: 4, 24: 8}
    assert nested_training_sets(frames, [6], seed=3)[6].tolist() == sets[6].tolist()
    assert nested_training_sets(frames, [6], seed=4)[6].tolist() != sets[6].tolist()


@pytest.mark.parametrize("sizes", [[], [0, 3], [31]])
def test_nested_sets_that_do_not_fit_are_refused(frames, sizes):
    with pytest.raises(FramesError, match=r"must lie in 1\.\.30"):
        nested_training_sets(frames, sizes, seed=1)


def nested(frames, **values):
    return nested_split(frames, NestedSizes.from_dict({"valid": 6, "seed": 2, **values}))


def test_nested_splits_hold_disjoint_sets(frames):
    split = nested(frames, train=[4, 8, 16], test=3)
    assert (list(split.train), len(split.valid), len(split.test), split.n_left_out) == ([4, 8, 16], 6, 3, 0)
    assert set(split.train[4]) < set(split.train[8]) < set(split.train[16])
    together = [*split.train[16], *split.valid, *split.test]
    assert len(set(together)) == 25
    assert gas_counts(frames, {"valid": split.valid, "train": split.train[16]}) == {"valid": 2, "train": 5}


@pytest.mark.parametrize("separation", [0, 25])
def test_a_set_does_not_depend_on_which_other_sizes_are_asked_for(frames, separation):
    crystal = frames.select(range(20))
    one = nested(crystal, train=[4], valid=4, min_separation=separation)
    three = nested(crystal, train=[8, 2, 4], valid=4, min_separation=separation)
    assert one.train[4].tolist() == three.train[4].tolist()
    assert one.valid.tolist() == three.valid.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_nested_sets_keep_their_distance_in_time(frames, seed):
    crystal = frames.select(range(20))
    sizes = NestedSizes((3, 6), valid=4, test=3, seed=seed)
    split = nested_split(crystal, sizes, min_separation=25)
    assert split.n_left_out > 0
    for one, other in ((split.train[6], split.valid), (split.train[6], split.test), (split.valid, split.test)):
        gaps = np.abs(crystal.steps[one][:, None] - crystal.steps[other][None, :])
        assert gaps.min() >= 25
    given = NestedSizes((3, 6), valid=4, test=3, seed=seed, min_separation=0)
    assert nested_split(crystal, given, min_separation=25).n_left_out == 0


def test_fractions_are_of_all_frames(frames):
    split = nested(frames, train=[0.1, 0.4], valid=0.2, test=0.1)
    assert (list(split.train), len(split.valid), len(split.test)) == ([3, 12], 6, 3)


def test_published_sizes_are_choices():
    kaur = NestedSizes.from_dict({"choice": "kaur2025", "seed": 5})
    assert kaur == NestedSizes((50, 100, 160, 200, 320, 400), valid=100, seed=5)
    caco3 = NestedSizes.from_dict({"choice": "caco3"})
    assert caco3 == NestedSizes((10, 30, 50, 100, 200, 300), valid=100)
    assert kaur.counts(500) == ([50, 100, 160, 200, 320, 400], 100, 0)
    assert caco3.counts(400)[0][-1] == 300
    assert NestedSizes.from_dict({"choice": "caco3", "valid": 50}).valid == 50
    assert set(CHOICES) == {"kaur2025", "caco3"}


def test_nested_splits_of_equal_frames_are_refused(frames):
    with pytest.raises(FramesError, match="frames are equal to others"):
        nested(Frames.concatenate([frames, frames.select([3])]), train=[4])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": []}, "each size"),
        ({"train": [4, 4]}, "each size .* once"),
        ({"train": [0.1, 0.11]}, "counts or as fractions, not both"),
        ({"train": [0.1, 0.11], "valid": 0.2}, "make equal sets"),
        ({"train": 8}, "must list the sizes"),
        ({"train": [4, 30]}, "wants 36 frames"),
        ({"train": [4], "valid": 1}, "needs at least 2"),
        ({"train": [4], "vaild": 2}, r"unknown entries in nested splits: \['vaild'\]"),
        ({"choice": "kaur"}, "no choice 'kaur'"),
        ({"choice": "kaur2025"}, "wants 56 frames"),
        ({"train": [12], "valid": 4, "min_separation": 300}, "lower 'min_separation'|take smaller"),
        ({}, r"need \['train'\]"),
    ],
)
def test_nested_sizes_that_make_no_sense_are_refused(frames, values, message):
    with pytest.raises(FramesError, match=message):
        nested(frames, **values)
