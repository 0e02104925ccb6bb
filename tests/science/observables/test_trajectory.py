"""Runs are read block by block, from memory and from files, and only if they are runs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from ase import Atoms
from ase.geometry import find_mic

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.observables import trajectory as module
from aiida_mlfinetune.science.observables.trajectory import (
    Centroids,
    FramesTrajectory,
    StoredTrajectory,
    atoms_of,
    check_radius,
    half_heights,
    nearest_images,
)

SKEW = np.array([[6.0, 0.0, 0.0], [-2.5, 5.0, 0.0], [1.0, 2.0, 7.0]])


def run(n: int = 25, cell: object = SKEW, seed: int = 1) -> Frames:
    rng = np.random.default_rng(seed)
    images = [Atoms("OH2", positions=rng.normal(size=(3, 3)) * 5, cell=cell, pbc=cell is not None) for _ in range(n)]
    return Frames.from_atoms(images, steps=list(range(0, 10 * n, 10)))


def stored(frames: Frames) -> io.BytesIO:
    buffer = io.BytesIO()
    np.savez(buffer, **frames.to_arrays())
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("start", [0, 3, 4, 11, 24])
def test_memory_and_file_give_the_same_blocks(monkeypatch, start):
    monkeypatch.setattr(module, "BLOCK_VALUES", 36)  # four frames of three atoms
    frames = run()
    for trajectory in (FramesTrajectory(frames, start), StoredTrajectory(stored(frames), start)):
        for _ in range(2):  # every call starts anew
            blocks = list(trajectory.blocks())
            assert [block.start for block in blocks] == list(np.cumsum([0, *(len(b.cells) for b in blocks[:-1])]))
            assert max(len(block.cells) for block in blocks) <= 4
            np.testing.assert_array_equal(
                np.concatenate([block.positions for block in blocks]), frames.positions.reshape(25, 3, 3)[start:]
            )
            np.testing.assert_array_equal(np.concatenate([block.cells for block in blocks]), frames.cells[start:])
        assert len(trajectory) == 25 - start
        assert trajectory.numbers.tolist() == [8, 1, 1]
        assert trajectory.pbc.tolist() == [True, True, True]


def broken(kind: str) -> Frames:
    frames = run(3)
    if kind == "atoms":
        return Frames.from_atoms([Atoms("OH2"), Atoms("HOH")])
    if kind == "sizes":
        return Frames.from_atoms([Atoms("OH2"), Atoms("OH")])
    if kind == "periodicity":
        return Frames.from_atoms([Atoms("OH2", cell=SKEW, pbc=True), Atoms("OH2")])
    return Frames.from_atoms(list(frames), steps=[0, 10, 30])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("atoms", "same atoms in the same order"),
        ("sizes", "same atoms in the same order"),
        ("periodicity", "same directions"),
        ("steps", r"differ by \[10, 20\]"),
    ],
)
def test_what_is_no_run_is_refused(kind, message):
    frames = broken(kind)
    with pytest.raises(FramesError, match=message):
        FramesTrajectory(frames)
    with pytest.raises(FramesError, match=message):
        StoredTrajectory(stored(frames))


def test_cannot_drop_all_frames():
    for make in (lambda: FramesTrajectory(run(5), 5), lambda: StoredTrajectory(stored(run(5)), 5)):
        with pytest.raises(FramesError, match="drop 5 of 5"):
            make()


def test_absent_elements_are_refused_by_name():
    assert atoms_of(FramesTrajectory(run(1)), "H").tolist() == [1, 2]
    with pytest.raises(FramesError, match=r"no element 'Ca' in the trajectory: it holds \['H', 'O'\]"):
        atoms_of(FramesTrajectory(run(1)), "Ca")


def test_nearest_images_are_those_of_ase_up_to_half_the_heights():
    assert half_heights(np.array([np.diag([4.0, 6.0, 5.0])]))[0] == pytest.approx(2.0)
    rng = np.random.default_rng(0)
    limit = half_heights(SKEW[None])[0]
    vectors = rng.uniform(-10, 10, size=(1, 4000, 3))
    exact = find_mic(vectors[0], SKEW, True)[1]
    ours = np.linalg.norm(nearest_images(vectors, SKEW[None])[0], axis=1)
    near = exact < limit
    assert near.sum() > 100
    np.testing.assert_allclose(ours[near], exact[near])
    assert (ours[~near] >= limit).all()  # none is taken for nearer than it is


def test_radii_beyond_the_minimum_image_are_refused_with_the_largest_one():
    frames = FramesTrajectory(run(3, cell=np.diag([8.0, 9.0, 10.0])))
    check_radius(frames, 4.0, "a test")
    with pytest.raises(FramesError, match=r"a test up to 4.1 angstrom.*at most 4 angstrom"):
        check_radius(frames, 4.1, "a test")
    with pytest.raises(FramesError, match="needs a cell"):
        check_radius(FramesTrajectory(run(3, cell=None)), 1.0, "a test")


@pytest.mark.parametrize("start", [0, 6])
def test_beads_stay_together_and_have_centroids(monkeypatch, start):
    monkeypatch.setattr(module, "BLOCK_VALUES", 36)  # four frames of three atoms: one step of three beads
    frames = run(24).select(np.arange(24))
    beads = Frames.from_atoms(frames.to_atoms(), steps=np.repeat(np.arange(8) * 5, 3).tolist())
    means = beads.positions.reshape(8, 3, 3, 3).mean(axis=1)[start // 3 :]
    for trajectory in (FramesTrajectory(beads, start, 3), StoredTrajectory(stored(beads), start, 3)):
        assert all(len(block.cells) % 3 == 0 for block in trajectory.blocks())
        centroids = Centroids(trajectory)
        assert len(centroids) == 8 - start // 3
        blocks = list(centroids.blocks())
        np.testing.assert_allclose(np.concatenate([block.positions for block in blocks]), means)
        assert [block.start for block in blocks] == list(range(len(centroids)))
    with pytest.raises(FramesError, match="groups of 2 of one step"):
        FramesTrajectory(beads, 0, 2)
    with pytest.raises(FramesError, match="differ by"):
        FramesTrajectory(beads)
