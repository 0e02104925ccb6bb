"""Matrices of generalised Langevin thermostats, and what is refused of them."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.common.units import ATOMIC_TIME_FS
from aiida_mlfinetune.science.dynamics.gle import GleMatrix, load_matrix, shipped_matrices

DRIFT = np.array([[2.0, 1.0], [-1.0, 0.5]]) * 1e-3


@pytest.mark.parametrize("name", shipped_matrices())
def test_every_shipped_matrix_is_sound_and_names_its_source(name):
    content = load_matrix(name)
    assert content["name"] == name
    assert "doi:" in content["source"]
    GleMatrix.from_dict(content).check_one_for_all()


def test_optimal_sampling_damps_a_broad_range_of_frequencies():
    """Its efficiency kappa, 1 at best, on potential and total energy of oscillators from 10 to 4000 cm-1.

    For an oscillator of frequency w the drift of (q, p, s) is linear, and the correlation time of q^2 follows from its
    Lyapunov equation; kappa = 2 / (w tau) (Ceriotti, Bussi, Parrinello, J. Chem. Theory Comput. 6, 1170 (2010)).
    """
    drift = GleMatrix.from_dict(load_matrix("optimal-sampling-5x5")).drift
    n = len(drift)
    efficiencies = []
    for wave_number in (10.0, 100.0, 1000.0, 4000.0):
        frequency = 2 * np.pi * wave_number * 2.99792458e-5 * ATOMIC_TIME_FS
        full = np.zeros((n + 1, n + 1))
        full[1:, 1:] = drift
        full[0, 1], full[1, 0] = -1.0, frequency**2
        covariance = np.diag([1 / frequency**2, *np.ones(n)])
        # <q(0)q(t)> = (exp(-At) C)_qq; the correlation of q^2 is its square, integrated by Kronecker sums
        kronecker = np.kron(full, np.eye(n + 1)) + np.kron(np.eye(n + 1), full)
        start = np.outer(covariance[:, 0], covariance[:, 0]).ravel()
        integral = np.linalg.solve(kronecker, start)[0]
        efficiencies.append(2 / (frequency * integral / covariance[0, 0] ** 2))
    assert min(efficiencies) > 0.2
    assert max(efficiencies) <= 2.0


@pytest.mark.parametrize(
    ("drift", "covariance", "message"),
    [
        (DRIFT[:1], None, r"shape \(1, 2\)"),
        (DRIFT[0], None, r"shape \(2,\)"),
        (np.zeros((0, 0)), None, r"shape \(0, 0\)"),
        (DRIFT, np.eye(3), r"covariance of it has the shape \(3, 3\), but its drift \(2, 2\)"),
        (DRIFT * np.nan, None, "not finite"),
        (-DRIFT, None, "would grow without bounds"),
        (np.array([[1.0, 5.0], [0.0, 1.0]]), None, "not positive definite: the lowest eigenvalue of A \\+ A\\^T is -3"),
        (DRIFT, np.array([[1.0, 0.5], [0.0, 1.0]]), "covariance of it is not symmetric"),
        (DRIFT, np.diag([1.0, -1.0]), "covariance of it is not positive definite"),
        (DRIFT, np.array([[1.0, 0.9], [0.9, 1.0]]), "do not belong together"),
        (np.stack([DRIFT, -DRIFT]), None, "of normal mode 1 has an eigenvalue"),
    ],
)
def test_matrices_that_cannot_be(drift, covariance, message):
    with pytest.raises(StudyError, match=message):
        GleMatrix(drift, covariance, "it")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "lacks drift_per_atomic_time"),
        ({"drift_per_atomic_time": [[1.0, 0.0], [1.0]]}, "rows are of equal length"),
        ({"drift_per_atomic_time": "large"}, "no matrix of numbers"),
        ({"drift_per_atomic_time": [[1.0]], "unit": "fs"}, "unknown entries \\['unit'\\]"),
    ],
)
def test_content_that_is_none(values, message):
    with pytest.raises(StudyError, match=message):
        GleMatrix.from_dict(values)


def test_what_a_thermostat_can_use():
    with pytest.raises(StudyError, match="matrix for each of 2 normal modes"):
        GleMatrix(np.stack([DRIFT, DRIFT])).check_one_for_all()
    with pytest.raises(StudyError, match="would not sample at temperature_K"):
        GleMatrix(DRIFT, np.eye(2) * 100.0).check_one_for_all()
    modes = GleMatrix(np.stack([DRIFT] * 4), np.stack([np.eye(2) * 400.0] * 4))
    modes.check_normal_modes(4, 100.0)
    with pytest.raises(StudyError, match=r"shape \(8, n, n\)"):
        modes.check_normal_modes(8, 100.0)
    with pytest.raises(StudyError, match=r"was made for 100\.0 K"):
        modes.check_normal_modes(4, 300.0)
