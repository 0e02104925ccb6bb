"""Figures of a reweighting show what they are given."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune import plotting


@pytest.fixture
def ax():
    return plotting.new_figure()[1][0]


def test_weights_are_multiples_of_the_mean_and_the_effective_sample_size_is_said(ax):
    plotting.plot_weights(ax, np.array([-1.0, 0.0, 1.0, 2.0]), np.array([0.5, 0.5, 0.0, 0.0]))
    points, mean = ax.lines
    assert points.get_ydata().tolist() == [2.0, 2.0, 0.0, 0.0]
    assert set(mean.get_ydata()) == {1.0}
    assert ax.get_legend_handles_labels()[1] == ["N_eff 2.0 of 4"]


def test_bands_of_distributions_are_one_error_wide_and_never_negative(ax):
    edges, half = np.array([0.0, 1.0, 2.0]), np.array([0.5, 0.5])
    plotting.plot_distributions(ax, edges, half, np.array([0.1, 0.7]), half, 0 * half, "density / (g/cm³)")
    assert ax.get_legend_handles_labels()[1] == ["run", "reweighted"]
    values, upper, lower = ax.patches[0].get_data(), ax.patches[1].get_data(), ax.patches[1].get_data().baseline
    assert values.values.tolist() == [0.5, 0.5]
    np.testing.assert_allclose(upper.values, [0.6, 1.2])
    np.testing.assert_allclose(lower, [0.4, 0.0])
    assert ax.get_xlabel() == "density / (g/cm³)"
