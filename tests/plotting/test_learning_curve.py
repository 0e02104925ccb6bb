"""The figure of a learning curve shows means, bars, laws, and a scale in percent."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune import plotting
from aiida_mlfinetune.plotting import PlottedCurve

SIZES = np.array([10, 20, 40, 80])


@pytest.fixture
def ax():
    _, (axis,) = plotting.new_figure()
    return axis


def curve(a: float, b: float, error: float = 0.1, law: bool = True) -> PlottedCurve:
    mean = a * SIZES.astype(float) ** -b
    return PlottedCurve(SIZES, mean, error * mean, (a, b) if law else None)


def test_each_mode_has_its_points_its_bars_and_its_law(ax):
    plotting.plot_learning_curve(ax, {"scratch": curve(300, 0.5), "naive": curve(90, 0.3)}, "force RMSE of O", "meV/Å")
    assert ax.get_legend_handles_labels()[1] == ["scratch", "naive"]
    laws = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert len(laws) == 2
    assert laws[0].get_xdata()[[0, -1]].tolist() == pytest.approx([10, 160])
    assert laws[0].get_ydata()[-1] == pytest.approx(300 * 160**-0.5)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_ylabel() == "force RMSE of O / (meV/Å)"
    assert ax.xaxis.get_major_locator().locs.tolist() == SIZES.tolist()


def test_percent_stand_on_the_right_in_the_ratio_of_the_spread(ax):
    plotting.plot_learning_curve(ax, {"naive": curve(90, 0.3)}, "force RMSE", "meV/Å", spread=500.0)
    (right,) = ax.child_axes
    ax.figure.draw_without_rendering()
    low, high = ax.get_ylim()
    assert right.get_ylim() == pytest.approx((100 * low / 500, 100 * high / 500))
    assert right.get_ylabel() == "% of the standard deviation"


def test_bars_that_reach_zero_are_cut_and_unknown_ones_left_out(ax):
    wide = PlottedCurve(SIZES, np.full(4, 10.0), np.array([20.0, np.nan, 1.0, 0.0]))
    plotting.plot_learning_curve(ax, {"naive": wide}, "force RMSE", "meV/Å")
    (bars,) = ax.collections
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, [[0.5, 30.0], [10.0, 10.0], [9.0, 11.0], [10.0, 10.0]])


def test_without_a_law_the_points_are_joined_and_missing_ones_skipped(ax):
    own = curve(300, 0.5, law=False)
    mean = own.mean.copy()
    mean[1] = np.nan
    plotting.plot_learning_curve(ax, {"scratch": PlottedCurve(SIZES, mean, own.error)}, "force RMSE", "meV/Å")
    assert ax.lines[0].get_linestyle() == "-"
    assert ax.lines[0].get_xdata().tolist() == [10, 40, 80]


def test_the_target_is_a_line(ax):
    plotting.plot_learning_curve(ax, {"naive": curve(90, 0.3)}, "force RMSE", "meV/Å", target=25.0)
    assert "target" in ax.get_legend_handles_labels()[1]


def test_labels_of_close_sizes_do_not_run_into_each_other(ax):
    sizes = np.array([50, 100, 160, 180, 200])
    plotting.plot_learning_curve(ax, {"naive": PlottedCurve(sizes, 9.0 / sizes, np.zeros(5))}, "force RMSE", "meV/Å")
    assert ax.xaxis.get_major_locator().locs.tolist() == [50, 100, 160, 200]


def test_nothing_to_draw_leaves_an_empty_axis(ax):
    empty = PlottedCurve(SIZES, np.full(4, np.nan), np.full(4, np.nan))
    plotting.plot_learning_curve(ax, {"naive": empty}, "force RMSE", "meV/Å", spread=3.0)
    assert not ax.lines
