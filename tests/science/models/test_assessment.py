"""Checks on a model find the faults that they are for, and let sound curves pass."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.common.units import GPA_EV_A3
from aiida_mlfinetune.science.models import assessment as science
from aiida_mlfinetune.science.models.assessment import Check, Relation, Thresholds

ASKED = Thresholds()
VOLUMES = np.linspace(200.0, 300.0, 17)


def birch_murnaghan(volumes, v0=245.0, b0=12.0, b1=6.0):
    """Return energies in eV of the third-order equation of state with a bulk modulus ``b0`` in GPa."""
    x = (v0 / volumes) ** (2.0 / 3.0)
    return 9 * v0 * b0 * GPA_EV_A3 / 16 * ((x - 1) ** 3 * b1 + (x - 1) ** 2 * (6 - 4 * x))


def passed(checks: list[Check]) -> dict[str, bool | None]:
    return {check.name: check.passed for check in checks}


def test_minimum_and_bulk_modulus_are_those_of_the_equation_of_state():
    curve = science.volume_curve(VOLUMES, birch_murnaghan(VOLUMES))
    assert curve.n_minima == 1
    assert curve.roughness < 1e-3
    assert curve.minimum == pytest.approx(245.0, rel=1e-3)
    assert curve.bulk_modulus == pytest.approx(12.0, rel=0.02)


def test_a_sound_curve_passes_and_a_rough_or_double_one_does_not():
    sound = birch_murnaghan(VOLUMES)
    assert passed(science.volume_checks("ice", VOLUMES, sound, ASKED)) == {
        "volume_minima": True,
        "volume_roughness": True,
    }
    rough = sound + 0.15 * np.random.default_rng(0).normal(size=len(VOLUMES))
    assert passed(science.volume_checks("ice", VOLUMES, rough, ASKED))["volume_roughness"] is False
    double = sound - 0.6 * np.exp(-(((VOLUMES - 287.5) / 4) ** 2))
    assert passed(science.volume_checks("ice", VOLUMES, double, ASKED))["volume_minima"] is False
    collapsing = -1 / VOLUMES
    curve = science.volume_curve(VOLUMES, collapsing)
    assert curve.n_minima == 0
    assert math.isnan(curve.minimum)
    assert passed(science.volume_checks("ice", VOLUMES, collapsing, ASKED))["volume_minima"] is False


def test_energies_that_are_not_finite_fail():
    broken = birch_murnaghan(VOLUMES)
    broken[3] = np.nan
    assert not any(passed(science.volume_checks("ice", VOLUMES, broken, ASKED)).values())


def test_a_hole_is_as_deep_as_what_was_reached_before_it():
    assert science.hole_depth(np.array([0.0, 1.0, 2.0, 5.0]), 10.0) == 0
    assert science.hole_depth(np.array([0.0, 1.0, 0.4, 5.0]), 10.0) == pytest.approx(0.6)
    assert science.hole_depth(np.array([0.0, -0.01, 1.0, -3.0]), 10.0) == pytest.approx(4.0)


def test_a_hole_behind_a_high_barrier_does_not_count():
    energies = np.array([0.0, 4.0, 11.0, -50.0])
    assert science.hole_depth(energies, 10.0) == 0
    assert science.hole_depth(energies, 20.0) == pytest.approx(61.0)
    assert science.hole_depth(np.array([0.0, 1.0, np.nan]), 10.0) == math.inf
    assert science.hole_depth(np.array([0.0, 11.0, 12.0, np.nan]), 10.0) == 0


def test_distance_check_carries_pair_and_threshold():
    check = science.distance_check("distance_hole", "H-O", np.array([0.0, 1.0, 0.0]), 10.0, 0.05)
    assert (check.of, check.value, check.passed) == ("H-O", 1.0, False)
    assert science.distance_check("diatomic_hole", "H-O", np.array([0.0, 1.0, 0.0]), 10.0, None).passed is None


def morse(factors, depth=9.0):
    return depth * ((1 - np.exp(-3 * (factors - 1))) ** 2 - 1)


FACTORS = np.geomspace(0.9, 5.0, 30)


def test_a_bound_molecule_passes():
    checks = {check.name: check for check in science.dissociation_checks("H2O", FACTORS, morse(FACTORS), 0.0, 3, ASKED)}
    assert checks["atomization"].value == pytest.approx(9.0, abs=0.05)
    assert all(check.passed is not False for check in checks.values())


def test_wrong_limits_of_the_dissociation_are_found():
    shifted = passed(science.dissociation_checks("H2O", FACTORS, morse(FACTORS), 3.0, 3, ASKED))
    assert shifted["dissociation_limit"] is False


def test_the_barrier_of_a_molecule_that_is_not_the_lowest_is_found():
    hole = morse(FACTORS) - 12.0 * np.exp(-(((FACTORS - 2) / 0.2) ** 2))
    checks = {check.name: check for check in science.dissociation_checks("H2O", FACTORS, hole, 0.0, 3, ASKED)}
    lower = np.flatnonzero((hole < -8.9) & (FACTORS > 1.3))[0]
    assert checks["bond_barrier"].value == pytest.approx(hole[:lower].max() + 9.0, abs=0.1)
    assert checks["bond_barrier"].passed
    falling = -(FACTORS**2)
    assert passed(science.dissociation_checks("H2O", FACTORS, falling, 0.0, 3, ASKED))["bond_barrier"] is False


def test_an_atom_alone_is_compared_with_its_reference_energy():
    assert science.atom_check("H", -13.6, -13.6, ASKED).passed
    assert not science.atom_check("H", -13.0, -13.6, ASKED).passed


def test_parity_is_judged_on_what_there_is():
    errors = {"energy_rmse_meV_per_atom": 1.0, "forces_rmse_percent": 40.0}
    assert passed(science.parity_checks(errors, ASKED)) == {"parity_energy": True, "parity_forces": False}
    assert passed(science.parity_checks({"energy_rmse_meV_per_atom": 9.0}, ASKED)) == {"parity_energy": False}


def run(temperature=200.0, drift=0.0, n=100, seed=0):
    time = np.arange(n) * 20.0
    random = np.random.default_rng(seed)
    return time, temperature + random.normal(scale=20.0, size=n), -100 + drift * time / 1000


def test_a_sound_run_passes_and_a_hot_or_drifting_one_does_not():
    assert passed(science.run_checks(*run(), 200.0, 24, ASKED)) == {"nvt_temperature": True, "nvt_drift": True}
    assert passed(science.run_checks(*run(temperature=300.0), 200.0, 24, ASKED))["nvt_temperature"] is False
    (_, drift) = science.run_checks(*run(drift=2.4), 200.0, 24, ASKED)
    assert drift.value == pytest.approx(100.0)
    assert drift.passed is False


def test_early_heat_does_not_count_but_late_heat_does():
    time, temperature, conserved = run()
    early = np.where(time < 500, 900.0, temperature)
    assert passed(science.run_checks(time, early, conserved, 200.0, 24, ASKED))["nvt_temperature"] is True
    late = np.where(time > 1500, 900.0, temperature)
    assert passed(science.run_checks(time, late, conserved, 200.0, 24, ASKED))["nvt_temperature"] is False


def test_a_run_of_one_row_is_judged_by_that_row():
    checks = science.run_checks(np.zeros(1), np.array([200.0]), np.zeros(1), 200.0, 6, ASKED)
    assert passed(checks) == {"nvt_temperature": True}


def test_steps_distances_and_bonds():
    assert science.completed_check(4000, 4000, ASKED).passed
    assert not science.completed_check(3999, 4000, ASKED).passed
    distances = np.array([[1.0, np.nan, 2.0], [0.9, np.nan, 1.0]])
    check = science.distance_ratio_check(["H-O", "H-H", "O-O"], distances, ASKED)
    assert (check.of, check.value, check.passed) == ("O-O", 0.5, False)
    check = science.bond_ratio_check(np.array([[1.0, 1.0], [1.1, 1.6], [1.0, 1.2]]), ASKED)
    assert (check.value, check.passed) == (1.6, False)


def test_checks_become_plain_json_and_words():
    check = Check("nvt_drift", "", math.inf, "meV", Relation.AT_MOST, 1.0)
    assert check.passed is False
    assert json.loads(json.dumps(check.to_dict(), allow_nan=False))["value"] is None
    assert "must be at most 1" in str(check)
    assert "not judged" in str(Check("nvt_drift", "", 1.0, "meV", Relation.AT_MOST, None))
    assert Relation.EQUAL.holds(1, 1)
    assert not Relation.AT_LEAST.holds(math.nan, 0)


def test_thresholds_are_checked():
    assert Thresholds.from_dict(ASKED.to_dict()) == ASKED
    with pytest.raises(StudyError, match="unknown thresholds"):
        Thresholds.from_dict({"parity": 1})
    with pytest.raises(StudyError, match="must be a number"):
        Thresholds.from_dict({"volume_minima": "one"})
    with pytest.raises(StudyError, match="must be a number"):
        Thresholds.from_dict({"barrier_eV": None})
