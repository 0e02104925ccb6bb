"""Power laws are recovered with errors that can be trusted, and conclusions say what the numbers do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.training.learning_curve import (
    Curve,
    conclude,
    fit_power_law,
    flatten_errors,
    flatten_spreads,
    target_problem,
    title_of,
    unit_of,
)

SIZES = np.array([10, 20, 40, 80])


def power_law(a: float, b: float, sizes=SIZES, n_seeds: int = 3, scatter: float = 0.0, seed: int = 0):
    noise = np.random.default_rng(seed).normal(0, scatter, (len(sizes), n_seeds))
    return a * np.asarray(sizes, dtype=float)[:, None] ** -b * np.exp(noise)


def curve(*means: float, spread: float = 0.0) -> Curve:
    """Return a curve of two seeds that lie ``spread`` above and below the mean."""
    values = np.array(means)[:, None] + spread * np.array([[-1.0, 1.0]])
    return Curve(SIZES[: len(means)], values)


def test_mean_and_standard_error_skip_what_is_missing():
    own = Curve(np.array([10, 20, 40]), np.array([[1.0, 3.0, np.nan], [2.0, np.nan, np.nan], [np.nan] * 3]))
    assert own.counts.tolist() == [2, 1, 0]
    np.testing.assert_allclose(own.mean, [2.0, 2.0, np.nan])
    np.testing.assert_allclose(own.error, [1.0, np.nan, np.nan])


def test_an_exact_power_law_is_recovered():
    law = fit_power_law(SIZES, power_law(300.0, 0.5))
    assert (law.a, law.b) == pytest.approx((300.0, 0.5))
    assert law.at(160)[0] == pytest.approx(300 / math.sqrt(160))
    assert law.size_for(30.0)[0] == pytest.approx(100.0)
    assert law.b_error == pytest.approx(0.0, abs=1e-7)


def test_errors_of_the_exponent_cover_the_truth_as_often_as_they_should():
    deviations = []
    for seed in range(400):
        law = fit_power_law(SIZES, power_law(300.0, 0.5, scatter=0.1, n_seeds=4, seed=seed))
        deviations.append((law.b - 0.5) / law.b_error)
    # 12 degrees of freedom behind the pooled scatter, and never less than what the line says: slightly below one
    assert 0.75 < np.std(deviations) < 1.15
    assert abs(np.mean(deviations)) < 4 * np.std(deviations) / 20


def test_predictions_have_an_error_that_grows_with_the_distance():
    law = fit_power_law(SIZES, power_law(300.0, 0.5, scatter=0.1))
    inside, outside = law.at(30)[1] / law.at(30)[0], law.at(640)[1] / law.at(640)[0]
    assert 0 < inside < outside


def test_a_curve_that_is_no_power_law_has_larger_errors():
    bent = power_law(300.0, 0.5, scatter=0.02) + 30.0
    assert fit_power_law(SIZES, bent).b_error > fit_power_law(SIZES, power_law(300.0, 0.5, scatter=0.02)).b_error


def test_one_seed_takes_its_error_from_the_line_and_two_sizes_have_none():
    many = fit_power_law(SIZES, power_law(300.0, 0.5, n_seeds=1, scatter=0.1))
    assert 0 < many.b_error < math.inf
    two = fit_power_law(SIZES[:2], power_law(300.0, 0.5, SIZES[:2], n_seeds=1))
    assert two.b == pytest.approx(0.5)
    assert two.to_dict()["b_error"] is None
    assert fit_power_law(SIZES[:1], [[3.0]]) is None


def test_missing_trainings_are_left_out_of_the_fit():
    values = power_law(300.0, 0.5)
    values[1] = np.nan
    values[2, 0] = np.nan
    law = fit_power_law(SIZES, values)
    assert (law.n_points, law.b) == (3, pytest.approx(0.5))


def test_the_smallest_set_that_meets_the_target_is_named():
    found = conclude({"forces_meV_A": curve(90.0, 60.0, 42.0, 30.0, spread=1.0)}, {"forces_meV_A": 45.0})
    assert (found.smallest, found.largest) == (40, 80)
    assert found.sentence.startswith(
        "40 frames are the smallest set that meets the target, force RMSE of at most 45 meV/A: 42.0 +- 1.0."
    )
    assert "Doubling 80 frames to 160 is expected to bring the force RMSE from 30.0 +- 1.0 to" in found.sentence
    assert found.doubled == pytest.approx(30 * 2**-0.53, rel=0.05)


def test_a_set_beyond_which_the_target_is_missed_again_does_not_count():
    found = conclude({"forces_meV_A": curve(90.0, 40.0, 60.0, 30.0)}, {"forces_meV_A": 45.0})
    assert found.smallest == 80


def test_all_quantities_of_a_target_must_be_met():
    curves = {"forces_meV_A": curve(40.0, 20.0, 10.0, 5.0), "energy_kJ_mol": curve(4.0, 2.0, 1.0, 0.5)}
    assert conclude(curves, {"forces_meV_A": 50.0, "energy_kJ_mol": 1.1}).smallest == 40


def test_a_target_within_the_error_is_said_to_be_so():
    found = conclude({"forces_meV_A": curve(90.0, 60.0, 44.5, 30.0, spread=1.0)}, {"forces_meV_A": 45.0})
    assert "Within its error it may miss it" in found.sentence


def test_a_target_out_of_reach_is_extrapolated_as_far_as_that_goes():
    curves = {"forces_meV_A": curve(*(300 / np.sqrt(SIZES)), spread=0.3)}
    near = conclude(curves, {"forces_meV_A": 25.0})
    assert near.smallest is None
    assert near.needed == pytest.approx(144.0, rel=0.01)
    assert "about 144 +-" in near.sentence
    far = conclude(curves, {"forces_meV_A": 3.0})
    assert "125 times as many as were tried: no more than a hint" in far.sentence
    assert "smallest set" not in far.sentence


def test_errors_that_do_not_fall_promise_nothing():
    found = conclude({"forces_meV_A": curve(50.0, 51.0, 49.0, 52.0, spread=2.0)}, {"forces_meV_A": 10.0})
    assert found.needed is None
    assert "do not fall" in found.sentence
    assert "within the error of b" in found.sentence


@pytest.mark.parametrize("limit", [1.0, 99.9, 100.1, 1e6])
def test_a_curve_that_is_nearly_flat_breaks_nothing(limit):
    found = conclude({"forces_meV_A": curve(100.0, 99.99999, 99.99998, 99.99997)}, {"forces_meV_A": limit})
    assert (found.smallest == 10) == (limit > 100)
    assert found.needed is None or found.needed <= 1e9


def test_one_size_promises_nothing_either():
    found = conclude({"energy_kJ_mol": curve(2.0)}, {})
    assert (found.doubled, found.quantity) == (None, "energy_kJ_mol")
    assert "tells nothing" in found.sentence


def test_a_target_without_errors_is_refused():
    with pytest.raises(StudyError, match=r"names \['forces_meV_A'\]"):
        conclude({"energy_kJ_mol": curve(2.0)}, {"forces_meV_A": 3.0})
    with pytest.raises(StudyError, match="neither energies nor forces"):
        conclude({"stress_meV_A3": curve(2.0)}, {})


def test_errors_of_a_training_become_quantities():
    errors = {
        "n_frames": 3,
        "energy_rmse_kJ_mol_per_molecule": 0.4,
        "energy_std_kJ_mol_per_molecule": 2.0,
        "energy_rmse_percent": 20.0,
        "forces_rmse_meV_A": 30.0,
        "forces_by_element": {"O": {"rmse_meV_A": 40.0, "rmse_percent": 4.0, "std_meV_A": 1000.0}},
    }
    assert flatten_errors(errors) == {
        "energy_kJ_mol": 0.4,
        "energy_percent": 20.0,
        "forces_meV_A": 30.0,
        "forces_O_meV_A": 40.0,
        "forces_O_percent": 4.0,
    }
    assert flatten_spreads(errors) == {"energy_kJ_mol": 2.0, "forces_O_meV_A": 1000.0}


def test_quantities_are_called_by_their_names():
    assert (title_of("forces_O_meV_A"), unit_of("forces_O_meV_A")) == ("force RMSE of O", "meV/A")
    assert (title_of("forces_meV_A"), unit_of("forces_percent")) == ("force RMSE", "% of the standard deviation")
    assert (title_of("energy_kJ_mol"), unit_of("energy_kJ_mol")) == ("energy RMSE", "kJ/mol per molecule")
    assert unit_of("stress_meV_A3") == "meV/A^3"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"force": 3.0}, "unknown quantity 'force'"),
        ({"forces_meV_A": -1.0}, "must be a positive number in meV/A"),
        ({"forces_meV_A": "small"}, "must be a positive number"),
        ({"forces_O_meV_A": 3.0, "energy_percent": 2}, None),
    ],
)
def test_targets_are_checked(target, message):
    problem = target_problem(target)
    assert (problem is None) if message is None else (message in problem)
