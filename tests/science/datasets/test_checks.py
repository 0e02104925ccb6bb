"""Frames that cannot be computed are named, with the atoms and the remedy."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from aiida_mlfinetune.common.errors import FramesError, LabelsError, ModelError
from aiida_mlfinetune.science.datasets import checks
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels
from tests.fixtures.frames import PBE, XTB, make_frames


def test_good_structures_have_no_problem(plain_frames):
    assert checks.structure_problem(molecule("H2O")) is None
    assert checks.structure_problem(bulk("Si")) is None
    assert checks.structure_problem(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], cell=[0, 0, 5], pbc=[0, 0, 1])) is None
    assert checks.frames_problem(plain_frames) is None


def test_two_atoms_closer_than_half_an_angstrom_are_named():
    water = molecule("H2O")
    water.append("H")
    water.positions[3] = water.positions[2] + [0, 0, 0.3]
    problem = checks.structure_problem(water)
    assert problem.startswith("atoms 2 (H) and 3 (H) are 0.300 angstrom apart, closer than 0.5 angstrom")
    with pytest.raises(FramesError, match="remove duplicated atoms"):
        checks.check_structure(water)


def test_copies_on_both_faces_of_the_cell_are_found():
    crystal = Atoms("He2", [[0, 0, 0], [0, 0, 3.9]], cell=[4, 4, 4], pbc=True)
    assert "atoms 0 (He) and 1 (He) are 0.100 angstrom apart" in checks.structure_problem(crystal)
    crystal.pbc = [True, True, False]
    assert checks.structure_problem(crystal) is None


def test_an_atom_may_not_be_close_to_its_own_image():
    thin = Atoms("He", cell=[0.4, 5, 5], pbc=True)
    assert "atoms 0 (He) and 0 (He) are 0.400 angstrom apart" in checks.structure_problem(thin)


@pytest.mark.parametrize("seed", range(5))
def test_the_closest_pair_of_skewed_cells_is_that_of_a_neighbour_list(seed):
    rng = np.random.default_rng(seed)
    cell = np.array([[3.0, 0, 0], [2.5, 1.5, 0], [1.0, -1.2, 2.0]]) * (1 + seed)
    image = Atoms("H5", rng.uniform(-5, 5, (5, 3)), cell=cell, pbc=True)
    minimum = 1.0
    distances = neighbor_list("d", image, minimum)
    problem = checks.structure_problem(image, minimum)
    if len(distances):
        assert f"are {distances.min():.3f} angstrom apart" in problem
    else:
        assert problem is None


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        (np.zeros((3, 3)), True),
        ([[1, 0, 0], [2, 0, 0], [0, 0, 5]], True),
        ([[5, 0, 0], [0, 5, 0], [0, 0, 0]], True),
        ([[5, 0, 0], [5, 0, 0], [0, 0, 0]], [True, True, False]),
        ([[np.nan, 0, 0], [0, 5, 0], [0, 0, 5]], True),
    ],
)
def test_periodic_frames_need_a_cell_with_volume(cell, pbc):
    problem = checks.structure_problem(Atoms("He", cell=cell, pbc=pbc))
    assert problem.startswith("the cell has no volume: it is periodic along ['a', 'b'")
    assert problem.endswith("set pbc to False for a molecule")


def test_positions_that_are_no_numbers_and_empty_structures_are_refused():
    assert "positions of atoms [1] are not finite" in checks.structure_problem(Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]))
    assert "there are no atoms" in checks.structure_problem(Atoms())


def test_the_bad_frame_of_many_is_named(plain_frames):
    positions = plain_frames.positions.copy()
    own = plain_frames.slice(5)
    positions[own.start] = positions[own.start + 1] + 0.1
    broken = Frames(**{**vars(plain_frames), "positions": positions})
    assert checks.frames_problem(broken).startswith("frame 5: atoms 0 (C) and 1 (O) are 0.173 angstrom apart")
    with pytest.raises(FramesError, match="frame 5"):
        checks.check_frames(broken)


def test_large_frames_are_searched_too():
    crystal = bulk("Si", cubic=True).repeat(6)
    assert len(crystal) > checks.PAIRS_LIMIT
    assert checks.structure_problem(crystal) is None
    crystal.positions[1700] = crystal.positions[3] + crystal.cell[0] + [0.2, 0, 0]
    assert "atoms 3 (Si) and 1700 (Si) are 0.200 angstrom apart" in checks.structure_problem(crystal)


def test_elements_that_a_model_does_not_know_are_named():
    assert checks.elements_problem(["H", "O"], ["H", "O"]) is None
    assert checks.unknown_elements(["C", "H", "C", "N"], ["H", "O"]) == ["C", "N"]
    with pytest.raises(ModelError, match=r"ice-xtb does not know the elements \['C'\].*use a foundation that knows"):
        checks.check_elements(["C", "O"], ["H", "O"], "ice-xtb")


def test_frames_in_two_sets_are_found_by_their_content():
    frames = make_frames(5, 3)
    first, second = frames.select([0, 1, 2, 5]), frames.select([7, 2, 3, 5])
    assert checks.shared_frames(first, second) == [(2, 1), (3, 3)]
    with pytest.raises(FramesError, match=r"2 of the validation frames are training frames too.*2 = 1, 3 = 3"):
        checks.check_disjoint(first, second)
    checks.check_disjoint(frames.select([0, 1]), frames.select([2, 3]))


def test_labels_and_sources_do_not_hide_an_overlap(labelled_frames):
    bare = labelled_frames.without_level(XTB.key).without_level(PBE.key).with_source("elsewhere")
    assert len(checks.shared_frames(labelled_frames, bare)) == len(bare)


def test_duplicates_within_a_set_are_refused_and_can_be_dropped():
    frames = make_frames(3, 2).select([0, 1, 0, 4, 2, 4])
    with pytest.raises(FramesError, match=r"such as \[\(0, 2\), \(3, 5\)\]"):
        checks.check_no_duplicates(frames)
    assert checks.unique_indices(frames) == [0, 1, 3, 4]
    checks.check_no_duplicates(frames.select(checks.unique_indices(frames)))


def test_a_set_without_forces_is_refused(plain_frames):
    frames = plain_frames.with_labels(Labels.build(PBE, plain_frames.offsets, np.zeros(len(plain_frames))))
    with pytest.raises(LabelsError, match="no frame has forces at level 'pbe-d3/vasp'"):
        checks.check_has_forces(frames, PBE.key)


def test_faults_among_many_frames_are_those_found_one_by_one():
    rng = np.random.default_rng(1)
    images = []
    for number in range(300):
        cell = np.diag(rng.uniform(0.8, 6, 3)) @ (np.eye(3) + np.tril(rng.uniform(-1, 1, (3, 3)), -1))
        if number % 50 == 0:
            cell[1] = cell[0]
        pbc = (True, False, (True, False, True))[number % 3]
        images.append(Atoms("H3", positions=rng.uniform(-4, 4, (3, 3)), cell=cell, pbc=pbc))
    faulty = [number for number, image in enumerate(images) if checks.structure_problem(image) is not None]
    assert 10 < len(faulty) < 200
    found = []
    left = list(range(len(images)))
    while (problem := checks.frames_problem(Frames.from_atoms([images[number] for number in left]))) is not None:
        place = int(problem.removeprefix("frame ").split(":")[0])
        found.append(left[place])
        left = left[place + 1 :]
    assert found == faulty
