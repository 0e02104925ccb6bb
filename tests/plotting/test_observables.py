"""Curves of observables show what they are given."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune import plotting

X = np.linspace(0.0, 1.0, 11)


@pytest.fixture
def ax():
    return plotting.new_figure()[1][0]


def test_curves_of_several_pairs_and_a_reference(ax):
    plotting.plot_radial_distribution(ax, X, X, np.full(11, 0.1), "O-O")
    plotting.plot_radial_distribution(ax, X, 2 * X, np.full(11, 0.1), "O-H", (X, 3 * X))
    assert ax.get_legend_handles_labels()[1] == ["O-O", "O-H", "reference"]
    assert ax.lines[0].get_color() != ax.lines[2].get_color()
    np.testing.assert_allclose(ax.lines[3].get_ydata(), 3 * X)


def test_displacements_with_the_fitted_slope(ax):
    plotting.plot_mean_squared_displacement(ax, X, 6 * X, np.full(11, np.inf), 6.0, (0.2, 1.0))
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [1.2, 6.0])


def test_histogram_with_error_bars(ax):
    plotting.plot_histogram(ax, X, X**2, np.full(11, 0.05), "energy / (kJ/mol)")
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], X**2)
    assert ax.get_xlabel() == "energy / (kJ/mol)"


def test_free_energy_leaves_gaps(ax):
    free = np.where(X > 0.5, X, np.nan)
    plotting.plot_free_energy(ax, X, free, 0.1 * X)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), free)
