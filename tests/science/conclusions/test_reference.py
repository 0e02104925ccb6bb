"""The average of a run moved to the reference: unbiased, honest, and better than the labelled frames alone."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune.science.averages.statistics import time_average
from aiida_mlfinetune.science.averages.thermodynamics import Estimate
from aiida_mlfinetune.science.conclusions.reference import move_to_reference
from aiida_mlfinetune.science.conclusions.reweighting import reweight, reweighting_weights
from tests.science.averages.test_statistics import ar1
from tests.science.conclusions.test_reweighting import CENTRE, KT, STIFFNESS, TEMPERATURE


@pytest.mark.parametrize(("centre", "stiffness", "gain"), [(CENTRE, STIFFNESS, 0.95), (0.1, 1.05, 0.65)])
def test_two_wells_from_a_fifth_of_the_frames(centre, stiffness, gain):
    """Runs of 500 correlated frames, of which 100 are labelled, between two harmonic wells."""
    exact = centre**2 + 1 / stiffness
    moved, plain = [], []
    for seed in range(80):
        x = ar1(500, 0.5, np.random.default_rng(seed))
        frames = x[4::5]
        own, reference = 0.5 * KT * frames**2, 0.5 * KT * stiffness * (frames - centre) ** 2
        result = reweight(frames**2, reweighting_weights(own, reference, TEMPERATURE), n_bootstrap=60, seed=seed)
        run = time_average(x**2)
        shift = Estimate(float(result.shift.value), float(result.shift.error))
        moved.append(move_to_reference(Estimate(run.mean, run.error), shift))
        plain.append(float(result.reweighted.value))
    values, errors = (np.array([getattr(one, name) for one in moved]) for name in ("value", "error"))
    spread = values.std(ddof=1)
    assert abs(values.mean() - exact) < 3 * spread / np.sqrt(len(values))
    assert 0.75 < np.sqrt((errors**2).mean()) / spread < 1.35
    assert spread < gain * np.std(plain, ddof=1)
