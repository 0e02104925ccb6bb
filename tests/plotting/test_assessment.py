"""Curves of an assessment show what they are given."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune import plotting


@pytest.fixture
def ax():
    return plotting.new_figure()[1][0]


def test_the_volume_curve_starts_at_zero_and_marks_its_minimum(ax):
    volumes = np.linspace(20.0, 30.0, 5)
    plotting.plot_volume_curve(ax, volumes, (volumes - 25.0) ** 2 - 7.0, 25.0)
    curve, mark = ax.lines
    assert min(curve.get_ydata()) == 0.0
    assert mark.get_xdata()[0] == 25.0


def test_scans_are_relative_to_their_start_and_cut_where_it_gets_steep(ax):
    scans = {
        "H-O": (np.array([2.0, 1.0]), np.array([-3.0, 997.0])),
        "O-O": (np.array([2.0, 1.0]), np.array([1.0, np.inf])),
    }
    plotting.plot_scans(ax, scans, "distance / Å", highest=10.0)
    assert ax.get_legend_handles_labels()[1] == ["H-O", "O-O"]
    assert ax.lines[0].get_ydata()[0] == 0.0
    assert 10.0 < ax.get_ylim()[1] < 12.0
