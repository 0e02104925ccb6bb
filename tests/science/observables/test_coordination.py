"""Coordination numbers that can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError
from aiida_mlfinetune.common.units import KB_EV
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.observables.coordination import coordination, coordination_numbers, switching
from aiida_mlfinetune.science.observables.trajectory import FramesTrajectory


def test_the_switching_function_at_known_points():
    x = np.array([0.0, 0.5, 0.9, 1.1])
    np.testing.assert_allclose(switching(x)[2:], (1 - x[2:] ** 60) / (1 - x[2:] ** 200), rtol=1e-12)
    np.testing.assert_allclose(switching(x)[:2], 1.0)
    assert switching(1.0) == pytest.approx(60 / 200)
    np.testing.assert_allclose(switching([1 - 1e-9, 1 + 1e-9]), 0.3, rtol=1e-6)
    assert switching(1e6) == 0.0  # where x^200 overflows
    assert (np.diff(switching(np.linspace(0.8, 1.3, 2000))) <= 1e-15).all()
    assert switching(0.5, 6, 12) == pytest.approx(1 / (1 + 0.5**6))


@pytest.mark.parametrize(("r_min", "neighbours"), [(3.0, 12), (4.0, 18)])
def test_neighbours_of_a_crystal(r_min, neighbours):
    crystal = bulk("Cu", "fcc", a=3.6, cubic=True) * (3, 3, 3)
    trajectory = FramesTrajectory(Frames.from_atoms([crystal] * 10))
    found = coordination_numbers(trajectory, np.arange(2), np.arange(len(crystal)), r_min)
    assert found.shape == (10, 2)
    shells = [(12, 3.6 / math.sqrt(2)), (6, 3.6), (24, 3.6 * math.sqrt(1.5))]
    exact = sum(count * float(switching(distance / r_min)) for count, distance in shells)
    np.testing.assert_allclose(found, exact)
    assert round(exact) == neighbours


def test_free_energy_of_two_states_and_its_error():
    rng = np.random.default_rng(1)
    z = []
    for _ in range(200):
        states = np.where(rng.uniform(size=1000) < 0.2, 7.0, 8.0)
        result = coordination(states, temperature=300.0)
        seven = int(np.argmin(np.abs(result.centres - 7.0)))
        exact = KB_EV * 300.0 * math.log(0.8 / 0.2)
        # the lowest state is the zero: the error of the difference is a little larger than that of the state alone
        z.append((result.free_energy[seven] - exact) / result.free_energy_error[seven])
        assert result.most_stable == pytest.approx(8.0)
    assert 0.85 < np.std(z) < 1.5
    assert abs(np.mean(z)) < 0.4
    assert np.isnan(result.free_energy[np.argmin(np.abs(result.centres - 7.5))])
    assert result.probability.sum() * 0.1 == pytest.approx(1.0)
    assert result.average.mean == pytest.approx(7.8, abs=5 * result.average.error)


def test_several_centres_have_one_mean_and_all_count():
    numbers = np.random.default_rng(0).normal(4.0, 0.5, size=(500, 6))
    result = coordination(numbers, 100.0)
    assert result.average.error == pytest.approx(0.5 / math.sqrt(3000), rel=0.2)
    assert result.probability.sum() * 0.1 == pytest.approx(1.0)


def test_small_cells_and_impossible_questions_are_refused():
    water = [Atoms("OH2", positions=np.eye(3), cell=np.eye(3) * 6.0, pbc=True)] * 10
    trajectory = FramesTrajectory(Frames.from_atoms(water))
    assert coordination_numbers(trajectory, np.array([0]), np.array([1, 2]), 2.4).shape == (10, 1)
    with pytest.raises(FramesError, match="at most 3 angstrom"):
        coordination_numbers(trajectory, np.array([0]), np.array([1, 2]), 2.6)
    with pytest.raises(FramesError, match="positive"):
        coordination_numbers(trajectory, np.array([0]), np.array([1, 2]), 0.0)
    with pytest.raises(FramesError, match="centres and neighbours"):
        coordination_numbers(trajectory, np.array([], dtype=int), np.array([1, 2]), 2.0)
    with pytest.raises(MlFinetuneError, match="0 < n < m"):
        switching(1.0, 12, 6)
    with pytest.raises(MlFinetuneError, match="positive"):
        coordination([1.0, 2.0], -1.0)
