"""Frames sorted into jobs."""

import numpy as np
import pytest
from ase.build import molecule

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.datasets.batches import batch_indices
from aiida_mlfinetune.science.datasets.frames import Frames


def test_one_composition_and_periodicity_a_job(plain_frames):
    """Four crystals and three molecules, two a job at most: as even as can be, all frames, each once."""
    batches = batch_indices(plain_frames, 2)
    assert sorted(map(len, batches)) == [1, 2, 2, 2]
    assert sorted(np.concatenate(batches).tolist()) == list(range(7))
    assert all(len(set(plain_frames.pbc[batch, 0])) == 1 for batch in batches)
    assert len(batch_indices(plain_frames, 100)) == 2
    assert len(batch_indices(plain_frames, 100, mixed=True)) == 1


def test_the_largest_come_first():
    """Jobs are submitted some at a time, and the next when all of those have ended."""
    water, pair, peroxide = molecule("H2O"), molecule("H2O") + molecule("H2O"), molecule("H2O2")
    images = [water, pair, peroxide]
    batches = batch_indices(Frames.from_atoms(images), 100)
    assert [batch.tolist() for batch in batches] == [[1], [2], [0]]


def test_another_order_of_atoms_is_another_job():
    water = molecule("H2O")
    assert len(batch_indices(Frames.from_atoms([water, water[[1, 0, 2]]]), 10)) == 2


def test_crystals_with_different_grids_never_share_a_job(plain_frames):
    """Frames that differ in kind go apart; those of one kind are sorted as before."""
    kinds = np.array([0, 1, 0, 1, 0, 0, 0])
    batches = batch_indices(plain_frames, 100, kinds=kinds)
    assert all(len(set(kinds[batch])) == 1 for batch in batches)
    assert sorted(np.concatenate(batches).tolist()) == list(range(7))
    assert len(batches) == len(batch_indices(plain_frames, 100)) + 1


def test_equal_frames_are_computed_once():
    water, other = molecule("H2O"), molecule("H2O")
    other.positions += 0.1
    (batch,) = batch_indices(Frames.from_atoms([water, other, water, other]), 10)
    assert sorted(batch.tolist()) == [0, 1]


def test_neighbours_are_alike():
    """Frames along a line, shuffled, come back in their order along it."""
    rng = np.random.default_rng(0)
    places = np.concatenate([[0.0], rng.permutation(np.arange(1.0, 9.0))])
    images = []
    for place in places:
        image = molecule("H2O")
        image.positions[1, 1] += 0.01 * place
        images.append(image)
    (batch,) = batch_indices(Frames.from_atoms(images), 100)
    assert places[batch].tolist() == sorted(places)


def test_no_frame_a_job():
    with pytest.raises(FramesError, match="at least one frame"):
        batch_indices(Frames.from_atoms([molecule("H2O")]), 0)
