"""Figures of averages against the training set, and of error budgets, show what they are given."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune.plotting import PlottedCurve, new_figure, plot_budget, plot_convergence, to_svg


def test_averages_stand_beside_the_band_of_the_reference():
    figure, (ax,) = new_figure()
    curve = PlottedCurve(np.array([10, 20, 40]), np.array([0.95, np.nan, 0.92]), np.array([0.01, np.nan, np.nan]))
    plot_convergence(ax, {"naive": curve}, "density", (0.921, 0.002), 0.009)
    (band,) = ax.patches
    assert (band.get_y(), band.get_height()) == (pytest.approx(0.919), pytest.approx(0.004))
    levels = sorted(line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1)
    assert levels == pytest.approx([0.912, 0.921, 0.930])
    (points,) = ax.containers
    np.testing.assert_allclose(points.lines[0].get_xdata(), [10, 40])
    np.testing.assert_allclose(points.lines[0].get_ydata(), [0.95, 0.92])
    assert to_svg(figure, "convergence").startswith("<svg")


def test_an_unknown_error_of_the_reference_has_no_band():
    _, (ax,) = new_figure()
    plot_convergence(ax, {}, "density", (0.921, np.nan))
    assert not ax.patches


def test_terms_are_bars_with_signs():
    _, (ax,) = new_figure()
    plot_budget(ax, ["statistics", "nuclei"], [0.0, -1.5], [0.1, np.inf])
    assert [bar.get_width() for bar in ax.patches] == [0.0, -1.5]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["statistics", "nuclei"]
