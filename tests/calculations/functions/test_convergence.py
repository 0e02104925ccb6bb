"""Averages against the size of the training set: numbers, verdicts and sentences that are known."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm

from aiida_mlfinetune.calculations.functions.convergence import collect_convergence, parse_label
from aiida_mlfinetune.calculations.functions.reference_averages import move_to_reference
from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from tests.fixtures.averages import moved, observable

TARGET = {"sublimation_enthalpy_kJ_mol": 0.5, "density_percent": 1.0}
RUNS = {10: (59.8, 0.95), 20: (58.3, 0.927), 40: (58.1, 0.921)}


def collect(runs=None, reference=(58.2, -0.1), reliable=True, errors=(0.1, 0.05), target=TARGET, failed=None):
    """Return the convergence of one mode with one seed, whose largest set was reweighted."""
    averages = {}
    runs = RUNS if runs is None else runs
    for size, (enthalpy, density) in runs.items():
        averages[f"sublimation_enthalpy_naive_n{size}_s1"] = observable("sublimation_enthalpy", enthalpy)
        averages[f"density_naive_n{size}_s1"] = observable("density", density, 0.001)
    averages["reference_sublimation_enthalpy"] = moved("sublimation_enthalpy", *reference, errors, reliable=reliable)
    averages["reference_density"] = moved("density", 0.921, 0.001, (0.001, 0.0005), reliable=reliable)
    name = orm.Str(f"naive_n{max(runs)}_s1")
    return collect_convergence(orm.Dict(target), name, orm.Dict(failed or {}), **averages)


def test_the_smallest_sufficient_set_is_named(aiida_profile):
    result = collect()
    assert result.details["smallest"] == {"naive": 20}
    rows = result.details["verdicts"]["naive"]
    assert {size: row["verdict"] for size, row in rows.items()} == {"10": "missed", "20": "met", "40": "met"}
    assert rows["20"]["sublimation_enthalpy"]["difference"] == pytest.approx(0.2)
    assert rows["20"]["sublimation_enthalpy"]["error"] == pytest.approx(np.sqrt(0.1**2 + 0.1**2 + 0.05**2))
    assert rows["40"]["sublimation_enthalpy"] == {
        "difference": pytest.approx(0.1),
        "error": 0.05,
        "allowed": 0.5,
        "verdict": "met",
    }
    assert result.details["sentences"]["naive"].startswith("the smallest sufficient set has 20 frames")
    assert (result.value, result.error, result.unit) == (pytest.approx(0.1), 0.05, "kJ/mol")
    assert result.arrays()["naive/density"].tolist() == [[0.95], [0.927], [0.921]]
    assert result.conditions["n_train"] == 40


def test_no_set_is_named_where_none_suffices_or_the_reference_is_unreliable(aiida_profile):
    missed = collect({10: (59.8, 0.95), 20: (59.5, 0.93)}, (59.5, -1.3))
    assert missed.details["smallest"] == {"naive": None}
    assert missed.details["sentences"]["naive"].startswith("more than 20 frames are needed")
    hopeless = collect(reliable=False)
    assert hopeless.details["smallest"] == {"naive": None}
    assert "the reference itself is unreliable" in hopeless.details["sentences"]["naive"]
    noisy = collect(errors=(0.1, 2.0))
    assert noisy.details["smallest"] == {"naive": None}
    assert "run longer" in noisy.details["sentences"]["naive"]


def test_seeds_are_averaged_and_modes_kept_apart(aiida_profile):
    averages = {f"density_naive_n{n}_s{s}": observable("density", 0.9 + 0.01 * s) for n in (10, 20) for s in (1, 2)}
    averages["density_from_nothing_n20_s1"] = observable("density", 0.8, 0.001)
    averages["reference_density"] = moved("density", 0.91, 0.005, (0.001, 0.0005))
    target = orm.Dict({"density_percent": 1.0, "sublimation_enthalpy_kJ_mol": None})
    result = collect_convergence(target, orm.Str("naive_n20_s1"), orm.Dict({}), **averages)
    arrays = result.arrays()
    np.testing.assert_allclose(arrays["naive/density"], [[0.91, 0.92], [0.91, 0.92]])
    np.testing.assert_allclose(arrays["from_nothing/density"], [[np.nan, np.nan], [0.8, np.nan]])
    assert result.details["verdicts"]["naive"]["20"]["density"]["difference"] == pytest.approx(0.0)
    assert result.details["verdicts"]["from_nothing"]["20"]["verdict"] == "missed"


def test_what_cannot_be_collected_is_refused(aiida_profile):
    density = observable("density", 0.9)
    for averages, message in (
        ({"density_naive_n1_s1": density}, "no average at the reference level"),
        ({"reference_density": moved("density", 0.9, 0.0)}, "no average of any model"),
    ):
        with pytest.raises(StudyError, match=message):
            collect_convergence(orm.Dict(TARGET), orm.Str("naive_n1_s1"), orm.Dict({}), **averages)
    assert parse_label("multi_head2_n50_s12") == ("multi_head2", 50, 12)
    with pytest.raises(StudyError, match="must be called <mode>_n<size>_s<seed>"):
        parse_label("best")


def test_an_average_is_moved_by_the_shift_of_its_own_run_only(aiida_profile):
    average = observable("density", 0.92, 0.001)
    other = {"level": "dft/cp2k"}
    known = {"reliable": True, "verdict": "reliable", "n_effective": 30.0, "n_frames": 40, "spread_kT": 0.5}
    shift = {"value": 0.004, "error": 0.0005}
    reweighted = observable("density", 0.93, 0.002, other, shift=shift, **known)
    result = move_to_reference(average, reweighted)
    assert (result.value, result.error) == (pytest.approx(0.924), pytest.approx(np.hypot(0.001, 0.0005)))
    assert result.conditions["level"] == "dft/cp2k"
    hot = observable("density", 0.93, 0.002, {**other, "temperature_K": 200.0}, shift=shift, **known)
    for wrong, message in (
        (hot, "averaged at temperature_K 100.0, but reweighted at 200.0"),
        (observable("enthalpy_crystal", -58.0, shift=shift, **known), "cannot be moved by"),
        (observable("density", 0.93), "cannot be moved by"),
    ):
        with pytest.raises(MlFinetuneError, match=message):
            move_to_reference(average, wrong)
