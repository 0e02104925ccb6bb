"""Targets: what meets them, what cannot be told, and the smallest set that suffices."""

from __future__ import annotations

import pytest

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.averages.thermodynamics import Estimate
from aiida_mlfinetune.science.conclusions.closed_loop import GO_ON, STOP, Budget, next_step
from aiida_mlfinetune.science.conclusions.targets import (
    PropertyTarget,
    Verdict,
    combine,
    judge,
    judged_quantities,
    mean_over_seeds,
    smallest_sufficient,
)

MET, MISSED, UNDECIDED = Verdict.MET, Verdict.MISSED, Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("difference", "error", "verdict"),
    [
        (0.3, 0.2, MET),
        (-0.5, 0.5, MET),
        (0.3, 0.6, UNDECIDED),
        (-0.7, 0.3, UNDECIDED),
        (-0.9, 0.3, MISSED),
        (0.0, float("inf"), UNDECIDED),
        (100.0, float("inf"), UNDECIDED),
    ],
)
def test_a_difference_that_is_not_resolved_meets_nothing(difference, error, verdict):
    assert judge(Estimate(difference, error), 0.5) is verdict


def test_a_density_is_judged_in_percent_and_the_crystal_alone_by_its_energy():
    target = PropertyTarget()
    assert target.allowed("density", 0.92) == pytest.approx(0.0092)
    assert target.allowed("sublimation_enthalpy", 58.0) == target.allowed("potential_energy", -1e4) == 0.5
    assert judged_quantities(["potential_energy", "density"]) == ["potential_energy", "density"]
    assert judged_quantities(["density", "sublimation_enthalpy", "potential_energy"]) == [
        "sublimation_enthalpy",
        "density",
    ]
    assert PropertyTarget(density_percent=None).allowed("density", 1.0) is None


def test_a_set_suffices_only_with_all_larger_ones():
    assert smallest_sufficient({10: MISSED, 20: MET, 40: MET}) == 20
    assert smallest_sufficient({10: MET, 20: MISSED, 40: MET}) == 40
    assert smallest_sufficient({10: MET, 20: MET, 40: UNDECIDED}) is None
    assert smallest_sufficient({}) is None


def test_several_targets_at_once():
    assert combine([MET, MET]) is MET
    assert combine([MET, UNDECIDED, MISSED]) is MISSED
    assert combine([MET, UNDECIDED]) is UNDECIDED


def test_seeds_are_averaged_with_the_larger_of_two_errors():
    assert mean_over_seeds([Estimate(2.0, 0.3)]) == Estimate(2.0, 0.3)
    assert mean_over_seeds([Estimate(1.0, 0.3), Estimate(1.0, 0.4)]) == Estimate(1.0, pytest.approx(0.25))
    assert mean_over_seeds([Estimate(1.0, 0.1), Estimate(3.0, 0.1)]) == Estimate(2.0, pytest.approx(1.0))
    with pytest.raises(StudyError):
        mean_over_seeds([])


def test_a_loop_ends_when_the_target_is_met_or_the_budget_is_spent():
    budget = Budget(max_rounds=3, max_labels=100)
    assert next_step(MET, 1, 40, 40, budget)[0] == STOP
    assert next_step(MISSED, 1, 40, 40, budget)[0] == GO_ON
    assert next_step(UNDECIDED, 1, 40, 40, budget)[0] == GO_ON
    assert next_step(MISSED, 3, 40, 10, budget) == (STOP, "the budget of 3 rounds is spent")
    step, reason = next_step(MISSED, 2, 80, 40, budget)
    assert (step, reason.startswith("80 of 100 labels are spent")) == (STOP, True)
    assert next_step(MISSED, 2, 10**6, 10**6, Budget(max_rounds=3))[0] == GO_ON


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (PropertyTarget, {"density": 1.0}, "unknown quantities \\['density'\\]"),
        (PropertyTarget, {"density_percent": 0.0}, "must be a positive number"),
        (PropertyTarget, {"density_percent": None, "sublimation_enthalpy_kJ_mol": None}, "there is no target"),
        (Budget, {"rounds": 1}, "unknown entries \\['rounds'\\]"),
        (Budget, {"max_rounds": 0}, "max_rounds of the budget is 0"),
        (Budget, {"max_rounds": None}, "max_rounds of the budget is None"),
    ],
)
def test_what_cannot_be_is_refused(make, values, message):
    with pytest.raises(StudyError, match=message):
        make.from_dict(values)
    assert make.from_dict(make().to_dict()) == make()
