"""What a closed loop that ended too early would have taken."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.common.units import KB_EV
from aiida_mlfinetune.science.conclusions.closed_loop import reliable_spread, what_it_takes
from aiida_mlfinetune.science.conclusions.reweighting import MIN_EFFECTIVE, reweighting_weights


def test_gaussian_differences_of_the_spread_that_is_named_leave_the_frames_that_are_asked_for():
    n = 100_000  # drawn, so that the tail is sampled; the spread is that for 100
    differences = np.random.default_rng(3).normal(scale=reliable_spread(100), size=n)
    weights = reweighting_weights(np.zeros(n), differences, 1.0 / KB_EV)
    assert weights.n_effective / n == pytest.approx(MIN_EFFECTIVE / 100, rel=0.15)
    with pytest.raises(StudyError, match="of 10 frames more than 10 are wanted"):
        reliable_spread(10)


def test_a_power_law_through_the_rounds_says_how_many_frames_it_would_take():
    sizes = [100, 200, 400]
    text = what_it_takes(sizes, [4.0 * (n / 100) ** -0.5 for n in sizes], 40)
    wanted = math.sqrt(math.log(4.0))  # 1.18 kT, which 100 (4 / 1.18)^2 = 1154 frames reach
    assert "4 kT with 100, 2.8 kT with 200, 2 kT with 400 frames" in text
    assert f"40 frames are reliable up to some {wanted:.2g} kT" in text
    assert text.endswith("with about 1200 frames.")
    assert what_it_takes(sizes, [8.0 * (n / 100) ** -0.5 for n in sizes], 40).endswith(
        "4600 frames: no more than a hint."
    )


@pytest.mark.parametrize(
    ("sizes", "spreads", "labels", "end"),
    [
        ([100], [4.0], 40, "One round does not tell how many frames get there."),
        ([100, 120], [4.0, 4.1], 40, "do not fall. Noisy labels, or a model that is too small, can be why."),
        ([100, 120], [4.0, 3.6], 40, "no more than a hint."),
        ([100, 120], [4.0, 1.0], 40, "reliable up to some 1.2 kT."),
        ([100, 120], [4.0, 1.0], 10, "10 labelled frames of a run are too few for any weights to be reliable."),
    ],
)
def test_what_cannot_be_told_is_said(sizes, spreads, labels, end):
    assert what_it_takes(sizes, spreads, labels).endswith(end)
