"""Figures show what they are given."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib import rc_context

from aiida_mlfinetune import plotting
from aiida_mlfinetune.plotting.dynamics import running_mean

TIME = np.arange(50) * 10.0


@pytest.fixture
def ax():
    return plotting.new_figure()[1][0]


def test_running_mean_is_the_mean_so_far_and_skips_gaps():
    np.testing.assert_allclose(running_mean(np.array([1.0, 3.0, np.nan, 5.0])), [1.0, 2.0, 2.0, 3.0])


def test_energies_are_relative_and_per_atom(ax):
    plotting.plot_energies(ax, TIME, np.linspace(-100.0, -99.0, 50), n_atoms=10)
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xdata(), TIME / 1000)
    np.testing.assert_allclose(line.get_ydata(), np.linspace(-50, 50, 50))


def test_temperature_shows_its_target(ax):
    plotting.plot_temperature(ax, TIME, np.full(50, 90.0), 100.0)
    assert ax.lines[-1].get_ydata()[0] == 100.0


def test_density_marks_the_equilibration_and_the_mean(ax):
    plotting.plot_density(ax, TIME, np.full(50, 0.9), start_fs=100.0, mean=0.92, error=0.01)
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["equilibration", "running mean", "mean 0.92"]
    assert ax.lines[1].get_xdata()[0] == pytest.approx(0.1)


def test_losses_that_are_all_nan_are_left_out(ax):
    plotting.plot_loss(ax, np.arange(3), np.full(3, np.nan), np.array([1.0, 0.5, 0.1]))
    assert [line.get_label() for line in ax.lines] == ["validation"]
    assert ax.get_yscale() == "log"


def test_parity_states_the_error_of_the_finite_pairs(ax):
    plotting.plot_parity(ax, np.array([0.0, 1.0, np.nan]), np.array([0.3, 1.4, 0.0]), "eV", "energy")
    assert ax.get_title(loc="left") == "RMSE 0.354 eV"


def test_parity_colours_by_group(ax):
    plotting.plot_parity(ax, np.arange(4.0), np.arange(4.0), "eV/Å", "force", np.array(["H", "O", "H", "O"]))
    assert ax.get_legend_handles_labels()[1] == ["H", "O"]


def test_net_forces_state_their_mean_and_skip_frames_without_forces(ax):
    plotting.plot_net_force(ax, np.array([10.0, 30.0, np.nan]))
    assert ax.get_legend_handles_labels()[1] == ["mean 20"]
    assert sum(patch.get_height() for patch in ax.patches) == 2


def test_outliers_are_marked(ax):
    plotting.plot_energy_scores(ax, np.array([0.0, 1.0, -30.0, np.nan]), 5.0)
    assert ax.get_legend_handles_labels()[1] == ["1 outliers"]


def test_force_components_are_densities_by_element(ax):
    plotting.plot_force_distribution(ax, np.array([-1.0, 0.0, 1.0]), {"H": np.array([1.0, 3.0])})
    np.testing.assert_allclose(ax.patches[0].get_data().values, [0.25, 0.75])


def test_coverage_names_both_sets(ax):
    plotting.plot_coverage(ax, np.arange(3.0), np.arange(9.0), "volume / Å³")
    assert ax.get_legend_handles_labels()[1] == ["sampled, 9 frames", "labelled, 3 frames"]


def test_sampled_values_that_are_all_the_same_are_a_line(ax):
    plotting.plot_coverage(ax, np.arange(30.0, 40.0), np.full(8, 32.0) + 1e-13 * np.arange(8), "volume / Å³")
    (line,) = ax.get_lines()
    assert line.get_xdata() == [32.0, 32.0]
    assert ax.get_legend_handles_labels()[1] == ["sampled, 8 frames", "labelled, 10 frames"]


def test_svg_is_one_element_in_the_colour_of_the_page_with_identifiers_of_its_own(ax):
    plotting.plot_rmse(ax, np.arange(3), np.array([3.0, 2.0, 1.0]), None)
    svg = plotting.to_svg(ax.figure, "rmse")
    assert svg.startswith("<svg")
    assert svg.rstrip().endswith("</svg>")
    assert plotting.INK not in svg
    assert "currentColor" in svg
    assert all(name.startswith("rmse-") for name in re.findall(r'\bid="([^"]*)"', svg))
    assert set(re.findall(r"url\(#([^)]*)\)", svg)) <= set(re.findall(r'\bid="([^"]*)"', svg))


def test_figures_look_the_same_whatever_was_set_before():
    def drawn() -> str:
        with plotting.look():
            figure, (ax,) = plotting.new_figure()
            plotting.plot_density(ax, TIME, np.full(50, 0.9), start_fs=100.0, mean=0.92, error=0.01)
            return plotting.to_svg(figure, "density")

    plain = drawn()
    with rc_context({"font.size": 20, "lines.linewidth": 5, "axes.grid": True, "xtick.major.size": 9}):
        assert drawn() == plain
