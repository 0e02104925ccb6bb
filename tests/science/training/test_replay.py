"""Which frames make a replay set."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from aiida_mlfinetune.common.errors import FramesError, LabelsError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from aiida_mlfinetune.science.training.replay import (
    ElementRule,
    FrameDescriptors,
    ReplayLabels,
    ReplaySettings,
    element_pairs,
    farthest_points,
    matching_frames,
    random_fill,
)

DIMENSION = 6


def mixed_frames(n: int, seed: int = 0) -> Frames:
    """Return frames of random subsets of H, C and O."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        symbols = rng.choice(["H", "C", "O"], size=rng.integers(1, 5))
        images.append(Atoms(symbols, rng.uniform(0, 5, (len(symbols), 3))))
    return Frames.from_atoms(images)


def random_descriptors(frames: Frames, seed: int = 0) -> FrameDescriptors:
    pairs = element_pairs(frames)
    values = np.random.default_rng(seed).normal(loc=2.0, size=(len(pairs), DIMENSION))
    return FrameDescriptors(pairs[:, 0], pairs[:, 1], values)


def dense(descriptors: FrameDescriptors) -> np.ndarray:
    """Return (n, elements * d), zeros for elements that a frame lacks: the definition in so many words."""
    numbers = np.unique(descriptors.number)
    matrix = np.zeros((descriptors.frame.max() + 1, len(numbers), descriptors.mean.shape[1]))
    for frame, number, mean in zip(descriptors.frame, descriptors.number, descriptors.mean, strict=True):
        matrix[frame, np.searchsorted(numbers, number)] = mean
    return matrix.reshape(len(matrix), -1)


def test_farthest_points_are_those_of_the_definition():
    frames = mixed_frames(80)
    descriptors = random_descriptors(frames)
    chosen, distances = farthest_points(descriptors, 30, seed=3)
    points = dense(descriptors)
    expected = [int(np.random.default_rng(3).integers(80))]
    for step in range(1, 30):
        nearest = np.linalg.norm(points[:, None] - points[None, expected], axis=2).min(axis=1)
        expected.append(int(np.argmax(nearest)))
        assert distances[step] == pytest.approx(nearest.max(), abs=1e-10)
    assert chosen.tolist() == expected
    left = np.setdiff1d(np.arange(80), chosen)
    nearest = np.linalg.norm(points[left, None] - points[None, chosen], axis=2).min(axis=1)
    assert nearest.max() <= distances[-1]
    assert (np.diff(distances[1:]) <= 1e-12).all()


def test_a_larger_set_begins_with_the_smaller_one_and_another_seed_starts_elsewhere():
    descriptors = random_descriptors(mixed_frames(50))
    small, large = (farthest_points(descriptors, n, seed=1)[0] for n in (10, 50))
    assert large[:10].tolist() == small.tolist()
    assert sorted(large.tolist()) == list(range(50))
    assert farthest_points(descriptors, 10, seed=2)[0][0] != small[0]
    with pytest.raises(FramesError, match="51 frames are to be chosen from 50"):
        farthest_points(descriptors, 51, seed=1)


def test_frames_that_are_equal_come_last():
    frames = mixed_frames(20)
    twice = Frames.concatenate([frames, frames])
    one = random_descriptors(frames)
    both = FrameDescriptors(
        np.concatenate([one.frame, one.frame + 20]), np.tile(one.number, 2), np.concatenate([one.mean, one.mean])
    )
    both.check(twice)
    chosen, distances = farthest_points(both, 40, seed=0)
    assert sorted(chosen[:20] % 20) == list(range(20))
    assert distances[20:].max() < 1e-6 < distances[19]


def test_descriptors_of_other_frames_are_refused():
    frames = mixed_frames(10)
    descriptors = random_descriptors(frames)
    descriptors.check(frames)
    with pytest.raises(FramesError, match="pairs of frame and element"):
        descriptors.check(frames.select(range(9)))


def test_frames_are_candidates_by_their_elements():
    images = [Atoms(name) for name in ("H2O", "CO2", "H2", "CH4O", "CH4", "O")]
    frames = Frames.from_atoms(images)
    found = {
        (rule, elements): np.flatnonzero(matching_frames(frames, list(elements), rule)).tolist()
        for rule in ElementRule
        for elements in ("HO", "CHO", "C")
    }
    assert found[ElementRule.AT_LEAST_TWO, "HO"] == [0, 3]
    assert found[ElementRule.AT_LEAST_TWO, "CHO"] == [0, 1, 3, 4]
    assert found[ElementRule.AT_LEAST_TWO, "C"] == [1, 3, 4]
    assert found[ElementRule.EVERY, "CHO"] == [3]
    assert found[ElementRule.NONE, "HO"] == list(range(6))
    with pytest.raises(FramesError, match="no elements"):
        matching_frames(frames, [], ElementRule.NONE)


def test_frames_without_the_level_are_no_candidates():
    frames = Frames.from_atoms([Atoms("H2O"), Atoms("H2O")])
    labels = Labels.build(Level("pbe/vasp"), frames.offsets, energy=np.array([1.0, np.nan]))
    frames = frames.with_labels(labels)
    assert matching_frames(frames, ["H", "O"], ElementRule.EVERY, "pbe/vasp").tolist() == [True, False]
    with pytest.raises(LabelsError, match="no labels at level 'scan/vasp'"):
        matching_frames(frames, ["H", "O"], ElementRule.EVERY, "scan/vasp")


def test_missing_frames_are_drawn_at_random():
    drawn = random_fill(5, 100, 20, seed=4)
    assert len(set(drawn.tolist())) == 15
    assert drawn.tolist() == random_fill(5, 100, 20, seed=4).tolist() != random_fill(5, 100, 20, seed=5).tolist()
    assert random_fill(5, 0, 5, seed=0).size == 0
    with pytest.raises(FramesError, match="only 105 to choose from"):
        random_fill(5, 100, 106, seed=0)


def test_settings_are_read_and_written():
    settings = ReplaySettings.from_dict({"n_frames": 10, "seed": 1, "labels": "foundation", "elements": "every"})
    assert settings.labels is ReplayLabels.FOUNDATION
    assert ReplaySettings.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_frames": 10}, "need \\['seed'\\]"),
        ({"n_frames": 1, "seed": 0}, "'n_frames' is 1: give a whole number of at least 2"),
        ({"n_frames": 10, "seed": -1}, "'seed' is -1"),
        ({"n_frames": 10, "seed": 0, "elements": "some"}, "'elements' is 'some': use one of"),
        ({"n_frames": 10, "seed": 0, "size": 3}, "unknown entries .*\\['size'\\]"),
        ({"n_frames": 10, "seed": 0}, "no 'level' says which"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(FramesError, match=message):
        ReplaySettings.from_dict(values)
