"""Widths of cells, radii that fit into them, and meshes of k-points."""

import numpy as np
import pytest

from aiida_mlfinetune.science.crystals.cells import kpoints_mesh, largest_radius_A, perpendicular_widths


def test_widths_of_a_sheared_cell_are_less_than_its_edges():
    sheared = np.array([[4.0, 0.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 5.0]])
    np.testing.assert_allclose(perpendicular_widths([sheared, np.diag([1.0, 2.0, 3.0])])[0], [16 / 5, 4.0, 5.0])
    np.testing.assert_allclose(perpendicular_widths(np.diag([1.0, 2.0, 3.0]))[0], [1.0, 2.0, 3.0])


def test_widths_do_not_depend_on_orientation_or_handedness():
    cell = np.random.default_rng(1).normal(size=(3, 3)) + 3 * np.eye(3)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    expected = perpendicular_widths(cell)
    np.testing.assert_allclose(perpendicular_widths(cell @ turn), expected)
    np.testing.assert_allclose(perpendicular_widths(cell[::-1]), expected[:, ::-1])


@pytest.mark.parametrize(("edge", "radius"), [(4.47, 2.2), (4.40, 2.15), (9.0, 4.45), (30.0, 6.0)])
def test_radius_stays_under_half_the_width(edge, radius):
    assert largest_radius_A(np.diag([edge, 50.0, 60.0]), 6.0) == pytest.approx(radius)


def test_radius_is_that_of_the_smallest_cell_and_the_largest_where_there_is_none():
    cells = [np.eye(3) * edge for edge in (9.0, 5.0, 7.0)]
    assert largest_radius_A(cells, 6.0) == pytest.approx(2.45)
    assert largest_radius_A([], 6.0) == 6.0


def test_mesh_has_at_least_the_density_asked_for_in_every_cell():
    cells = [np.diag([4.0, 8.0, 16.0]), np.diag([4.2, 7.0, 17.0])]
    assert kpoints_mesh(cells, 0.5) == (4, 2, 1)
    assert kpoints_mesh(np.eye(3) * 5.0, 2 * np.pi / 10.0) == (2, 2, 2)
