"""Minimum image distances against a sum over many images, and frames that are in a set twice."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.science.datasets.distances import blocks, smallest_distances
from aiida_mlfinetune.science.datasets.duplicates import TOLERANCE_A, find_duplicates
from aiida_mlfinetune.science.datasets.frames import Frames
from tests.fixtures.frames import make_frames


def nearest_image(atoms: Atoms, i: int, j: int) -> float:
    reach = [range(-8, 9) if periodic else (0,) for periodic in atoms.pbc]
    images = np.array(np.meshgrid(*reach)).reshape(3, -1).T @ atoms.cell.array
    lengths = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + images, axis=1)
    return float(lengths[lengths > 1e-12].min())


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)])
def test_distances_are_those_of_the_nearest_image_also_in_oblique_cells(pbc):
    rng = np.random.default_rng(3)
    images = []
    for _ in range(20):
        shear = np.eye(3) + np.tril(rng.uniform(-1.5, 1.5, (3, 3)), -1)
        images.append(Atoms("HOHO", positions=rng.uniform(-3, 3, (4, 3)), cell=np.diag([4, 5, 6]) @ shear, pbc=pbc))
    (block,) = blocks(Frames.from_atoms(images))
    assert block.frames.tolist() == list(range(20))
    for row, atoms in enumerate(images):
        expected = [nearest_image(atoms, i, j) for i, j in zip(block.first, block.second, strict=True)]
        np.testing.assert_allclose(block.distances[row], expected, atol=1e-9)
        if any(pbc):
            assert block.image_distance[row] == pytest.approx(nearest_image(atoms, 0, 0))


def test_smallest_distances_by_pair_of_elements():
    water = molecule("H2O")
    water.set_cell([2.5, 20, 20])
    water.pbc = True
    gas = Atoms("CO", positions=[[0, 0, 0], [1.13, 0, 0]])
    found = smallest_distances(Frames.from_atoms([water, gas]))
    assert found.pairs == ("C-O", "H-H", "H-O", "O-O")
    np.testing.assert_allclose(found.values[1], [1.13, np.nan, np.nan, np.nan])
    # an oxygen sees its own image along the short vector
    np.testing.assert_allclose(found.values[0], [np.nan, 1.526478, 0.968565, 2.5], atol=1e-6)


def test_equal_frames_are_grouped():
    frames = make_frames(3, 2)
    doubled = Frames.concatenate([frames, frames.select([1, 4, 1])])
    found = find_duplicates(doubled)
    assert found.equal == ((1, 5, 7), (4, 6))
    assert found.n_surplus == 3
    assert found.near == ()


def test_the_same_frame_reordered_moved_or_turned_is_a_near_duplicate():
    rng = np.random.default_rng(5)
    frames = make_frames(4, 3)
    crystal, gas = frames.atoms(0), frames.atoms(5)
    reordered = crystal[rng.permutation(len(crystal))]
    moved = crystal.copy()
    moved.positions += [0.7, -1.1, 2.0]
    moved.wrap()
    turned = gas.copy()
    turned.rotate(40, (1, 2, 3))
    other = gas.copy()
    other.positions[1] += 5 * TOLERANCE_A * other.positions[1] / np.linalg.norm(other.positions[1])
    stretched = crystal.copy()
    stretched.set_cell(1.01 * crystal.cell.array, scale_atoms=True)
    found = find_duplicates(
        Frames.concatenate([frames, Frames.from_atoms([reordered, moved, turned, other, stretched])])
    )
    assert found.near == ((0, 7), (0, 8), (5, 9), (7, 8))
    assert found.equal == ()


def test_a_gas_molecule_in_a_box_is_not_one_without():
    gas = molecule("H2O")
    boxed = gas.copy()
    boxed.set_cell([12, 12, 12])
    boxed.pbc = True
    larger = gas.copy()
    larger.set_cell([15, 15, 15])
    larger.pbc = True
    assert find_duplicates(Frames.from_atoms([gas, boxed, larger])).near == ()
