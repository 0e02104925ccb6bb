"""Frames are chosen after equilibration, repeatably, and ordered so that neighbours are alike."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import FramesError, MoleculesError
from aiida_mlfinetune.science.crystals.volumes import frames_in_random_cells
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.reference_cells import strains
from aiida_mlfinetune.science.datasets.selection import (
    Selection,
    SelectionMethod,
    inverse_permutation,
    order_by_similarity,
    select_indices,
    share_evenly,
)
from tests.fixtures.frames import make_frames


def test_random_frames_come_after_equilibration_and_only_once():
    chosen = select_indices(100, Selection(50, seed=1, equilibration=0.4))
    assert len(set(chosen.tolist())) == 50
    assert chosen.min() >= 40
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, select_indices(100, Selection(50, seed=1, equilibration=0.4)))
    assert chosen.tolist() != select_indices(100, Selection(50, seed=2, equilibration=0.4)).tolist()


def test_a_stride_is_even_and_ends_with_the_last_frame():
    chosen = select_indices(101, Selection(10, SelectionMethod.STRIDE, equilibration=0.5))
    np.testing.assert_array_equal(chosen, [55, 60, 65, 70, 75, 80, 85, 90, 95, 100])
    np.testing.assert_array_equal(select_indices(3, Selection(3, SelectionMethod.STRIDE)), [0, 1, 2])


def test_more_frames_than_there_are_is_refused():
    with pytest.raises(FramesError, match="61 frames are wanted, but of 100 frames only 60 come after"):
        select_indices(100, Selection(61, seed=1, equilibration=0.4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_frames": 0, "seed": 1}, "take at least one frame"),
        ({"n_frames": 5}, "give it a 'seed'"),
        ({"n_frames": 5, "method": "stride", "volume_range": [1, 1.1]}, "give it a 'seed'"),
        ({"n_frames": 5, "method": "stride", "largest_shear": 0.1}, "give it a 'seed'"),
        ({"n_frames": 5, "seed": 1, "largest_shear": 0.5}, "less than 0.5"),
        ({"n_frames": 5, "seed": 1, "method": "magic"}, r"use one of \['random', 'stride'\]"),
        ({"n_frames": 5, "seed": 1, "equilibration": 1.0}, "less than 1"),
        ({"n_frames": 5, "seed": 1, "equilibration": -0.1}, "at least 0"),
        ({"n_frames": 5, "seed": 1, "volume_range": [1.1, 1.0]}, "lowest <= highest"),
        (
            {"n_frames": 5, "seed": 1, "equilibrate": 0.1},
            r"unknown entries in a selection of frames: \['equilibrate'\]",
        ),
        ({"seed": 1}, "needs 'n_frames'"),
    ],
)
def test_selections_that_make_no_sense_are_refused(values, message):
    with pytest.raises(FramesError, match=message):
        Selection.from_dict(values)


def test_volumes_are_drawn_from_the_range_and_molecules_stay_rigid():
    frames = make_frames(6, 0)
    scaled = frames_in_random_cells(frames, (1.0, 1.2), 200.0, seed=5)
    assert ((scaled.volumes >= 200.0) & (scaled.volumes <= 240.0)).all()
    assert np.ptp(scaled.volumes) > 5
    np.testing.assert_array_equal(scaled.steps, frames.steps)
    assert scaled.sources == frames.sources
    for old, new in zip(frames, scaled, strict=True):
        np.testing.assert_allclose(new.cell.angles(), old.cell.angles(), rtol=1e-12)
        for first in range(0, 12, 3):
            for pair in ((0, 1), (0, 2), (1, 2)):
                i, j = first + pair[0], first + pair[1]
                assert new.get_distance(i, j, mic=True) == pytest.approx(old.get_distance(i, j, mic=True), abs=1e-10)
        ratio = (new.get_volume() / old.get_volume()) ** (1 / 3)
        centres = [image.positions.reshape(4, 3, 3).mean(axis=1) for image in (old, new)]
        assert np.linalg.norm(centres[1][1] - centres[1][0]) == pytest.approx(
            ratio * np.linalg.norm(centres[0][1] - centres[0][0]), rel=0.02
        )
    again = frames_in_random_cells(frames, (1.0, 1.2), 200.0, seed=5)
    assert again.content_hash() == scaled.content_hash()


def test_cells_are_sheared_at_random_and_keep_their_volume():
    frames = make_frames(20, 0)
    sheared = frames_in_random_cells(frames, None, None, 5, largest_shear=0.1)
    np.testing.assert_allclose(sheared.volumes, frames.volumes, rtol=1e-12)
    stretches = [strains([old], new)[0] for old, new in zip(frames.cells, sheared.cells, strict=True)]
    assert 0.08 < max(stretches) < np.expm1(0.1) + 1e-12
    assert min(stretches) < 0.03
    shears = np.array([np.linalg.solve(old, new) for old, new in zip(frames.cells, sheared.cells, strict=True)])
    assert (np.abs(shears.mean(axis=0) - np.eye(3)) < 0.03).all()  # in no direction more than in another
    for old, new in zip(frames, sheared, strict=True):
        assert new.get_distance(0, 1, mic=True) == pytest.approx(old.get_distance(0, 1, mic=True), abs=1e-10)
    both = frames_in_random_cells(frames, (1.0, 1.2), 200.0, 5, largest_shear=0.1)
    np.testing.assert_allclose(both.volumes, frames_in_random_cells(frames, (1.0, 1.2), 200.0, 5).volumes, rtol=1e-12)


def test_labels_do_not_survive_a_new_volume(labelled_frames):
    crystals = labelled_frames.select(range(4))
    assert not frames_in_random_cells(crystals, (1.0, 1.1), 200.0, seed=1).labels_by_level


def test_a_molecule_has_no_volume_to_change(plain_frames):
    with pytest.raises(FramesError, match=r"frames \[4, 5, 6\] are not periodic"):
        frames_in_random_cells(plain_frames, (1.0, 1.1), 200.0, seed=1)
    with pytest.raises(FramesError, match="reference volume"):
        frames_in_random_cells(plain_frames.select([0]), (1.0, 1.1), 0.0, seed=1)


def test_a_network_is_no_molecular_crystal():
    from ase.build import bulk

    with pytest.raises(MoleculesError):
        frames_in_random_cells(Frames.from_atoms([bulk("Si", cubic=True)]), (1.0, 1.1), 200.0, seed=1)


def path_length(frames: Frames, order) -> float:
    return sum(
        float(np.sqrt(((frames.positions[frames.slice(i)] - frames.positions[frames.slice(j)]) ** 2).mean()))
        for i, j in pairwise(order)
    )


@pytest.mark.parametrize(
    ("number", "available", "shares"),
    [
        (75, [400], [75]),
        (75, [400, 400], [37, 38]),
        (10, [2, 9, 3], [2, 5, 3]),
        (99, [2, 9, 0], [2, 9, 0]),
        (0, [4], [0]),
        (3, [], []),
    ],
)
def test_frames_are_shared_evenly_as_far_as_they_are_there(number, available, shares):
    assert share_evenly(number, available) == shares


def test_frames_of_one_composition_stay_together():
    frames = make_frames(6, 5)
    mixed = frames.select(np.random.default_rng(3).permutation(11))
    order = order_by_similarity(mixed)
    assert sorted(order.tolist()) == list(range(11))
    gas = ~mixed.pbc[order].any(axis=1)
    assert np.count_nonzero(np.diff(gas.astype(int))) == 1
    np.testing.assert_array_equal(np.arange(11)[order][inverse_permutation(order)], np.arange(11))


def test_a_shuffled_path_is_found_again():
    rng = np.random.default_rng(0)
    start = make_frames(1, 0).atoms(0)
    images = []
    for step in range(12):
        image = start.copy()
        image.set_cell(start.cell.array * (1 + 0.01 * step), scale_atoms=True)
        images.append(image)
    shuffle = np.concatenate([[0], 1 + rng.permutation(11)])
    frames = Frames.from_atoms([images[index] for index in shuffle])
    np.testing.assert_array_equal(shuffle[order_by_similarity(frames)], np.arange(12))


def test_atoms_that_cross_a_face_of_the_cell_are_still_near():
    start = make_frames(1, 0).atoms(0)
    far, wrapped = start.copy(), start.copy()
    far.positions += 0.8 * np.random.default_rng(1).normal(size=far.positions.shape)
    wrapped.positions[3:6] += wrapped.cell[0] - wrapped.cell[2]
    wrapped.positions += 0.05
    order = order_by_similarity(Frames.from_atoms([start, far, wrapped]))
    np.testing.assert_array_equal(order, [0, 2, 1])


def test_molecules_and_slabs_can_be_ordered_too():
    frames = make_frames(0, 6)
    order = order_by_similarity(frames)
    assert path_length(frames, order) <= path_length(frames, np.arange(6)) + 1e-9
    slab = make_frames(3, 0)
    flat = Frames(**{**vars(slab), "pbc": np.array([[True, True, False]] * 3), "cells": slab.cells * [[[1], [1], [0]]]})
    assert sorted(order_by_similarity(flat).tolist()) == [0, 1, 2]


def test_large_groups_are_ordered_in_time(monkeypatch):
    monkeypatch.setattr("aiida_mlfinetune.science.datasets.selection.GREEDY_LIMIT", 3)
    frames = make_frames(5, 0).select([3, 1, 4, 0, 2])
    np.testing.assert_array_equal(frames.steps[order_by_similarity(frames)], [0, 10, 20, 30, 40])
