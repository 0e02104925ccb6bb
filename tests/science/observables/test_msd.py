"""Displacements of walks, flights and vibrations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms

from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.observables import trajectory as module
from aiida_mlfinetune.science.observables.msd import diffusion
from aiida_mlfinetune.science.observables.trajectory import FramesTrajectory

ALL = np.arange(4)


def trajectory(positions: np.ndarray, cells: np.ndarray | None = None) -> FramesTrajectory:
    """Return (n, a, 3) angstrom as a run of argon, wrapped into cells (n, 3, 3) if there are any."""
    images = []
    for index, frame in enumerate(positions):
        image = Atoms(f"Ar{len(frame)}", positions=frame)
        if cells is not None:
            image.set_cell(cells[index])
            image.pbc = True
            image.wrap()
        images.append(image)
    return FramesTrajectory(Frames.from_atoms(images))


def walk(n: int, n_atoms: int, seed: int, sigma: float = 0.5) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(size=(n, n_atoms, 3)) * sigma, axis=0)


def test_a_random_walk_has_its_diffusion_coefficient_within_its_error():
    exact = 0.5**2 / (2 * 2.0)  # sigma^2 / (2 dt)
    results = [diffusion(trajectory(walk(1000, 4, seed)), ALL, interval=2.0) for seed in range(40)]
    z = np.array([(result.value - exact) / result.value_error for result in results])
    assert abs(z.mean()) < 4 / math.sqrt(40)
    assert 0.7 < z.std() < 1.5
    assert np.mean(np.abs(z) < 2) > 0.8
    lag = 10
    z_msd = np.array([(result.msd[lag] - 3 * 0.5**2 * lag) / result.error[lag] for result in results])
    assert abs(z_msd.mean()) < 4 / math.sqrt(40)
    assert 0.7 < z_msd.std() < 1.5
    assert np.mean([result.exponent for result in results]) == pytest.approx(1.0, abs=0.1)


def test_free_flight_is_exact():
    velocities = np.array([[0.1, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, -0.3], [0.0, 0.0, 0.0]])
    flight = velocities * np.arange(200)[:, None, None]
    result = diffusion(trajectory(flight), ALL, interval=1.0, max_lag=10)
    np.testing.assert_allclose(result.msd, (0.01 + 0.04 + 0.09) / 4 * np.arange(11) ** 2, atol=1e-9)
    assert result.exponent == pytest.approx(2.0)
    assert any(r"t^2.00" in warning for warning in result.warnings)


def test_fourier_transforms_give_what_loops_give(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_VALUES", 7 * 12)  # blocks that do not fit the lags
    positions = walk(60, 4, 3)
    result = diffusion(trajectory(positions), ALL[1:3], interval=1.0, max_lag=6)
    n_origins = (60 // 6 - 1) * 6
    for lag in range(7):
        moved = positions[lag : lag + n_origins, 1:3] - positions[:n_origins, 1:3]
        assert result.msd[lag] == pytest.approx((moved**2).sum(axis=2).mean(), rel=1e-10)


def test_a_wrapped_run_in_a_breathing_cell_is_unwrapped():
    rng = np.random.default_rng(4)
    cells = np.array([[8.0, 0, 0], [2.0, 9.0, 0], [1.0, -1.0, 7.0]]) * (1 + 0.002 * rng.normal(size=(400, 1, 1)))
    free = walk(400, 4, 9, sigma=0.3)
    free_msd = diffusion(trajectory(free), ALL, 1.0)
    wrapped = diffusion(trajectory(free, cells), ALL, 1.0)
    # an atom that leaves through a face moves by this frame's cell vector, and so picks up some of its noise
    np.testing.assert_allclose(wrapped.msd, free_msd.msd, rtol=0.05)
    constant = diffusion(trajectory(free, np.broadcast_to(cells[0], (400, 3, 3))), ALL, 1.0)
    np.testing.assert_allclose(constant.msd, free_msd.msd, atol=1e-9)


def test_frames_too_far_apart_to_be_unwrapped_are_marked():
    result = diffusion(trajectory(walk(200, 4, 1, sigma=2.0), np.tile(np.eye(3) * 6.0, (200, 1, 1))), ALL, 1.0)
    assert any("store frames more often" in warning for warning in result.warnings)


def test_a_solid_does_not_diffuse_and_says_so():
    result = diffusion(trajectory(0.1 * np.random.default_rng(2).normal(size=(1000, 4, 3))), ALL, 1.0)
    assert abs(result.value) < 4 * result.value_error
    np.testing.assert_allclose(result.msd[1:], 6 * 0.01, rtol=0.2)
    assert any("a solid" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("n", "arguments", "message"),
    [
        (9, {}, "9 frames are left"),
        (20, {"atoms": ALL[:0]}, "at least one atom"),
        (20, {"interval": 0.0}, "must be positive"),
        (20, {"max_lag": 11}, "between 2 and half of the run, 10 frames"),
        (20, {"fit_from": 1.0}, "fit_from is 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(n, arguments, message):
    with pytest.raises(FramesError, match=message):
        diffusion(trajectory(walk(n, 4, 0)), **{"atoms": ALL, "interval": 1.0, **arguments})


def test_a_short_run_has_no_error():
    result = diffusion(trajectory(walk(40, 4, 0)), ALL, 1.0, max_lag=10)
    assert math.isinf(result.value_error)
    assert "lower it" in result.warnings[0]
